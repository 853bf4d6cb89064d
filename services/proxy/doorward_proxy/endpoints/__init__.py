"""Our pages on protected hosts: under ``/.doorward/``, and the key set.

    callback   the browser returns from sign-in with a one-time code
    whoami     who the browser is here
    sign_out   end this session
    jwks       the public keys that verify upstream assertions

Only what the protected application's own script may do anyway belongs here; the rest lies on the sign-in host. Requests
come from Envoy over a Unix socket, were checked by authorize, and carry its headers; a client's own were deleted.
"""
