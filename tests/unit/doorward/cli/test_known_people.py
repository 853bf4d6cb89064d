from types import SimpleNamespace

import pytest

from doorward.cli.known_people import _Reader, _Records
from doorward.config.settings import Settings
from doorward.identity.directory import DirectoryGroup, DirectoryState, DirectoryUser, directory_group_id
from doorward.identity.session import CLAIMS_NOT_KNOWN, Session
from doorward.identity.user import User
from doorward.policy.access import PERSON

CORP = SimpleNamespace(id="corp", issuer="https://login.example.com", email_domains=frozenset({"example.com"}))
DIRECTORY = SimpleNamespace(id="people", identity_provider_id="corp", stale_seconds=100.0)
NOW = 1_000.0


def settings(*directories: object) -> Settings:
    """As much of the settings as people are judged by."""
    return SimpleNamespace(  # type: ignore[return-value]  # the rest is not looked at
        identity_providers=(CORP,),
        directories=directories,
        directory_of=lambda _: next(iter(directories), None),
        identity_provider=lambda name: CORP if name == "corp" else None,
    )


def user(**changes: object) -> User:
    values: dict[str, object] = {
        "id": "u1", "issuer": CORP.issuer, "subject": "s", "email": "a@example.com", "email_verified": True,
        "groups": frozenset({"eng"}), **changes,
    }  # fmt: skip
    return User(**values)  # type: ignore[arg-type]  # what the fields take


def session(claims: bytes, expires_at: float = NOW + 1) -> Session:
    return Session(
        id="s",
        user_id="u1",
        identity_provider_id="corp",
        issued_at=1.0,
        authenticated_at=1.0,
        expires_at=expires_at,
        claims_json=claims,
    )


def only(records: _Records, *directories: object):
    (person,) = _Reader(settings(*directories), NOW).people(records)
    return person


def test_who_has_signed_in_is_known_by_what_was_verified():
    person = only(_Records(users=[user()], sessions={"u1": session(b'{"team": "blue"}')}))
    assert (person.name, person.user_id, person.known) == ("a@example.com", "u1", PERSON)
    assert (person.facts.email, person.facts.groups) == ("a@example.com", {"eng"})
    assert person.facts.claims == {"team": "blue"}


def test_claims_of_somebody_without_a_session_are_open_and_not_absent():
    assert only(_Records(users=[user()])).known == PERSON - {"claim"}
    assert only(_Records(users=[user()], sessions={"u1": session(CLAIMS_NOT_KNOWN)})).known == PERSON - {"claim"}
    assert only(_Records(users=[user()], sessions={"u1": session(b"{}", NOW)})).known == PERSON - {"claim"}


def test_an_address_counts_as_little_as_it_does_in_a_decision():
    assert only(_Records(users=[user(email_verified=False)])).facts.email is None
    assert only(_Records(users=[user(email="a@elsewhere.example")])).facts.email is None


@pytest.mark.parametrize(
    ("person", "standing"),
    [
        (user(active=False), "account inactive"),
        (user(issuer="https://gone.example"), "identity provider no longer accepted"),
    ],
)
def test_who_is_denied_whatever_policy_says_is_told_apart(person, standing):
    assert only(_Records(users=[person])).standing == standing


def entry(**changes: object) -> DirectoryUser:
    values: dict[str, object] = {
        "directory_id": "people", "entry_id": "e", "join_value": "s", "group_numbers": (7,), "email": "a@example.com",
        **changes,
    }  # fmt: skip
    return DirectoryUser(**values)  # type: ignore[arg-type]  # what the fields take


def directory_records(people: list[User], found: DirectoryUser, synchronised_at: float | None = 950.0) -> _Records:
    group = DirectoryGroup(directory_id="people", group_id="g7", number=7, name="Engineering")
    return _Records(
        users=people,
        entries={"people/e": found},
        groups={directory_group_id("people", 7): group},
        states={"people": DirectoryState(synchronised_at=synchronised_at)},
    )


def test_the_directory_replaces_the_groups_of_the_identity_provider():
    signed_in = [user(directory_user_id="people/e")]
    assert only(directory_records(signed_in, entry()), DIRECTORY).facts.groups == {"g7", "Engineering"}
    assert only(directory_records(signed_in, entry(), None), DIRECTORY).facts.groups is None
    assert only(directory_records(signed_in, entry(), 900.0), DIRECTORY).facts.groups is None
    assert only(directory_records(signed_in, entry(groups_known=False)), DIRECTORY).facts.groups is None
    assert only(directory_records(signed_in, entry(group_numbers=(7, 8))), DIRECTORY).facts.groups is None
    assert only(directory_records(signed_in, entry(active=False)), DIRECTORY).standing == "inactive in the directory"


def test_who_has_not_signed_in_yet_is_asked_about_too():
    person = only(directory_records([], entry()), DIRECTORY)
    assert (person.name, person.note) == ("a@example.com", "has not signed in yet")
    assert (person.facts.email, person.facts.groups) == ("a@example.com", {"g7", "Engineering"})
    assert person.known == PERSON - {"claim"}
    stranger = only(directory_records([], entry(email="a@elsewhere.example")), DIRECTORY)
    assert stranger.facts.email is None
    assert only(directory_records([], entry(removed=True)), DIRECTORY).standing == "inactive in the directory"
