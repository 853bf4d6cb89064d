"""Directories under test with the sources that read them: the fakes over HTTP, and slapd."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.support.fake_clock import FakeClock
from tests.support.rest_directory import (
    TENANT,
    FakeDirectory,
    FakeEntra,
    FakeGithub,
    FakeGoogle,
    FakeKeycloak,
    FakeOkta,
    Population,
)
from tests.support.slapd import ADMIN, PASSWORD, SUFFIX, Slapd, publish
from tests.unit.databroker.directory.builders import settings

from doorward.config.directory_settings import (
    Connection,
    EntraConnection,
    GithubConnection,
    GoogleConnection,
    KeycloakConnection,
    LdapConnection,
    OktaConnection,
)
from doorward.config.references import Reference
from doorward_databroker.directory.port import (
    Progress,
    Source,
)
from doorward_databroker.directory.roster import Roster
from doorward_databroker.directory.sources.all import make_source
from doorward_databroker.directory.sources.keycloak import KeycloakSource

REST = {
    "keycloak": FakeKeycloak,
    "github": FakeGithub,
    "okta": FakeOkta,
    "entra": FakeEntra,
    "google": FakeGoogle,
}
KEY = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
JOINS = {"entra": "tid+oid"}


@dataclass
class Bench:
    """A directory, and the source that reads it."""

    kind: str
    population: Population
    source: Source
    calls: Callable[[str], str]
    publish: Callable[[], None] = lambda: None
    fake: FakeDirectory | None = None
    slept: list[float] = field(default_factory=list)

    @property
    def nests(self) -> bool:
        return self.fake is None or self.fake.nests

    async def read(self) -> tuple[dict[str, set[str]], set[str]]:
        """People with the names of their groups, and who is inactive."""
        self.publish()
        roster = Roster()
        await self.source.read(roster, Progress())
        found, inactive = {}, set()
        for person, numbers in zip(roster.people, roster.memberships(), strict=True):
            name = person.display_name.split()[0].lower()
            found[name] = {roster.groups[number].name for number in numbers}
            assert person.join_value.split("\0")[-1] == person.entry_id
            if not person.active:
                inactive.add(name)
        return found, inactive

    def expected(self) -> dict[str, set[str]]:
        parents: dict[str, set[str]] = {}
        for group in self.population.groups:
            waiting, above = [group], {group}
            while waiting:
                child = waiting.pop()
                for parent, children in self.population.nested.items():
                    if child in children and parent not in above:
                        above.add(parent)
                        waiting.append(parent)
            parents[group] = above
        return {
            person: {
                self.calls(name)
                for group, members in self.population.members.items()
                if person in members
                for name in parents[group]
            }
            for person in self.population.people
        }


def population() -> Population:
    made = Population(people={f"person{n}": True for n in range(11)})
    made.join("everyone", *made.people)
    made.join("few", "person1", "person10")
    for n in range(7):
        made.join(f"team{n}", f"person{n}")
    made.groups["empty"] = "Empty"
    return made


def rest_bench(kind: str, folder: Path, *, page: int = 3, people: Population | None = None) -> Bench:
    known = people or population()
    fake = REST[kind](known, page)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    source = make_source(
        settings(kind=kind, join=JOINS.get(kind, "sub"), connection=connection(kind, folder)),
        fake.client(),
        FakeClock(),
    )
    source.rest._sleep = sleep  # type: ignore[attr-defined]  # only the REST sources have one
    if isinstance(source, KeycloakSource):
        source.page = page
    return Bench(kind, known, source, fake.calls, fake=fake, slept=slept)


def connection(kind: str, folder: Path) -> Connection:
    secret = folder / "secret"
    if not secret.exists():
        secret.write_text("secret")
    reference = Reference(folder, "file:secret")
    match kind:
        case "keycloak":
            return KeycloakConnection(url=FakeKeycloak.base, realm="corp", client_id="reader", client_secret=reference)
        case "github":
            return GithubConnection(url=FakeGithub.base, organisation="corp", token=reference)
        case "okta":
            return OktaConnection(url=FakeOkta.base, token=reference)
        case "entra":
            return EntraConnection(
                tenant=TENANT, client_id="c", client_secret=reference,
                login_url="https://login.microsoftonline.com", graph_url=FakeEntra.base,
            )  # fmt: skip
        case _:
            account = {"client_email": "reader@project.iam.example", "private_key": KEY, "private_key_id": "k"}
            (folder / "account").write_text(json.dumps(account))
            return GoogleConnection(
                customer="my_customer", administrator="root@example.com",
                service_account=Reference(folder, "file:account"), api_url=FakeGoogle.base,
                token_url="https://oauth2.googleapis.com/token",
            )  # fmt: skip


def ldap_connection(server: Slapd, folder: Path, **changes: Any) -> LdapConnection:
    (folder / "secret").write_text(PASSWORD)
    values: dict[str, Any] = {
        "url": server.tls_url, "bind_dn": ADMIN, "password": Reference(folder, "file:secret"),
        "ca_file": server.ca_file, "users_base": f"ou=people,{SUFFIX}", "users_filter": "(objectClass=inetOrgPerson)",
        "disabled_filter": "(employeeType=disabled)", "groups_base": f"ou=groups,{SUFFIX}",
        "groups_filter": "(objectClass=groupOfNames)", "entry_id": "entryUUID", "user_name": "cn", "user_email": "mail",
        "group_name": "cn", "group_email": "mail", "membership": "member", "member_attribute": "member",
        "page_size": 10, **changes,
    }  # fmt: skip
    return LdapConnection(**values)


def ldap_source(server: Slapd, folder: Path, **changes: Any) -> Source:
    made = settings(kind="ldap", join="entry_uuid", connection=ldap_connection(server, folder, **changes))
    return make_source(made, httpx.AsyncClient(), FakeClock())


def ldap_bench(server: Slapd, folder: Path) -> Bench:
    known = population()
    return Bench(
        "ldap", known, ldap_source(server, folder), lambda group: known.groups[group],
        publish=lambda: publish(server, known),
    )  # fmt: skip


def folder_of(bench: Bench) -> Path:
    connection = bench.source._settings.connection  # type: ignore[attr-defined]
    for name in ("client_secret", "token", "service_account"):
        if hasattr(connection, name):
            return Path(getattr(connection, name).folder)
    raise AssertionError
