"""What each plane may do; whatever the table does not grant is refused."""

import pytest

from doorward.errors import PermissionDeniedError
from doorward.rpc.planes import Plane
from doorward_databroker.rights import Verb, require, require_lease, require_operate, require_revoke
from doorward_databroker.store.types import RECORD_TYPES

GRANTED = {
    (Plane.AUTHORIZE, Verb.WATCH, "Session"),
    (Plane.AUTHORIZE, Verb.PUT, "SessionActivity"),
    (Plane.PROXY, Verb.CREATE, "SpentCode"),
    (Plane.AUTHENTICATE, Verb.PUT, "Session"),
    (Plane.AUTHENTICATE, Verb.PUT, "SessionTokens"),
    (Plane.OPERATOR, Verb.LIST, "Session"),
}


def may(plane: Plane, verb: Verb, record_type: str) -> bool:
    try:
        require(plane, verb, record_type)
    except PermissionDeniedError:
        return False
    return True


@pytest.mark.parametrize(("plane", "verb", "record_type"), sorted(GRANTED, key=str))
def test_what_a_plane_needs_is_granted(plane: Plane, verb: Verb, record_type: str):
    assert may(plane, verb, record_type)


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


def test_s76_the_proxy_and_the_authorizer_can_neither_revoke_nor_lease_nor_operate():
    for plane in (Plane.PROXY, Plane.AUTHORIZE):
        for check in (require_revoke, require_lease, require_operate):
            with pytest.raises(PermissionDeniedError):
                check(plane)


@pytest.mark.parametrize("record_type", ["", "session", "Session ", "Nothing", "*"])
def test_a_type_that_is_none_is_nobodys(record_type: str):
    assert not any(may(plane, verb, record_type) for plane in Plane for verb in Verb)


def test_every_type_has_somebody_who_writes_it():
    for record_type in set(RECORD_TYPES) - {"SignInStop"}:  # which the databroker writes itself
        assert any(may(plane, verb, record_type) for plane in Plane for verb in (Verb.PUT, Verb.CREATE))
