"""Which plane may do what with which record type; everything else is refused and logged."""

from enum import Flag, auto

import structlog

from doorward.errors import PermissionDeniedError
from doorward.rpc.planes import Plane

_log = structlog.stdlib.get_logger(__name__)


class Verb(Flag):
    """What can be done with records."""

    GET = auto()
    LIST = auto()
    QUERY = auto()
    CREATE = auto()
    """A put that demands that there is no such record."""
    PUT = auto()
    DELETE = auto()
    WATCH = auto()


_READ = Verb.GET | Verb.WATCH
_OWN = Verb.GET | Verb.LIST | Verb.QUERY | Verb.CREATE | Verb.PUT | Verb.DELETE

_RIGHTS: dict[Plane, dict[str, Verb]] = {
    Plane.AUTHENTICATE: {
        "Session": _OWN,
        "SessionTokens": _OWN,
        "SessionUpstreamToken": _OWN,
        "User": _OWN,
        "SpentCode": Verb.CREATE,
        "SessionActivity": Verb.GET,
        "SignInStop": Verb.GET,
        "IssuerKeys": Verb.GET | Verb.PUT,
    },
    Plane.AUTHORIZE: {
        "Session": _READ,
        "User": _READ,
        "ServiceAccount": _READ,
        "IssuerKeys": _READ,
        "DirectoryUser": _READ,
        "DirectoryGroup": _READ,
        "DirectoryState": _READ,
        "SessionUpstreamToken": _READ,
        "Grant": _READ,
        "ExternalRecord": _READ,
        "ExternalSource": _READ,
        "SessionActivity": Verb.GET | Verb.PUT,
        "Refusal": Verb.GET | Verb.PUT,
    },
    Plane.PROXY: {"SpentCode": Verb.CREATE},
    Plane.OPERATOR: {
        "Session": Verb.GET | Verb.LIST | Verb.QUERY,
        "User": Verb.GET | Verb.LIST | Verb.QUERY,
        "ServiceAccount": Verb.GET | Verb.LIST | Verb.CREATE | Verb.DELETE,
        "SessionActivity": Verb.GET,
        "Grant": Verb.GET | Verb.LIST | Verb.QUERY | Verb.CREATE | Verb.DELETE,
        "ExternalRecord": _OWN,
        "ExternalSource": _OWN,
        "DirectoryUser": Verb.GET | Verb.LIST,
        "DirectoryGroup": Verb.GET | Verb.LIST,
        "DirectoryState": Verb.GET | Verb.LIST,
    },
    Plane.DIRECTORY: {
        "DirectoryUser": _OWN,
        "DirectoryGroup": _OWN,
        "DirectoryState": _OWN,
        "ScimResource": _OWN,
        "User": Verb.QUERY,
    },
    Plane.DATABROKER: {},
}
_MAY_REVOKE = frozenset({Plane.OPERATOR, Plane.AUTHENTICATE, Plane.DIRECTORY})
_MAY_LEASE = frozenset({Plane.AUTHENTICATE, Plane.DATABROKER, Plane.DIRECTORY})


def require(plane: Plane, verb: Verb, record_type: str) -> None:
    """Return when ``plane`` may do ``verb`` with ``record_type``.

    Raises:
        PermissionDeniedError: it may not.
    """
    if verb not in _RIGHTS.get(plane, {}).get(record_type, Verb(0)):
        _refuse(plane, f"{(verb.name or 'nothing').lower()} `{record_type[:64]}`")


def require_revoke(plane: Plane) -> None:
    """Return when ``plane`` may end sessions.

    Raises:
        PermissionDeniedError: it may not.
    """
    if plane not in _MAY_REVOKE:
        _refuse(plane, "revoke")


def require_lease(plane: Plane) -> None:
    """Return when ``plane`` may take leases.

    Raises:
        PermissionDeniedError: it may not.
    """
    if plane not in _MAY_LEASE:
        _refuse(plane, "take leases")


def require_operate(plane: Plane) -> None:
    """Return when ``plane`` may copy the store, bring it back and seal it anew.

    Raises:
        PermissionDeniedError: it may not.
    """
    if plane is not Plane.OPERATOR:
        _refuse(plane, "operate the store")


def _refuse(plane: Plane, what: str) -> None:
    _log.warning("refused", caller=str(plane), what=what)
    raise PermissionDeniedError(f"{plane} may not {what}")
