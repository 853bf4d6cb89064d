"""Groups from a token: all of them, or not known; and which directory entry the claims name."""

import json
from typing import Any

import pytest

from doorward.config.directory_settings import DirectorySettings, OktaConnection
from doorward.config.references import Reference
from doorward.config.settings import IdentityProviderSettings
from doorward.identity.directory import directory_user_id, join_value
from doorward.identity.session import CLAIMS_NOT_KNOWN
from doorward.identity.user import User
from doorward.keys.secret import Secret
from doorward_authenticate.identity_providers.claims import CLAIMS_LIMIT_BYTES, personal_claims, user_from
from doorward_authenticate.identity_providers.id_token import VerifiedClaims

SETTINGS = IdentityProviderSettings(
    id="corp", name="Corp", issuer="https://idp.example.com", client_id="c", client_secret=Secret("s"),
    scopes=("openid",), signing_algorithms=("RS256",), email_domains=frozenset({"example.com"}), groups_claim="groups",
)  # fmt: skip


def user(claims: dict[str, Any], userinfo: dict[str, Any] | None = None, join: str | None = None) -> User:
    directory = None if join is None else directory_by(join)
    return user_from(SETTINGS, VerifiedClaims({"sub": "alice", **claims}), userinfo or {}, 0.0, directory)


def directory_by(join: str) -> DirectorySettings:
    from pathlib import Path

    return DirectorySettings(
        id="people", kind="okta", identity_provider_id="corp", join=join, group_names=True, every_seconds=300,
        stale_seconds=3600, removal_limit=0.2,
        connection=OktaConnection(url="https://x", token=Reference(Path(), "env:X")),
    )  # fmt: skip


@pytest.mark.parametrize("count", [0, 199, 200, 201, 5000])
def test_s63_groups_of_a_token_are_known_however_many_unless_it_says_that_some_are_left_out(count: int):
    groups = [f"g{n}" for n in range(count)]
    assert user({"groups": groups}).groups == frozenset(groups)
    # Entra names where the groups are, or only that there are some: then the claim is not to be believed.
    assert user({"groups": groups, "_claim_names": {"groups": "src1"}, "_claim_sources": {}}).groups is None
    assert user({"groups": groups, "hasgroups": True}).groups is None
    assert user({"groups": groups, "hasgroups": "true"}).groups is None


@pytest.mark.parametrize("claim", [None, "admins", {"a": 1}, ["a", 7], ["a", ""], [["a"]], True])
def test_s63_a_claim_that_is_no_list_of_names_leaves_groups_unknown(claim: object):
    assert user({"groups": claim}).groups is None
    assert user({}).groups is None


def test_s63_overage_in_userinfo_counts_too():
    assert user({"groups": ["a"]}, {"_claim_names": {"groups": "src1"}}).groups is None


def test_the_entry_that_claims_name_is_the_one_that_the_directory_writes():
    assert user({}, join="sub").directory_user_id == directory_user_id("people", "sub", "alice")
    assert user({"tid": "t", "oid": "o"}, join="tid+oid").directory_user_id == directory_user_id(
        "people", "tid+oid", "t\0o"
    )
    assert user({"employee": 7}, join="employee").directory_user_id == directory_user_id("people", "employee", "7")


@pytest.mark.parametrize(
    "claims", [{}, {"tid": "t"}, {"oid": "o"}, {"tid": "t", "oid": ""}, {"tid": "t", "oid": ["o"]}]
)
def test_claims_that_name_nobody_join_nobody(claims: dict[str, Any]):
    assert user(claims, join="tid+oid").directory_user_id == ""


@pytest.mark.parametrize(
    ("claims", "joins"),
    [
        ({"email": "Alice@Example.com", "email_verified": True}, True),
        ({"email": "alice@example.com", "email_verified": "true"}, False),
        ({"email": "alice@example.com"}, False),
        ({"email": "alice@elsewhere.example", "email_verified": True}, False),
    ],
)
def test_an_address_joins_only_when_verified_by_an_authority_for_it(claims: dict[str, Any], joins: bool):
    found = user(claims, join="verified_email").directory_user_id
    assert found == (directory_user_id("people", "verified_email", "alice@example.com") if joins else "")


@pytest.mark.parametrize(
    ("claims", "userinfo", "email", "trusted"),
    [
        ({"email": "a@example.com", "email_verified": True}, {}, "a@example.com", True),
        ({"email": "a@example.com"}, {"email": "A@example.com", "email_verified": True}, "a@example.com", True),
        ({}, {"email": "a@example.com", "email_verified": True}, "a@example.com", True),
        # Each says something else: what the one verified is not what the other one names.
        ({"email": "boss@example.com"}, {"email": "a@example.com", "email_verified": True}, "boss@example.com", False),
        ({"email": "boss@example.com"}, {"email_verified": True}, "boss@example.com", False),
        ({"email_verified": True}, {"email": "boss@example.com"}, "boss@example.com", False),
        ({"email": "a@example.com", "email_verified": False}, {"email": "a@example.com", "email_verified": True},
         "a@example.com", False),
    ],
)  # fmt: skip
def test_an_address_is_verified_only_by_who_names_it(
    claims: dict[str, Any], userinfo: dict[str, Any], email: str, trusted: bool
):
    """In one document people may write what they like, in the other the identity provider speaks of what it has checked."""
    found = user(claims, userinfo)
    assert (found.email, found.trusted_email(None)) == (email, email if trusted else None)
    told = json.loads(personal_claims(VerifiedClaims({"sub": "alice", **claims}), userinfo))
    assert (told["email"], told.get("email_verified") is True) == (email, trusted)


def test_two_identity_providers_with_one_address_are_two_people_with_two_entries():
    """The directory of one must not speak of the users of the other."""
    other = IdentityProviderSettings(
        id="second", name="Second", issuer="https://second.example.com", client_id="c", client_secret=Secret("s"),
        scopes=("openid",), signing_algorithms=("RS256",), email_domains=frozenset({"example.com"}), groups_claim=None,
    )  # fmt: skip
    claims = VerifiedClaims({"sub": "alice", "email": "alice@example.com", "email_verified": True})
    first = user_from(SETTINGS, claims, {}, 0.0, directory_by("sub"))
    second = user_from(other, claims, {}, 0.0, None)
    assert first.id != second.id
    assert first.directory_user_id
    assert second.directory_user_id == ""


def test_parts_of_a_join_cannot_be_shifted():
    assert join_value("a+b", {"a": "x", "b": "yz"}) != join_value("a+b", {"a": "xy", "b": "z"})


def test_more_claims_than_a_session_holds_are_not_known_and_not_none():
    """Whoever may write a long text about themselves must not get rid of a claim that bars them."""
    long = "x" * CLAIMS_LIMIT_BYTES
    assert personal_claims(VerifiedClaims({"sub": "alice", "blocked": "yes"}), {"bio": long}) == CLAIMS_NOT_KNOWN
    assert personal_claims(VerifiedClaims({"sub": "alice"}), {}) == b"{}"
