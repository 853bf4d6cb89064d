"""Open streams and changes of the configuration: what was never told of a stream is unknown later, and what let it begin must still hold."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.client_certificates import ClientAuthority
from tests.support.key_material import keyring
from tests.unit.authorize.builders import CONFIG, ISSUER, World, passed
from tests.unit.authorize.test_client_certificates import NOW, encoded
from tests.unit.authorize.test_directories import DENY, DIRECTORY, DirectoryWorld
from tests.unit.authorize.test_grants import GRANTS, GrantWorld
from tests.unit.authorize.test_guard_watcher import ALICE, GUARDED, Streams, Uses, description

from doorward.api.guard.v1.guard_pb2 import StreamDescription
from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from doorward.identity.directory import DirectoryState, directory_user_id
from doorward.identity.session import Session
from doorward.identity.user import user_id
from doorward.keys.keyring import Keyring
from doorward.keys.store import Purpose
from doorward_authorize.activity import ActivityTracker

ACCEPT = "policy: [{allow: {or: [{accept: true}]}}]"
FRIEND = "https://friend.example.com"


@pytest.mark.parametrize(
    "policy",
    [
        "[{allow: {and: [{http_header/x-tool: {exists: false}}]}}]",
        "[{allow: {or: [{accept: true}]}}, {deny: {or: [{http_header/x-tool: {exists: true}}]}}]",
        "[{allow: {or: [{accept: true}]}}, {deny: {or: [{http_header/x-tool: {is: bad, optional: true}}]}}]",
        "[{allow: {nor: [{http_header/x-tool: {contains: bad, optional: true}}]}}]",
    ],
)
async def test_a_header_that_no_policy_read_when_the_stream_began_is_unknown_and_not_absent(
    streams: Streams, policy: str
):
    """Whoever bars a header must not leave those streams open that were opened with it."""
    number = await streams.opened("public", x_tool="bad")
    changed = await streams.change(GUARDED.replace(ACCEPT, f"policy: {policy}"))
    assert [(found, allowed) for found, allowed, _ in changed] == [(number, False)]
    assert not passed(await streams.world.check("public", x_tool="bad"))


async def test_a_header_that_was_read_and_not_sent_is_absent(streams: Streams):
    policy = "policy: [{allow: {and: [{http_header/x-tool: {exists: false}}]}}]"
    await streams.change(GUARDED.replace(ACCEPT, policy))
    await streams.opened("public")
    streams.watcher._doubt_all()
    assert await streams.settle() == []


async def test_a_preflight_is_one_for_the_guard_too(streams: Streams):
    await streams.change(GUARDED.replace(ACCEPT, "policy: [{allow: {or: [{cors_preflight: true}]}}]"))
    asked = {"method": "OPTIONS", "origin": FRIEND, "access_control_request_method": "PUT"}
    await streams.opened("public", **asked)
    streams.watcher._doubt_all()
    assert await streams.settle() == []


async def test_whether_it_was_a_preflight_is_unknown_where_nobody_has_told(streams: Streams):
    number = await streams.opened("public", method="OPTIONS", origin=FRIEND, access_control_request_method="PUT")
    policy = "policy: [{allow: {or: [{accept: true}]}}, {deny: {or: [{cors_preflight: true}]}}]"
    assert await streams.change(GUARDED.replace(ACCEPT, policy)) == [(number, False, "cors-request-unknown")]


CERTIFIED = CONFIG.replace("routes:\n", "client_certificates: {authorities: clients.crt}\nroutes:\n")
LOOKING = """\
  - name: looking
    from: https://looking.example.com
    to: http://127.0.0.1:9003
    continuous: true
    client_certificate: fact
    policy: [{allow: {or: [{accept: true}]}}]
