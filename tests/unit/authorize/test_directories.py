"""What a directory says reaches the decision, and nothing else does when it cannot be relied on."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.authorize.builders import CONFIG, ISSUER, World, passed, status

from doorward.identity.directory import DirectoryGroup, DirectoryState, DirectoryUser, directory_user_id
from doorward.identity.user import User, user_id

DIRECTORY = """\
directories:
  - id: people
    type: keycloak
    url: https://idp.example.com
    realm: corp
    client_id: c
    client_secret: file:directory-secret
    identity_provider: corp
    stale_after: 1h
"""
POLICY = CONFIG.replace("groups: {has: admins}", "groups: {has: g-1}")
DENY = (
    POLICY
    + """\
  - name: deny
    from: https://deny.example.com
    to: http://127.0.0.1:9003
    policy:
      - deny: {and: [{groups: {has: contractors}}]}
      - allow: {and: [{authenticated_user: true}]}
"""
)


class DirectoryWorld(World):
    """Alice signs in; the directory is the test's."""

    def __init__(self, folder: Path, config: str = DENY + DIRECTORY) -> None:
        super().__init__(folder, config)
        self.entry = DirectoryUser(directory_id="people", entry_id="alice", join_value="alice", group_numbers=(1,))
        self.groups = {
            1: DirectoryGroup(
                directory_id="people", group_id="g-1", number=1, name="admins", email="admins@example.com"
            ),
            2: DirectoryGroup(directory_id="people", group_id="g-2", number=2, name="contractors"),
        }
        self.cookie = {host: self.sign_in("alice", host=f"{host}.example.com") for host in ("app", "admin", "deny")}
        self.join("alice")
        self.write()

    def join(self, value: str, directory: str = "people") -> None:
        user = User.from_bytes(self.records.data["User", user_id(ISSUER, "alice")])
        joined = replace(user, directory_user_id=directory_user_id(directory, "sub", value))
        self.records.data["User", user.id] = joined.to_bytes()

    def write(self, *, synchronised: bool = True) -> None:
        self.records.data["DirectoryUser", directory_user_id("people", "sub", "alice")] = self.entry.to_bytes()
        for number, group in self.groups.items():
            self.records.data["DirectoryGroup", f"people/{number}"] = group.to_bytes()
            self.principals._directories.on_record("DirectoryGroup", f"people/{number}")
        state = DirectoryState(synchronised_at=self.clock.now() if synchronised else None)
        self.records.data["DirectoryState", "people"] = state.to_bytes()

    async def ask(self, host: str) -> int:
        """The status of a refusal, or 0."""
        return status(await self.check(host, cookie=self.cookie[host]))  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path) -> DirectoryWorld:
    return DirectoryWorld(tmp_path)


async def test_a_member_by_id_name_and_address_is_let_in(tmp_path: Path):
    for index, calling in enumerate(("g-1", "admins", "admins@example.com")):
        folder = tmp_path / str(index)
        folder.mkdir()
        world = DirectoryWorld(folder, DENY.replace("{has: g-1}", f"{{has: {calling}}}") + DIRECTORY)
        assert await world.ask("admin") == 0


async def test_s65_a_change_in_the_directory_decides_the_next_request(world: DirectoryWorld):
    assert [await world.ask(host) for host in ("admin", "deny")] == [0, 0]
    world.entry = replace(world.entry, group_numbers=(2,))
    world.write()
    assert [await world.ask(host) for host in ("admin", "deny")] == [403, 403]
    world.groups[2] = replace(world.groups[2], name="guests")
    world.write()
    assert [await world.ask(host) for host in ("admin", "deny")] == [403, 0]


async def test_s66_an_inactive_entry_counts_nowhere_that_policy_is_asked(world: DirectoryWorld):
    """Disabled people were let in until some janitor ran."""
    assert await world.ask("app") == 0
    world.entry = replace(world.entry, active=False)
    world.write()
    assert [await world.ask(host) for host in ("app", "admin", "deny")] == [403, 403, 403]
    assert passed(await world.check("public", cookie=world.cookie["app"]))
    world.clock.advance(30 * 86400)
    assert await world.ask("app") != 0


async def test_the_identity_providers_groups_do_not_stand_in_for_the_directorys(tmp_path: Path):
    """Alice's ID token says `admins`; the directory knows better, or knows nothing."""
    world = DirectoryWorld(tmp_path, DENY.replace("{has: g-1}", "{has: admins}") + DIRECTORY)
    world.entry = replace(world.entry, group_numbers=())
    world.write()
    assert [await world.ask(host) for host in ("admin", "deny")] == [403, 0]


@pytest.mark.parametrize(
    "fault", ["no entry", "other directory", "never read", "two entries", "group missing", "stale"]
)
async def test_what_cannot_be_known_neither_allows_nor_skips_a_deny(world: DirectoryWorld, fault: str):
    match fault:
        case "no entry":
            world.join("mallory")
        case "other directory":
            world.join("alice", "elsewhere")
        case "never read":
            world.write(synchronised=False)
        case "two entries":
            world.entry = replace(world.entry, groups_known=False, group_numbers=())
            world.write()
        case "group missing":
            del world.records.data["DirectoryGroup", "people/1"]
        case "stale":
            assert await world.ask("admin") == 0
            world.clock.advance(3600)
            for host in ("app", "admin", "deny"):
                world.cookie[host] = world.sign_in("alice", host=f"{host}.example.com")
            world.join("alice")
    assert await world.ask("app") == 0, "who is in no need of groups is not touched"
    assert [await world.ask(host) for host in ("admin", "deny")] == [403, 403]


async def test_a_corrupt_record_lets_nobody_in(world: DirectoryWorld):
    world.records.data["DirectoryUser", directory_user_id("people", "sub", "alice")] = b"\xff\xff"
    assert await world.ask("app") != 0


async def test_s66_a_program_stands_and_falls_with_whoever_answers_for_it(world: DirectoryWorld):
    alice = user_id(ISSUER, "alice")
    token = world.account(owner_id=alice)
    own = world.account("other")

    async def asked(presented: str) -> int:
        return status(await world.check("app", authorization=f"Bearer {presented}"))

    assert await asked(token) == 0
    world.entry = replace(world.entry, active=False)
    world.write()
    assert (await asked(token), await asked(own)) == (401, 0)
    world.entry = replace(world.entry, active=True)
    world.write()
    assert await asked(token) == 0
    stored = world.records.data["User", alice]
    world.records.data["User", alice] = replace(User.from_bytes(stored), active=False).to_bytes()
    assert await asked(token) == 401
    del world.records.data["User", alice]
    assert await asked(token) == 401
    world.records.data["User", alice] = stored
    assert await asked(token) == 0
