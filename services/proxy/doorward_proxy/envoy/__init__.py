"""Envoy beside us: which binary, with what it starts, how it lives and ends.

    binary      finds it and checks its version
    bootstrap   what it needs to find the discovery service, and nothing more
    overload    what it does when memory or connections run out
    admin       its admin interface, a Unix socket that only we use
    figures     what it counts, for our metrics
    process     start, restart with back-off, drain
    validator   asks the binary whether it would accept a snapshot

What does not belong here: anything that says what Envoy serves; that is ``doorward_proxy.resources``.
"""