"""


@pytest.mark.parametrize("looked", [False, True])
async def test_a_certificate_that_nobody_looked_for_is_unknown_and_not_missing(tmp_path: Path, looked: bool):
    authority = ClientAuthority(now=NOW)
    (tmp_path / "clients.crt").write_text(authority.pem)
    before = CERTIFIED + (LOOKING if looked else LOOKING.replace("fact", "ignored"))
    world = World(tmp_path, before)
    streams = Streams(tmp_path, world=world)
    request = CheckRequest.FromString(world.request("looking"))
    request.attributes.tls_session.sni = "looking.example.com"
    if not looked:
        request.attributes.source.certificate = encoded(authority.client())
    response = CheckResponse.FromString(await world.answer(request.SerializeToString()))
    number = streams.open(description(response))
    assert streams.link.taken() == [(number, True, "")]
    only_without = "policy: [{allow: {and: [{invalid_client_certificate: true}]}}]"
    changed = await streams.change(CERTIFIED + LOOKING.replace(ACCEPT, only_without))
    assert changed == ([] if looked else [(number, False, "client-certificate-unknown")])


async def test_what_check_says_of_a_certificate_that_the_route_ignores_the_guard_says_too(tmp_path: Path):
    """Such a configuration is warned of; it must not let in and cut again."""
    config = LOOKING.replace("fact", "ignored").replace("{accept: true}", "{invalid_client_certificate: true}")
    streams = Streams(tmp_path, world=World(tmp_path, CONFIG + config))
    assert not passed(await streams.world.check("looking"))
    await streams.change(CONFIG + config.replace("{or: [", "{or: [{source_ip: 10.0.0.0/8}, "))
    await streams.opened("looking")
    streams.watcher._doubt_all()
    assert await streams.settle() == []


async def test_a_stream_ends_with_the_listing_of_the_origin_that_let_it_begin(streams: Streams):
    cookie = streams.world.sign_in()
    foreign = await streams.opened(cookie=cookie, upgrade="websocket", origin=FRIEND, sec_fetch_site="cross-site")
    await streams.opened(cookie=cookie, upgrade="websocket", origin="https://app.example.com")
    await streams.opened(cookie=cookie, origin=FRIEND)
    account = f"Bearer {streams.world.account()}"
    await streams.opened(authorization=account, upgrade="websocket", origin=FRIEND, sec_fetch_site="cross-site")
    listed = f'allowed_origins: ["{FRIEND}"]'
    assert await streams.change(GUARDED.replace(listed, f'allowed_origins: ["{FRIEND}", "https://b.example"]')) == []
    assert await streams.change(GUARDED.replace(listed, 'allowed_origins: ["https://b.example"]')) == [
        (foreign, False, "foreign-origin")
    ]


async def test_a_stream_is_its_users_and_does_not_pass_to_another_with_the_session(streams: Streams):
    """Bob may do all that Alice may; that makes him no heir to what she has opened."""
    number = await streams.opened(cookie=streams.world.sign_in("alice"))
    streams.world.sign_in("bob")
    session = Session.from_bytes(streams.world.records.data["Session", ALICE])
    streams.world.records.data["Session", ALICE] = replace(session, user_id=user_id(ISSUER, "bob")).to_bytes()
    streams.watcher.on_record("Session", ALICE)
    assert await streams.settle() == [(number, False, "session-ended")]


@pytest.mark.parametrize("credential", ["cookie", "token"])
async def test_a_stream_ends_with_the_key_behind_what_opened_it_and_no_other_does(streams: Streams, credential: str):
    """Whoever has stolen a key has opened streams with it, of sessions and accounts that go on."""
    world = streams.world
    keys, purpose = {
        "cookie": (world.handle_keys, Purpose.SESSION_HANDLE),
        "token": (world.token_keys, Purpose.SERVICE_ACCOUNT),
    }[credential]

    async def opened(name: str) -> int:
        if credential == "cookie":
            return await streams.opened(cookie=world.sign_in(name))
        return await streams.opened(authorization=f"Bearer {world.account(name)}")

    (old,) = keys.keys
    by_old = await opened("alice")
    (new,) = keyring(purpose, "new").keys
    keys.take_over(Keyring(purpose, [new, old]))
    streams.watcher.on_time()
    assert await streams.settle() == [], "a rotation ends nothing"
    by_new, others = await opened("alice"), await streams.opened("public")
    keys.take_over(Keyring(purpose, [new]))
    streams.watcher.on_time()
    assert list(streams.watcher._doubtful) == [streams.watcher._links[streams.link].streams[by_old]]
    assert await streams.settle() == [(by_old, False, "key-revoked")]
    assert set(streams.watcher._links[streams.link].streams) == {by_new, others}


async def test_a_stream_whose_key_is_revoked_before_the_guard_names_it_does_not_begin(streams: Streams):
    data = await streams.describe(cookie=streams.world.sign_in())
    streams.world.handle_keys.take_over(keyring(Purpose.SESSION_HANDLE, "new"))
    assert streams.open(data) == 1
    assert streams.link.taken() == [(1, False, "key-revoked")]


async def test_a_stream_that_was_described_without_its_key_goes_by_its_session(streams: Streams):
    """Those that are open while an older version is replaced: they must not all end."""
    described = StreamDescription.FromString(await streams.describe(cookie=streams.world.sign_in()))
    described.ClearField("key")
    number = streams.open(described.SerializeToString())
    assert streams.link.taken() == [(number, True, "")]
    streams.world.handle_keys.take_over(keyring(Purpose.SESSION_HANDLE, "new"))
    streams.watcher.on_time()
    assert await streams.settle() == []


def as_of_an_older_version(data: bytes) -> bytes:
    """A description as it was before headers that were not sent, certificates that nobody looked for, and all of a token were told."""
    described = StreamDescription.FromString(data)
    for name in ("read_headers", "names_headers", "certificate_unknown", "listed_origin", "key"):
        described.ClearField(name)
    described.external_token.ClearField("audiences")
    described.external_token.ClearField("algorithm")
    return described.SerializeToString()


NO_TOOL = "policy: [{allow: {or: [{accept: true}]}}, {deny: {or: [{http_header/x-tool: {is: bad, optional: true}}]}}]"


async def test_a_header_that_an_older_version_read_and_did_not_find_was_not_sent(streams: Streams):
    await streams.change(GUARDED.replace(ACCEPT, NO_TOOL))
    number = streams.open(as_of_an_older_version(await streams.describe("public")))
    assert streams.link.taken() == [(number, True, "")]
    streams.watcher._doubt_all()
    assert await streams.settle() == []
    other = NO_TOOL.replace("x-tool", "x-other")
    changed = await streams.change(GUARDED.replace(ACCEPT, other))
    assert [(found, allowed) for found, allowed, _ in changed] == [(number, False)], "nobody has looked at that one"


async def test_a_change_of_the_configuration_refuses_nobody(streams: Streams):
    """Between authorize and Envoy a request may come by the former configuration; unguarded ones get 503 or pass, and none 403."""
    cookie = streams.world.sign_in()
    data = await streams.describe(cookie=cookie)
    number = await streams.opened(cookie=cookie)
    await streams.opened("admin", cookie=streams.world.sign_in(host="admin.example.com"))
    before = streams.world.evaluator.snapshot
    streams.world.reload(
        GUARDED.replace("http://127.0.0.1:9000", "http://127.0.0.1:9999").replace("has: admins", "has: x")
    )
    streams.watcher.on_snapshot(before, streams.world.evaluator.snapshot)
    await streams.watcher.settle()
    streams.open(data)
    streams.open(b"\xff")
    said = {verdict.number: (verdict.allowed, verdict.reason, verdict.unavailable) for verdict in streams.link.said}
    assert said == {
        number: (False, "route-changed", True),
        number + 1: (False, "groups-unauthorized", False),
        number + 2: (False, "route-changed", True),
        number + 3: (False, "description-malformed", True),
    }


def in_directory(folder: Path) -> Streams:
    (folder / "directory-secret").write_text("s")
    config = DENY.replace("policy:", "continuous: true\n    policy:") + DIRECTORY
    return Streams(folder, world=DirectoryWorld(folder, config))


@pytest.mark.parametrize(
    "state", [None, b"\xff", DirectoryState(synchronised_at=1.0).to_bytes()], ids=["gone", "spoiled", "older"]
)
async def test_a_directory_that_goes_back_ends_streams_that_its_newer_word_had_opened(
    tmp_path: Path, state: bytes | None
):
    """After a failover that lost the end, or when an older state was put back; else they would last until the newer word is too old."""
    streams = in_directory(tmp_path)
    world = streams.world
    assert isinstance(world, DirectoryWorld)
    member = await streams.opened("admin", cookie=world.cookie["admin"])
    await streams.opened("app", cookie=world.cookie["app"])

    async def heard() -> list[tuple[int, bool]]:
        streams.watcher.on_record("DirectoryState", "people")
        streams.watcher.on_time()
        return [(number, allowed) for number, allowed, _ in await streams.settle()]

    assert await heard() == []
    world.clock.advance(60)
    world.write()
    assert await heard() == []
    assert not streams.watcher._doubtful
    if state is None:
        del world.records.data["DirectoryState", "people"]
    else:
        world.records.data["DirectoryState", "people"] = state
    assert (member, False) in await heard()


async def test_a_directory_that_goes_back_is_noticed_also_when_groups_had_come_with_the_newer_word(tmp_path: Path):
    """As they do whenever it is read: both are heard of before anything is looked at."""
    streams = in_directory(tmp_path)
    world = streams.world
    assert isinstance(world, DirectoryWorld)
    older = world.records.data["DirectoryState", "people"]
    streams.watcher.on_record("DirectoryState", "people")
    world.clock.advance(60)
    world.write()
    streams.watcher.on_record("DirectoryGroup", "people/1")
    streams.watcher.on_record("DirectoryState", "people")
    streams.watcher.on_time()
    await streams.watcher.settle()
    number = await streams.opened("admin", cookie=world.cookie["admin"])
    world.records.data["DirectoryState", "people"] = older
    streams.watcher.on_record("DirectoryState", "people")
    streams.watcher.on_time()
    assert list(streams.watcher._doubtful) == [streams.watcher._links[streams.link].streams[number]]


async def test_a_directory_that_is_read_again_puts_no_stream_in_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    streams = in_directory(tmp_path)
    world = streams.world
    assert isinstance(world, DirectoryWorld)
    await streams.opened("admin", cookie=world.cookie["admin"])
    streams.watcher.on_record("DirectoryState", "people")
    streams.watcher.on_time()
    await streams.watcher.settle()
    monkeypatch.setattr(streams.watcher, "_judge", None)
    world.clock.advance(60)
    world.write()
    streams.watcher.on_record("DirectoryState", "people")
    streams.watcher.on_time()
    assert await streams.settle() == []


COUNTS = GUARDED.replace("routes:\n", "session: {idle_timeout: 1m}\nroutes:\n")
STRICT = COUNTS.replace("- name: app", "- name: app\n    idle: strict")


@pytest.mark.parametrize(
    "before",
    [COUNTS, STRICT.replace("1m", "30m"), STRICT.replace("session: {idle_timeout: 1m}\n", "")],
    ids=["strict", "shorter", "first"],
)
async def test_s66_an_idle_time_that_is_changed_counts_for_open_streams(tmp_path: Path, before: str):
    streams = Streams(tmp_path, world=World(tmp_path, before))
    world = streams.world
    activity = ActivityTracker(Uses(), lambda: world.evaluator.snapshot.settings.session_idle_seconds, world.clock)
    world.principals._activity = activity
    number = await streams.opened(cookie=world.sign_in())
    world.clock.advance(30)
    assert await streams.change(STRICT) == []
    for seconds in (31.0, 5.0):
        world.clock.advance(seconds)
        streams.watcher.on_time()
        await streams.watcher.settle()
        await streams.watcher.end_idle()
    assert await streams.settle() == [(number, False, "session-idle")]


@pytest.mark.parametrize(
    "change", ["inactive", "left", "group gone", "never read", "too old", "no longer configured", "earlier too old"]
)
async def test_s65_an_open_stream_ends_with_what_its_directory_says(tmp_path: Path, change: str):
    """In each way in which the next request would learn of it."""
    world = DirectoryWorld(tmp_path, DENY.replace("    policy:", "    continuous: true\n    policy:") + DIRECTORY)
    streams = Streams(tmp_path, world=world)
    number = await streams.opened("admin", cookie=world.cookie["admin"])
    before = world.evaluator.snapshot
    match change:
        case "inactive" | "left":
            world.entry = replace(world.entry, active=change == "left", group_numbers=())
            world.write()
            streams.watcher.on_record("DirectoryUser", directory_user_id("people", "sub", "alice"))
        case "group gone":
            del world.records.data["DirectoryGroup", "people/1"]
            world.principals._directories.on_record("DirectoryGroup", "people/1")
            streams.watcher.on_record("DirectoryGroup", "people/1")
        case "never read":
            world.write(synchronised=False)
            streams.watcher.on_record("DirectoryState", "people")
        case "too old":
            world.records.data["Session", ALICE] = replace(
                Session.from_bytes(world.records.data["Session", ALICE]), expires_at=world.clock.now() + 86400
            ).to_bytes()
            streams.watcher.on_record("Session", ALICE)
            assert await streams.settle() == []
            world.clock.advance(3600.1)
        case "no longer configured":
            world.reload((tmp_path / "doorward.yaml").read_text().partition("directories:")[0])
        case _:
            world.clock.advance(120)
            world.reload((tmp_path / "doorward.yaml").read_text().replace("stale_after: 1h", "stale_after: 1m"))
    streams.watcher.on_snapshot(before, world.evaluator.snapshot)
    streams.watcher.on_time()
    assert [(found, allowed) for found, allowed, _ in await streams.settle()] == [(number, False)]
    assert await world.ask("admin") != 0


async def test_an_open_stream_ends_when_its_kind_of_grant_counts_there_no_longer(tmp_path: Path):
    world = GrantWorld(tmp_path)
    world.give()
    streams = Streams(tmp_path, world=world)
    number = await streams.opened("billing", cookie=world.cookies["billing"])
    assert await streams.change(GRANTS.replace("longest: 4h", "longest: 3h")) == []
    assert await streams.change(GRANTS.replace("routes: [billing]", "routes: [payroll]")) == [
        (number, False, "grant-missing")
    ]


@pytest.fixture
def streams(tmp_path: Path) -> Streams:
    return Streams(tmp_path)
