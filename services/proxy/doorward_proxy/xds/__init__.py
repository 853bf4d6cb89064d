"""Envoy's delta discovery protocol, and the snapshots that it carries.

    snapshot       an immutable set of resources, each with a version made of its content
    subscription   what one client knows about one type: protocol state without I/O
    stream         one client: the order in which types are brought up to date, still without I/O
    server         the aggregated discovery service over a Unix socket

A refusal (NACK) is never counted as accepted: it is logged, counted and handed to the publisher.
"""
