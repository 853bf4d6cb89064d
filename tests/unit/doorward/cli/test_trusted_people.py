"""An address names somebody who is to get something only when it is theirs."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from doorward.cli.grants import trusted_user_id, user_id_of
from doorward.config import load
from doorward.errors import ConfigurationError
from doorward.identity.user import User, user_id
from doorward.records.client import RecordClient
from doorward.records.record import Record

CORP, PARTNER = "https://corp.example", "https://partner.example"


class People:
    """A databroker that knows some people by their address, as it keeps it: verified or not."""

    def __init__(self, *people: User) -> None:
        self._people = people

    async def query(self, record_type: str, index: str, value: str) -> AsyncIterator[Record]:
        assert (record_type, index) == ("User", "email")
        for one in self._people:
            if one.email.lower() == value:
                yield Record(type="User", id=one.id, data=one.to_bytes())


def person(issuer: str, subject: str, *, verified: bool, email: str = "Alice@corp.example") -> User:
    return User(id=user_id(issuer, subject), issuer=issuer, subject=subject, email=email, email_verified=verified)


def client(*people: User) -> RecordClient:
    return cast("RecordClient", People(*people))


ALICE = person(CORP, "alice", verified=True)
IMPOSTOR = person(PARTNER, "mallory", verified=False)
PARTNERS_WORD = person(PARTNER, "mallory", verified=True)


async def test_whoever_writes_somebodys_address_into_their_profile_gets_nothing(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ConfigurationError, match="nobody with the verified address"):
        await trusted_user_id(client(IMPOSTOR), "alice@corp.example", "--user", None)
    assert await trusted_user_id(client(IMPOSTOR, ALICE), "alice@corp.example", "--user", None) == ALICE.id
    assert f"{ALICE.id} at {CORP}" in capsys.readouterr().err, "it is said whom the address has meant"


async def test_two_who_may_be_meant_are_named_and_neither_is_taken():
    with pytest.raises(ConfigurationError) as failed:
        await trusted_user_id(client(PARTNERS_WORD, ALICE), "alice@corp.example", "--owner", None)
    assert str(failed.value).startswith("--owner: error: 2 people with the verified address")
    assert ALICE.id in str(failed.value)
    with pytest.raises(ConfigurationError, match="2 people with the address"):
        await user_id_of(client(IMPOSTOR, ALICE), "alice@corp.example")
    assert await user_id_of(client(IMPOSTOR), "alice@corp.example") == IMPOSTOR.id, "taking away needs no proof"


async def test_with_a_configuration_only_a_provider_for_the_domain_vouches(monkeypatch: pytest.MonkeyPatch):
    class Settings:
        identity_providers: Any = ()

    class Provider:
        def __init__(self, issuer: str, domains: frozenset[str] | None) -> None:
            self.issuer, self.email_domains = issuer, domains

    settings = Settings()
    settings.identity_providers = (
        Provider(CORP, frozenset({"corp.example"})),
        Provider(PARTNER, frozenset({"partner.example"})),
    )
    monkeypatch.setattr(load, "load_settings", lambda *_, **__: settings)
    config = Path("doorward.yaml")
    assert await trusted_user_id(client(PARTNERS_WORD, ALICE), "alice@corp.example", "--user", config) == ALICE.id
    with pytest.raises(ConfigurationError, match="nobody"):
        await trusted_user_id(client(PARTNERS_WORD), "alice@corp.example", "--user", config)
    settings.identity_providers = (Provider(PARTNER, None),)
    with pytest.raises(ConfigurationError, match="nobody"):
        await trusted_user_id(client(ALICE), "alice@corp.example", "--user", config)
    # An id needs no word of anybody.
    assert await trusted_user_id(client(), ALICE.id, "--user", config) == ALICE.id
