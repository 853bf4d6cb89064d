"""SCIM as its clients speak it: the standard's own checker, and what each change means for policy."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from scim2_client import BaseSyncSCIMClient
from scim2_tester import Status, check_server
from tests.support.deployment import free_port
from tests.support.fake_clock import FakeClock
from tests.support.records import StoreRecords
from tests.unit.databroker.directory.builders import settings
from tests.unit.doorward.keys.test_cross_presentation import TOKENS

from doorward.config.directory_settings import DirectorySettings, ScimConnection
from doorward.config.endpoints import Address
from doorward.config.references import Reference
from doorward.errors import NotFoundError, UnavailableError
from doorward.identity.directory import DirectoryGroup, DirectoryUser, directory_user_id
from doorward.identity.user import User, user_id
from doorward.keys import bearer_hash
from doorward.keys.service_token import new_token
from doorward.records.record import Fence, Record, Write
from doorward_databroker.directory.scim.app import BODY_LIMIT_BYTES, PushedDirectory, scim_app
from doorward_databroker.directory.scim.listener import pushed_directory, scim_server

TOKEN = "a-token-that-is-long-enough"
BASE = "http://scim.example.com/corp/v2"
PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"


class World:
    """One directory that pushes, over the reference store; ``http`` speaks with its application."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        (folder / "token").write_text(TOKEN + "\n")
        self.folder = folder
        self.clock = FakeClock()
        self.records = StoreRecords(self.clock)
        connection = ScimConnection(tokens=(Reference(folder, "file:token"),), join_attribute="externalId")
        self.settings: DirectorySettings = replace(
            settings(kind="scim", join="employee", connection=connection, stale_seconds=None), **changes
        )
        self.directory = self.replica()
        self.http = self.client(self.directory)

    def replica(self) -> PushedDirectory:
        return pushed_directory(self.settings, self.records, self.clock)

    def client(self, directory: PushedDirectory) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/scim+json"}
        transport = httpx.ASGITransport(scim_app({"corp": directory}))
        return httpx.AsyncClient(transport=transport, base_url=BASE, headers=headers)

    async def hold(self, directory: PushedDirectory | None = None) -> None:
        number = await self.records.acquire_lease("directory/corp", "me", 3600)
        assert number is not None
        (directory or self.directory).storage.hold(Fence("directory/corp", "me", number))

    async def user(self, name: str, **more: Any) -> str:
        body = {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": name, "externalId": name, **more}
        answer = await self.http.post("/Users", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def group(self, name: str, *members: str) -> str:
        body = {
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"], "displayName": name,
            "members": [{"value": member} for member in members],
        }  # fmt: skip
        answer = await self.http.post("/Groups", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def patch(self, path: str, *operations: dict[str, Any], status: int | None = None) -> httpx.Response:
        answer = await self.http.patch(path, json={"schemas": [PATCH], "Operations": list(operations)})
        assert answer.status_code in ({200, 204} if status is None else {status}), answer.text
        return answer

    async def entry(self, name: str) -> DirectoryUser:
        record_id = directory_user_id("corp", "employee", name)
        return DirectoryUser.from_bytes((await self.records.get("DirectoryUser", record_id)).data)

    async def groups_of(self, name: str) -> set[str] | None:
        entry = await self.entry(name)
        if not entry.groups_known:
            return None
        found = set()
        for number in entry.group_numbers:
            record = await self.records.get("DirectoryGroup", f"corp/{number}")
            found.add(DirectoryGroup.from_bytes(record.data).name)
        return found


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.hold()
    yield made
    await made.http.aclose()


class _Client(BaseSyncSCIMClient):
    """The checker's client, over the HTTP client that we have."""

    def __init__(self, client: httpx.Client) -> None:
        super().__init__()
        self.client = client

    def _stays_under_base_url(self, endpoint: str) -> bool:
        return str(self.client.build_request("GET", endpoint).url).startswith(str(self.client.base_url))

    def _parse_json(self, response: Any) -> Any:
        return response.json()

    def request(self, method: str, url: str, **options: Any) -> Any:
        return self.client.request(method, url, **options)


async def test_the_standards_own_checker_finds_nothing(world: World):
    port = free_port()
    server = scim_server({"corp": world.directory}, Address(host="127.0.0.1", port=port), None)
    serving = asyncio.create_task(server.serve())
    await server.wait_started()

    def check() -> list[Any]:
        headers = {"authorization": f"Bearer {TOKEN}"}
        base = f"http://127.0.0.1:{port}/corp/v2"
        with httpx.Client(base_url=base, headers=headers, trust_env=False, timeout=30) as client:
            scim = _Client(client)
            scim.discover()
            return list(check_server(scim))

    try:
        results = await asyncio.to_thread(check)
    finally:
        server.shutdown()
        await serving
    bad = [f"{r.title}: {r.reason}" for r in results if r.status not in {Status.SUCCESS, Status.SKIPPED}]
    assert bad == []
    assert sum(r.status is Status.SUCCESS for r in results) > 80


async def test_what_is_pushed_decides(world: World):
    alice, bob = await world.user("alice"), await world.user("bob")
    staff = await world.group("staff", alice)
    assert [await world.groups_of(name) for name in ("alice", "bob")] == [{"staff"}, set()]
    await world.patch(f"/Groups/{staff}", {"op": "add", "path": "members", "value": [{"value": bob}]})
    await world.patch(f"/Groups/{staff}", {"op": "remove", "path": f'members[value eq "{alice}"]'})
    assert [await world.groups_of(name) for name in ("alice", "bob")] == [set(), {"staff"}]
    await world.patch(f"/Groups/{staff}", {"op": "replace", "value": {"displayName": "crew"}})
    assert await world.groups_of("bob") == {"crew"}
    assert (await world.http.delete(f"/Groups/{staff}")).status_code == 204
    assert await world.groups_of("bob") == set()


async def test_members_that_a_patch_names_come_and_go_and_the_others_stay(world: World):
    ids = {name: await world.user(name) for name in ("alice", "bob", "carol")}
    staff = await world.group("staff", ids["alice"], ids["bob"])
    path = f"/Groups/{staff}"
    version = (await world.http.get(path)).headers["etag"]
    add = {"op": "Add", "path": "members", "value": [{"$ref": None, "value": ids["carol"]}]}
    answer = await world.patch(path, add, {"op": "Remove", "path": "members", "value": [{"value": ids["alice"]}]})
    assert [await world.groups_of(name) for name in ids] == [set(), {"staff"}, {"staff"}]
    group = await world.http.get(path)
    assert sorted(item["value"] for item in group.json()["members"]) == sorted([ids["bob"], ids["carol"]])
    assert group.headers["etag"] == answer.headers["etag"] != version
    # Whoever is there already changes nothing, not even the version; whoever is not there is no error.
    await world.patch(path, {"op": "remove", "path": f'members[value eq "{ids["alice"]}"]'})
    assert (await world.http.get(path)).headers["etag"] == group.headers["etag"]
    body = {"schemas": [PATCH], "Operations": [{"op": "remove", "path": f'members[value eq "{ids["bob"]}"]'}]}
    assert (await world.http.patch(path, json=body, headers={"if-match": version})).status_code == 412
    answer = await world.http.patch(path, json=body, params={"attributes": "members"})
    assert [item["value"] for item in answer.json()["members"]] == [ids["carol"]]
    assert (await world.http.patch("/Groups/none", json=body)).status_code == 404


async def test_nested_groups_count_and_end_with_their_parents(world: World):
    alice = await world.user("alice")
    inner = await world.group("inner", alice)
    outer = await world.group("outer", inner)
    assert await world.groups_of("alice") == {"inner", "outer"}
    await world.http.delete(f"/Groups/{outer}")
    assert await world.groups_of("alice") == {"inner"}


async def test_s66_whoever_is_deactivated_or_deleted_loses_sessions_at_once(world: World):
    ids = {name: await world.user(name) for name in ("alice", "bob", "carol")}
    for name in ids:
        joined = directory_user_id("corp", "employee", name)
        user = User(id=user_id("i", name), issuer="i", subject=name, directory_user_id=joined)
        await world.records.put(
            [
                Write(
                    record=Record(type="User", id=user.id, data=user.to_bytes(), indexes={"directory_user": (joined,)})
                ),
                Write(record=Record(type="Session", id=name, data=b"x", indexes={"user_id": (user.id,)})),
            ]
        )
    # Entra sends the boolean as text, Okta without a path.
    await world.patch(f"/Users/{ids['alice']}", {"op": "Replace", "value": {"active": False}})
    assert (await world.http.delete(f"/Users/{ids['bob']}")).status_code == 204
    assert [(await world.entry(name)).active for name in ids] == [False, False, True]
    assert (await world.entry("bob")).removed
    await world.records.get("Session", "carol")
    for name in ("alice", "bob"):
        with pytest.raises(NotFoundError):
            await world.records.get("Session", name)
    await world.patch(f"/Users/{ids['alice']}", {"op": "replace", "path": "active", "value": True})
    assert (await world.entry("alice")).active


@pytest.mark.parametrize(
    "value", [{"path": "active", "value": "False"}, {"value": {"active": "false"}}, {"path": "ACTIVE", "value": False}]
)
async def test_s66_whoever_is_deactivated_in_any_clients_way_of_saying_so_does_not_count(
    world: World, value: dict[str, Any]
):
    alice = await world.user("alice")
    await world.patch(f"/Users/{alice}", {"op": "Replace", **value})
    await world.patch(f"/Users/{alice}", {"op": "replace", "path": "active", "value": "perhaps"}, status=400)
    assert not (await world.entry("alice")).active


async def test_everything_is_there_after_a_restart_of_another_replica(world: World):
    alice, bob = await world.user("alice"), await world.user("bob", active=False)
    staff = await world.group("staff", alice, bob)
    await world.group("all", staff)
    other = world.replica()
    await world.hold(other)
    async with world.client(other) as http:
        again = (await http.get(f"/Groups/{staff}")).json()
        assert {member["value"] for member in again["members"]} == {alice, bob}
        assert (await http.get(f"/Users/{bob}")).json()["active"] is False
        listed = (await http.get("/Users", params={"filter": 'userName eq "ALICE"'})).json()
        assert [item["id"] for item in listed["Resources"]] == [alice]
        body = {"schemas": [PATCH], "Operations": [{"op": "remove", "path": f'members[value eq "{alice}"]'}]}
        assert (await http.patch(f"/Groups/{staff}", json=body)).status_code in {200, 204}
    assert await world.groups_of("alice") == set()


async def test_a_replica_that_lost_its_lease_writes_nothing_and_says_come_again(world: World):
    await world.user("alice")
    await world.records.release_lease("directory/corp", "me")
    await world.records.acquire_lease("directory/corp", "somebody else", 3600)
    answer = await world.http.post(
        "/Users",
        json={"schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": "bob", "externalId": "bob"},
    )
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    with pytest.raises(NotFoundError):
        await world.entry("bob")
    world.directory.storage.hold(None)
    assert (await world.http.get("/Users")).status_code == 503


async def test_a_lease_lost_between_two_puts_of_one_change_stops_the_second(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    alice, bob = await world.user("alice"), await world.user("bob")
    monkeypatch.setattr("doorward_databroker.directory.scim.storage.BATCH", 2)
    put = world.records.put

    async def put_and_lose(writes: Any, fence: Fence | None = None) -> Any:
        versions = await put(writes, fence)
        if fence is not None:
            world.directory.storage.hold(None)
            await world.records.release_lease("directory/corp", "me")
            assert await world.records.acquire_lease("directory/corp", "other", 3600) is not None
        return versions

    monkeypatch.setattr(world.records, "put", put_and_lose)
    body = {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"],
        "displayName": "staff",
        "members": [{"value": alice}, {"value": bob}],
    }
    assert (await world.http.post("/Groups", json=body)).status_code == 503
    assert [await world.groups_of(name) for name in ("alice", "bob")] == [set(), set()]


async def _cut_off(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str, path: str, body: Any, batch: int = 2
) -> None:
    """A change of which only the first put is stored."""
    with monkeypatch.context() as patched:
        patched.setattr("doorward_databroker.directory.scim.storage.BATCH", batch)
        put, puts = world.records.put, 0

        async def put_once(writes: Any, fence: Fence | None = None) -> Any:
            nonlocal puts
            puts += 1
            if puts > 1:
                raise UnavailableError("gone")
            return await put(writes, fence)

        patched.setattr(world.records, "put", put_once)
        assert (await world.http.request(method, path, json=body)).status_code == 503


async def test_what_a_change_that_was_cut_off_left_undone_is_done(world: World, monkeypatch: pytest.MonkeyPatch):
    alice, bob = await world.user("alice"), await world.user("bob")
    staff = await world.group("staff", alice)
    swap = {"schemas": [PATCH], "Operations": [{"op": "replace", "path": "members", "value": [{"value": bob}]}]}
    await _cut_off(world, monkeypatch, "PATCH", f"/Groups/{staff}", swap, batch=4)
    # Who goes out goes first; that bob is in was stored as a resource only.
    assert [await world.groups_of(name) for name in ("alice", "bob")] == [set(), set()]
    assert [item["value"] for item in (await world.http.get(f"/Groups/{staff}")).json()["members"]] == [bob]
    assert [await world.groups_of(name) for name in ("alice", "bob")] == [set(), {"staff"}]


async def test_a_group_that_took_anothers_name_and_was_cut_off_is_not_taken_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    alice, mallory = await world.user("alice"), await world.user("mallory")
    await world.group("admins", alice)
    mine = await world.group("mine", mallory)
    rename = {"schemas": [PATCH], "Operations": [{"op": "replace", "path": "displayName", "value": "admins"}]}
    await _cut_off(world, monkeypatch, "PATCH", f"/Groups/{mine}", rename)
    assert await world.groups_of("mallory") is None


async def test_the_number_of_a_group_that_was_cut_off_is_not_given_again(world: World, monkeypatch: pytest.MonkeyPatch):
    alice, bob = await world.user("alice"), await world.user("bob")
    schema = "urn:ietf:params:scim:schemas:core:2.0:Group"
    body = {"schemas": [schema], "displayName": "admins", "members": [{"value": alice}]}
    await _cut_off(world, monkeypatch, "POST", "/Groups", body)
    await world.group("guests", bob)
    assert [await world.groups_of(name) for name in ("alice", "bob")] == [{"admins"}, {"guests"}]


async def test_names_that_stop_counting_by_other_settings_stop_counting(world: World):
    alice = await world.user("alice")
    await world.group("staff", alice)
    world.settings = replace(world.settings, group_names=False)
    other = world.replica()
    await world.hold(other)
    async with world.client(other) as http:
        assert (await http.get("/Users")).status_code == 200
    assert await world.groups_of("alice") == {""}


async def test_what_could_not_be_stored_is_not_shown_either(world: World, monkeypatch: pytest.MonkeyPatch):
    await world.user("alice")
    put = world.records.put

    async def away(writes: Any, fence: Fence | None = None) -> Any:
        raise UnavailableError("away")

    monkeypatch.setattr(world.records, "put", away)
    body = {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": "bob", "externalId": "bob"}
    assert (await world.http.post("/Users", json=body)).status_code == 503
    monkeypatch.setattr(world.records, "put", put)
    assert (await world.http.get("/Users")).json()["totalResults"] == 1
    assert (await world.http.post("/Users", json=body)).status_code == 201


async def test_two_people_or_groups_that_could_be_taken_for_each_other_are_not(world: World):
    alice = await world.user("alice")
    staff = await world.group("staff", alice)
    twin = await world.user("twin", externalId="alice")
    assert await world.groups_of("alice") is None
    await world.http.delete(f"/Users/{twin}")
    assert await world.groups_of("alice") == {"staff"}
    impostor = await world.group("staff")
    assert await world.groups_of("alice") is None
    await world.http.delete(f"/Groups/{impostor}")
    assert await world.groups_of("alice") == {"staff"}
    await world.patch(f"/Users/{alice}", {"op": "replace", "path": "externalId", "value": "other"})
    assert (await world.entry("alice")).removed
    assert await world.groups_of("other") == {"staff"}
    await world.http.delete(f"/Groups/{staff}")


async def test_two_groups_whose_names_are_stored_alike_are_not_told_apart(world: World):
    alice, bob = await world.user("alice"), await world.user("bob")
    await world.group("x" * 320 + "a", alice)
    await world.group("x" * 320 + "b", bob)
    assert [await world.groups_of(name) for name in ("alice", "bob")] == [None, None]


async def test_a_large_group_is_many_small_records(world: World):
    ids = [await world.user(f"u{n}") for n in range(60)]
    await world.group("everyone", *ids)
    sizes = [len(record.data) async for record in world.records.list("ScimResource")]
    assert len(sizes) == 61
    assert max(sizes) < 700


async def test_s74_passwords_are_not_kept(world: World):
    alice = await world.user("alice", password="hunter2-hunter2")
    await world.patch(f"/Users/{alice}", {"op": "replace", "path": "password", "value": "hunter3-hunter3"})
    found = [record.data async for record in world.records.list("ScimResource")]
    assert not any(b"hunter" in data for data in found)


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer wrong", f"Bearer {TOKEN}x", "Bearer " + "x" * 9000]
)
async def test_without_a_valid_token_nothing_is_told(world: World, header: str | None):
    await world.user("alice")
    headers = {} if header is None else {"authorization": header}
    transport = httpx.ASGITransport(scim_app({"corp": world.directory}))
    async with httpx.AsyncClient(transport=transport, headers=headers) as http:
        for path in ("/corp/v2/Users", "/corp/v2/ServiceProviderConfig", "/unknown/v2/Users"):
            answer = await http.get(f"http://scim.example.com{path}")
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_token_may_be_kept_as_a_keyed_hash_which_opens_nothing_itself(world: World):
    token = bearer_hash.new_token()
    kept = bearer_hash.hash_token(token, bytes(range(32)))
    (world.folder / "token").write_text(kept + "\n")
    assert token not in kept
    for presented, status in ((token, 200), (kept, 401), (token[:-1], 401), (TOKEN, 401)):
        world.http.headers["authorization"] = f"Bearer {presented}"
        assert (await world.http.get("/Users")).status_code == status


@pytest.mark.parametrize("kept", ["", "x", "00:00", f"{'0' * 64}:{'0' * 64}", f"{'g' * 64}:{'0' * 64}", f"{'0' * 64}"])
async def test_a_hash_that_is_damaged_opens_to_nobody(world: World, kept: str):
    line = bearer_hash.PREFIX + kept
    (world.folder / "token").write_text(line)
    for presented in (line, kept or "x", TOKEN, "0" * 64):
        world.http.headers["authorization"] = f"Bearer {presented}"
        assert (await world.http.get("/Users")).status_code == 401


@pytest.mark.parametrize("kind", TOKENS)
async def test_s73_no_token_of_another_kind_opens_a_directory(world: World, kind: str):
    for token in (TOKENS[kind], new_token(bytes(16), bytes(32))):
        world.http.headers["authorization"] = f"Bearer {token}"
        assert (await world.http.get("/Users")).status_code == 401


async def test_a_token_can_be_exchanged_and_a_short_one_is_none(world: World):
    (world.folder / "token").write_text("another-token-of-good-length")
    assert (await world.http.get("/Users")).status_code == 401
    (world.folder / "token").write_text("short")
    world.http.headers["authorization"] = "Bearer short"
    assert (await world.http.get("/Users")).status_code == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'{"schemas":[]}', 400),
        (b"[" * 200_000, 400),
        (b"\xff\xfe", 400),
        (b" " * (BODY_LIMIT_BYTES + 1), 413),
    ],
    ids=["empty", "cut", "list", "null", "no schema", "deep", "bytes", "oversize"],
)
async def test_a_body_that_is_no_resource_is_refused_and_changes_nothing(world: World, body: bytes, status: int):
    assert (await world.http.post("/Users", content=body)).status_code == status
    assert [record async for record in world.records.list("ScimResource")] == []


@pytest.mark.parametrize(
    "query", ["userName eq", "(" * 500, 'userName eq "a" and', "1 eq 1", 'userName zz "a"', 'a.b.c.d eq "x"' * 50]
)
async def test_a_filter_that_is_none_is_refused(world: World, query: str):
    answer = await world.http.get("/Users", params={"filter": query})
    assert answer.status_code == 400
    assert answer.json()["scimType"] == "invalidFilter"


@pytest.mark.parametrize(
    "path", ["/Users/../../x", "/Users/%2e%2e", "/Nowhere", "/Users/1/2/3", "/Users/" + "x" * 3000]
)
async def test_a_path_that_is_none_is_not_found(world: World, path: str):
    assert (await world.http.get(path)).status_code in {400, 401, 404}


async def test_a_record_that_cannot_be_read_keeps_the_directory_from_being_served(world: World):
    """Leaving it out would put somebody out of their groups."""
    await world.user("alice")
    await world.records.put([Write(record=Record(type="ScimResource", id="corp/User/zz", data=b"\xff"))])
    other = world.replica()
    await world.hold(other)
    async with world.client(other) as http:
        assert (await http.get("/Users")).status_code == 503
