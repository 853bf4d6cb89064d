"""gRPC between the planes: one way to serve, one way to call, one table of errors.

    server        Unix sockets, one for each calling plane, or certificates; health, reflection, drain
    grpc_server   the HTTP/2 below it, and below Envoy's checks
    client        the one channel factory
    status        our errors and gRPC's codes, both ways
    planes        who may call: the planes' names

What does not belong here: what any service means.
"""
