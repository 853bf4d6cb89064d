"""The planes' names, as callers are known by."""

from enum import StrEnum


class Plane(StrEnum):
    """Who calls. On Unix sockets the socket says it; with mutual TLS the certificate will."""

    AUTHENTICATE = "authenticate"
    AUTHORIZE = "authorize"
    PROXY = "proxy"
    DATABROKER = "databroker"
    DIRECTORY = "directory"
    """The databroker plane's worker that reads directories; a process of its own, with credentials of its own."""
    OPERATOR = "operator"
    """A person at the command line, with access to the run folder."""
