"""Routes: what a request for a host and path reaches, and nothing about who may.

    route   one route as a value, its id and its digest
    paths   paths that two servers could read differently

What does not belong here: policy, and anything of Envoy; the proxy plane turns routes into its configuration.
"""
