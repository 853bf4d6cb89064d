"""What each plane may do; whatever the table does not grant is refused."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.errors import PermissionDeniedError
from doorward.identity.service_account import ServiceAccount
from doorward.rpc.planes import Plane
from doorward_databroker.rights import Verb, require, require_lease, require_operate, require_revoke, shown_to
from doorward_databroker.store.types import RECORD_TYPES

GRANTED = """
Session               authenticate get list query create put delete
Session               authorize    get watch
Session               operator     get list query
SessionTokens         authenticate get list query create put delete
SessionUpstreamToken  authenticate get list query create put delete
SessionUpstreamToken  authorize    get watch
SessionActivity       authenticate get
SessionActivity       authorize    get put
SessionActivity       operator     get
SignInStop            authenticate get
SpentCode             authenticate create
User                  authenticate get list query create put delete
User                  authorize    get watch
User                  operator     get list query
User                  directory    query
ServiceAccount        authorize    get watch
ServiceAccount        operator     get list create delete
IssuerKeys            authenticate get put
IssuerKeys            authorize    get watch
Grant                 authorize    get watch
Grant                 operator     get list query create delete
ExternalRecord        authorize    get watch
ExternalRecord        operator     get list query create put delete
ExternalSource        authorize    get watch
ExternalSource        operator     get list query create put delete
DirectoryUser         authorize    get watch
DirectoryUser         operator     get list
DirectoryUser         directory    get list query create put delete
DirectoryGroup        authorize    get watch
DirectoryGroup        operator     get list
DirectoryGroup        directory    get list query create put delete
DirectoryState        authorize    get watch
DirectoryState        operator     get list
DirectoryState        directory    get list query create put delete
ScimResource          directory    get list query create put delete
Refusal               authorize    get put
"""
"""Written down a second time on purpose: a right that is added to the code has to be added here, and read."""


def granted() -> set[tuple[Plane, Verb, str]]:
    lines = [line.split() for line in GRANTED.strip().splitlines()]
    return {(Plane(plane), Verb[verb.upper()], kind) for kind, plane, *verbs in lines for verb in verbs}


def may(plane: Plane, verb: Verb, record_type: str) -> bool:
    try:
        require(plane, verb, record_type)
    except PermissionDeniedError:
        return False
    return True


def test_s76_every_plane_has_the_rights_that_are_written_down_and_no_other():
    found = {(plane, verb, kind) for plane in Plane for verb in Verb for kind in RECORD_TYPES if may(plane, verb, kind)}
    assert found == granted()


@pytest.mark.parametrize(
    ("plane", "targets"),
    [
        (Plane.OPERATOR, {"session_id", "user_id", "identity_provider_id", "group", "all_sessions"}),
        (Plane.AUTHENTICATE, {"session_id"}),
        (Plane.DIRECTORY, {"user_id"}),
        (Plane.AUTHORIZE, set()),
        (Plane.PROXY, set()),
        (Plane.DATABROKER, set()),
    ],
)
def test_s76_a_plane_ends_only_what_it_has_to(plane: Plane, targets: set[str]):
    """Whoever takes over a worker of a directory cannot sign everybody out."""
    allowed = set()
    for field in pb.RevokeRequest.DESCRIPTOR.oneofs_by_name["target"].fields:
        with suppress(PermissionDeniedError):
            require_revoke(plane, field.name)
            allowed.add(field.name)
    assert allowed == targets


@pytest.mark.parametrize(
    ("refused", "what"),
    [
        (lambda: require(Plane.PROXY, Verb.PUT, "Session"), "put `Session`"),
        (lambda: require_revoke(Plane.DIRECTORY, "all_sessions"), "revoke by all_sessions"),
        (lambda: require_lease(Plane.PROXY), "take leases"),
        (lambda: require_operate(Plane.DIRECTORY), "operate the store"),
    ],
)
def test_what_is_refused_is_logged_with_who_wanted_it(refused: Callable[[], None], what: str):
    with capture_logs() as logs, pytest.raises(PermissionDeniedError, match="may not"):
        refused()
    assert [(line["event"], line["what"]) for line in logs] == [("refused", what)]
    assert logs[0]["caller"] in {"proxy", "directory"}


def test_s74_an_operator_sees_no_hash_of_a_token_and_an_authorizer_does():
    account = ServiceAccount(
        id="sa-1", name="ci", groups=frozenset({"a"}), token_hash=b"a real hash", created_at=1.0, expires_at=2.0
    )
    for plane, hash_shown in ((Plane.OPERATOR, False), (Plane.AUTHORIZE, True)):
        shown = shown_to(plane, pb.Record(type="ServiceAccount", id="sa-1", data=account.to_bytes()))
        assert (b"a real hash" in shown.data) is hash_shown
        assert replace(ServiceAccount.from_bytes(shown.data), token_hash=b"a real hash") == account


def test_s74_tokens_are_read_by_authenticate_alone():
    """A list of secrets for viewers is how they get out; no right shows them, and no other plane could open them."""
    readers = {plane for plane in Plane for verb in Verb if may(plane, verb, "SessionTokens")}
    assert readers == {Plane.AUTHENTICATE}


def test_s74_one_time_codes_are_listed_and_read_by_nobody():
    granted = {(plane, verb) for plane in Plane for verb in Verb if may(plane, verb, "SpentCode")}
    assert {verb for _, verb in granted} == {Verb.CREATE}


def test_s76_nobody_but_its_owner_writes_what_decisions_are_made_of():
    for record_type, owner in (("Session", Plane.AUTHENTICATE), ("User", Plane.AUTHENTICATE),
                               ("DirectoryUser", Plane.DIRECTORY), ("DirectoryGroup", Plane.DIRECTORY)):  # fmt: skip
        writers = {
            plane for plane in Plane for verb in (Verb.PUT, Verb.CREATE, Verb.DELETE) if may(plane, verb, record_type)
        }
        assert writers == {owner}


def test_s76_the_proxy_and_the_authorizer_can_neither_lease_nor_operate():
    for plane in (Plane.PROXY, Plane.AUTHORIZE):
        for check in (require_lease, require_operate):
            with pytest.raises(PermissionDeniedError):
                check(plane)


@pytest.mark.parametrize("record_type", ["", "session", "Session ", "Nothing", "*"])
def test_a_type_that_is_none_is_nobodys(record_type: str):
    assert not any(may(plane, verb, record_type) for plane in Plane for verb in Verb)


def test_every_type_has_somebody_who_writes_it():
    for record_type in set(RECORD_TYPES) - {"SignInStop"}:  # which the databroker writes itself
        assert any(may(plane, verb, record_type) for plane in Plane for verb in (Verb.PUT, Verb.CREATE))
