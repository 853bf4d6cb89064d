"""gRPC between the planes: one way to serve, one way to call, one table of errors.

    server        Unix sockets, one for each calling plane; health, reflection, drain
    client        the one channel factory
    status        our errors and gRPC's codes, both ways
    planes        who may call: the planes' names

What does not belong here: Envoy's checks, which have a transport of their own, and what any service means.
"""
