"""Keys and the tokens made with them: one key for each purpose, nobody holds a master secret.

    keyring    the keys of one purpose: the first signs, all verify
    store      the key folder: one file a purpose, each plane reads only its own
    sealed     authenticated encryption that is safe for what anonymous callers can trigger
    handle     the session handle in a browser's cookie
    flow       the flow cookie and the signed redirect to the sign-in host
    assertion  key pairs for statements to upstreams, and the public set that upstreams fetch
    code       the one-time code that carries a sign-in to a protected host
    local_authority  certificates for a deployment that has none yet

What does not belong here: verifying anybody else's tokens (that is the authenticate plane's matter), and
records (the databroker's).
"""
