"""Which plane may do what with which record type; everything else is refused and logged."""

from enum import Flag, auto

import structlog
from google.protobuf.message import DecodeError

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.api.service_account.v1 import service_account_pb2
from doorward.errors import DataCorruptedError, PermissionDeniedError
from doorward.identity.service_account import RECORD_TYPE as SERVICE_ACCOUNT
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
    Plane.PROXY: {},
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
_MAY_REVOKE: dict[Plane, frozenset[str]] = {
    Plane.OPERATOR: frozenset({"session_id", "user_id", "identity_provider_id", "group", "all_sessions"}),
    Plane.AUTHENTICATE: frozenset({"session_id"}),
    Plane.DIRECTORY: frozenset({"user_id"}),
}
"""What each plane may name as that which is to end, by field of the request."""
_NOT_SHOWN = b"not shown"
_MAY_LEASE = frozenset({Plane.AUTHENTICATE, Plane.DATABROKER, Plane.DIRECTORY})


def require(plane: Plane, verb: Verb, record_type: str) -> None:
    """Return when ``plane`` may do ``verb`` with ``record_type``.

    Raises:
        PermissionDeniedError: it may not.
    """
    if verb not in _RIGHTS.get(plane, {}).get(record_type, Verb(0)):
        _refuse(plane, f"{(verb.name or 'nothing').lower()} `{record_type[:64]}`")


def require_revoke(plane: Plane, target: str) -> None:
    """Return when ``plane`` may end sessions that are named by ``target``, a field of the request.

    Raises:
        PermissionDeniedError: it may not.
    """
    if target not in _MAY_REVOKE.get(plane, frozenset()):
        _refuse(plane, f"revoke by {target or 'nothing'}")


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


def shown_to(plane: Plane, record: pb.Record) -> pb.Record:
    """``record`` as ``plane`` may see it: a person gets no hash of a token, which only authorizers compare.

    The field stays filled, so that readers of any version find a whole account.

    Raises:
        DataCorruptedError: what holds a hash does not parse, so that it cannot be taken out.
    """
    if plane is Plane.OPERATOR and record.type == SERVICE_ACCOUNT:
        try:
            account = service_account_pb2.ServiceAccount.FromString(record.data)
        except DecodeError:
            raise DataCorruptedError(f"`{record.type}` `{record.id}` does not parse") from None
        account.token_hash = _NOT_SHOWN
        record.data = account.SerializeToString()
    return record


def _refuse(plane: Plane, what: str) -> None:
    _log.warning("refused", caller=str(plane), what=what)
    raise PermissionDeniedError(f"{plane} may not {what}")
