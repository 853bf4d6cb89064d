"""Settings become Envoy's messages: pure functions, no I/O, no clock.

    surroundings   the sockets and names that every part agrees on
    messages       constructors for messages that are needed all over
    http_filters   the HTTP filters, in their one order
    listeners      the public listener and its connection manager
    routes         one virtual host for each host, kept apart until the last step
    clusters       where requests and checks go
    tls            both sides' TLS contexts; the certificate travels as a secret
    build          all of it as one snapshot

Whatever is added here must be added to ``doorward_proxy.gate`` too, which is the point of the gate.
"""
