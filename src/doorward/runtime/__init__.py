"""Running: one plane as a service, and a whole deployment as a family of processes.

    service    start, readiness, signals and ordered shutdown of one plane
    children   child processes that cannot outlive us
    folder     the data folder and its lock
    deployment all planes, the store and Envoy on one machine, started and stopped in order

What does not belong here: what a plane does.
"""
