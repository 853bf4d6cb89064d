"""Open streams: which of them a change concerns, and what becomes of them."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.unit.authorize.builders import CONFIG, World, passed

from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from doorward.errors import NotFoundError
from doorward.identity.activity import Activity
from doorward.identity.session import Session
from doorward.policy import Decision, Effect, Facts
from doorward.records.record import Record, RecordVersion
from doorward.route.internal import METADATA_STREAM
from doorward.telemetry.tracing import Span, Tracer
from doorward_authorize.activity import ActivityTracker
from doorward_authorize.guard.spans import StreamSpans
from doorward_authorize.guard.stream import StreamVerdict
from doorward_authorize.guard.watcher import Watcher

GUARDED = CONFIG.replace("policy:", "continuous: true\n    policy:")
ALICE, BOB = "616c696365".ljust(32, "0"), "626f62".ljust(32, "0")


@dataclass(eq=False)
class Link:
    """A guard's call that remembers."""

    said: list[StreamVerdict] = field(default_factory=list)
    failed: bool = False

    def say(self, verdict: StreamVerdict) -> None:
        self.said.append(verdict)

    def fail(self) -> None:
        self.failed = True

    def taken(self) -> list[tuple[int, bool, str]]:
        said, self.said = self.said, []
        return [(verdict.number, verdict.allowed, verdict.reason) for verdict in said]


class Streams:
    """A world with a watcher and one guard."""

    def __init__(self, folder: Path, touch: Callable[[str], None] = lambda _: None, world: World | None = None) -> None:
        self.world = world or World(folder, GUARDED)
        self.watcher = Watcher(
            self.world.evaluator,
            self.world.principals,
            self.world.records.is_fresh,
            self.world.clock,
            self.world.metrics,
            touch,
        )
        self.link = Link()
        self.watcher.join(self.link)
        self.numbers = 0

    async def describe(self, route: str = "app", **options: str) -> bytes:
        response = await self.world.check(route, **options)
        assert passed(response), response
        return description(response)

    def open(self, data: bytes) -> int:
        self.numbers += 1
        self.watcher.open(self.link, self.numbers, data)
        return self.numbers

    async def opened(self, route: str = "app", **options: str) -> int:
        number = self.open(await self.describe(route, **options))
        assert self.link.taken() == [(number, True, "")]
        return number

    async def settle(self) -> list[tuple[int, bool, str]]:
        await self.watcher.settle()
        return self.link.taken()

    async def change(self, config: str) -> list[tuple[int, bool, str]]:
        before = self.world.evaluator.snapshot
        self.world.reload(config)
        self.watcher.on_snapshot(before, self.world.evaluator.snapshot)
        return await self.settle()


def description(response: CheckResponse) -> bytes:
    return base64.b64decode(response.dynamic_metadata.fields[METADATA_STREAM].string_value)


@pytest.fixture
def streams(tmp_path: Path) -> Streams:
    return Streams(tmp_path)


async def test_a_stream_is_decided_when_it_is_named_and_not_only_by_check(streams: Streams):
    """Between Check and the guard's first word a revoke must not be lost."""
    data = await streams.describe(cookie=streams.world.sign_in())
    del streams.world.records.data["Session", ALICE]
    assert streams.open(data) == 1
    assert streams.link.taken() == [], "it may be a sign-in that has not arrived yet"
    streams.world.clock.advance(0.31)
    streams.watcher.on_time()
    assert await streams.settle() == [(1, False, "session-ended")]
    assert len(streams.watcher) == 0


async def test_a_sign_in_that_arrives_a_moment_later_is_let_go_on(streams: Streams):
    """Check may have asked the databroker; the stream must not end because this replica is a moment behind."""
    data = await streams.describe(cookie=streams.world.sign_in())
    session = streams.world.records.data.pop(("Session", ALICE))
    number = streams.open(data)
    streams.world.clock.advance(0.2)
    streams.watcher.on_time()
    assert await streams.settle() == []
    streams.world.records.data["Session", ALICE] = session
    streams.watcher.on_record("Session", ALICE)
    assert await streams.settle() == [(number, True, "")]
    streams.world.clock.advance(1)
    streams.watcher.on_time()
    assert await streams.settle() == []


async def test_the_limit_of_the_route_travels_with_the_verdict(streams: Streams):
    for route, host, limit in (("app", "app.example.com", 5.0), ("admin", "admin.example.com", 2.0)):
        streams.open(await streams.describe(route, cookie=streams.world.sign_in(host=host)))
        assert streams.link.said.pop().limit_seconds == limit


async def test_s86_the_end_of_a_session_ends_its_streams_and_no_others(streams: Streams):
    alice = await streams.opened(cookie=streams.world.sign_in("alice"))
    await streams.opened(cookie=streams.world.sign_in("bob"))
    del streams.world.records.data["Session", ALICE]
    streams.watcher.on_record("Session", ALICE)
    assert await streams.settle() == [(alice, False, "session-ended")]
    assert len(streams.watcher) == 1


async def test_s65_a_lost_group_ends_the_streams_that_needed_it(streams: Streams):
    number = await streams.opened("admin", cookie=streams.world.sign_in(host="admin.example.com"))
    await streams.opened(cookie=streams.world.sign_in())
    streams.world.sign_in(groups=frozenset({"eng"}))
    user = next(key for kind, key in streams.world.records.data if kind == "User")
    streams.watcher.on_record("User", user)
    assert await streams.settle() == [(number, False, "groups-unauthorized")]


async def test_s66_a_disabled_user_is_cut(streams: Streams):
    number = await streams.opened(cookie=streams.world.sign_in())
    streams.world.sign_in(active=False)
    user = next(key for kind, key in streams.world.records.data if kind == "User")
    streams.watcher.on_record("User", user)
    assert await streams.settle() == [(number, False, "user-inactive")]


async def test_s66_the_clock_ends_a_stream_though_no_record_changes(streams: Streams):
    number = await streams.opened(cookie=streams.world.sign_in())
    streams.world.clock.advance(3599)
    streams.watcher.on_time()
    assert await streams.settle() == []
    streams.world.clock.advance(1.2)
    streams.watcher.on_time()
    assert await streams.settle() == [(number, False, "session-ended")]


async def test_a_longer_session_is_asked_about_later(streams: Streams):
    number = await streams.opened(cookie=streams.world.sign_in())
    session = Session.from_bytes(streams.world.records.data["Session", ALICE])
    streams.world.records.data["Session", ALICE] = Session(
        id=session.id,
        user_id=session.user_id,
        identity_provider_id=session.identity_provider_id,
        issued_at=session.issued_at,
        expires_at=session.expires_at + 100,
        authenticated_at=session.authenticated_at,
    ).to_bytes()
    streams.watcher.on_record("Session", ALICE)
    assert await streams.settle() == []
    streams.world.clock.advance(3650)
    streams.watcher.on_time()
    assert await streams.settle() == []
    streams.world.clock.advance(60)
    streams.watcher.on_time()
    assert await streams.settle() == [(number, False, "session-ended")]


async def test_a_clock_that_is_set_back_puts_every_stream_in_doubt(streams: Streams):
    await streams.opened(cookie=streams.world.sign_in())
    del streams.world.records.data["Session", ALICE]
    streams.world.clock.advance(-10)
    streams.watcher.on_time()
    assert [allowed for _, allowed, _ in await streams.settle()] == [False]


async def test_a_policy_change_decides_the_streams_of_its_route_and_no_others(streams: Streams):
    """Ten thousand streams must not be decided again because one route's policy was edited."""
    cookie = streams.world.sign_in("bob", groups=frozenset({"eng"}))
    number = await streams.opened(cookie=cookie)
    await streams.opened("public")
    asked = []
    judge = streams.world.evaluator.judge

    def counting(*arguments: object) -> object:
        asked.append(arguments)
        return judge(*arguments)  # type: ignore[arg-type]  # passed on

    streams.world.evaluator.judge = counting  # type: ignore[method-assign, assignment]  # counts
    assert await streams.change(GUARDED + "# nothing\n") == []
    assert asked == []
    changed = GUARDED.replace(
        "[{allow: {and: [{authenticated_user: true}]}}]", "[{allow: {and: [{groups: {has: x}}]}}]"
    )
    assert await streams.change(changed) == [(number, False, "groups-unauthorized")]
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("http://127.0.0.1:9000", "http://127.0.0.1:9999", "route-changed"),
        (
            "from: https://app.example.com\n    to: http://127.0.0.1:9000",
            "from: https://app.example.com",
            "route-changed",
        ),
        ("- name: app", "- name: renamed", "route-changed"),
        ("id: corp", "id: other", "identity-provider-not-accepted"),
    ],
    ids=["moved", "broken", "renamed", "identity provider gone"],
)
async def test_what_a_route_reaches_or_who_vouches_changes(streams: Streams, old: str, new: str, reason: str):
    number = await streams.opened(cookie=streams.world.sign_in())
    assert await streams.change(GUARDED.replace(old, new)) == [(number, False, reason)]


async def test_a_route_that_becomes_sensitive_shortens_the_limit_of_its_streams(streams: Streams):
    number = await streams.opened(cookie=streams.world.sign_in())
    changed = GUARDED.replace("- name: app", "- name: app\n    sensitive: true")
    assert await streams.change(changed) == [(number, True, "")]


async def test_streams_of_nobody_live_on_public_routes(streams: Streams):
    number = await streams.opened("public")
    assert await streams.change(GUARDED.replace("{accept: true}", "{authenticated_user: true}")) == [
        (number, False, "user-unauthenticated")
    ]


async def test_s85_a_description_that_no_check_wrote_is_refused(streams: Streams):
    for data in (b"", b"\xff\xff", b"\x0a\x03abc"):
        streams.open(data)
        assert [allowed for _, allowed, _ in streams.link.taken()] == [False]
    assert len(streams.watcher) == 0


async def test_a_bug_in_a_decision_cuts(streams: Streams):
    number = await streams.opened(cookie=streams.world.sign_in())

    def broken(*_: object) -> object:
        raise RuntimeError("planted")

    streams.world.evaluator.judge = broken  # type: ignore[method-assign, assignment]  # fails
    streams.watcher.on_record("Session", ALICE)
    assert await streams.settle() == [(number, False, "internal-error")]


async def test_data_that_are_too_old_for_anybody_end_the_guards_calls(streams: Streams):
    await streams.opened("public")
    streams.world.records.age = 5.0
    streams.watcher.on_time()
    assert streams.link.failed
    assert not streams.watcher.can_vouch


async def test_what_has_ended_is_forgotten_wherever_it_was_known(streams: Streams):
    """A guarded route also carries short requests, by the million."""
    cookie = streams.world.sign_in()
    for _ in range(50):
        number = await streams.opened(cookie=cookie)
        streams.watcher.close(streams.link, number)
    watcher = streams.watcher
    assert len(watcher) == 0
    agenda = watcher._agenda
    assert (watcher._by_record, watcher._by_route, agenda._streams, watcher._doubtful) == ({}, {}, {}, {})
    assert len(agenda._tenths) == len(agenda._known_tenths) == 1
    await streams.opened(cookie=cookie)
    watcher.leave(streams.link)
    assert (watcher._by_record, watcher._by_route, agenda._streams) == ({}, {}, {})


async def test_a_policy_that_reads_the_clock_says_when_to_ask_again(streams: Streams, monkeypatch: pytest.MonkeyPatch):
    number = await streams.opened("public")
    policy = streams.world.evaluator.snapshot.routes["public"].policy
    began = streams.world.clock.now()

    class Clocked:
        digest = policy.digest

        def decide(self, facts: Facts) -> Decision:
            return Decision(effect=Effect.ALLOW if facts.now < began + 60 else Effect.DENY, reasons=("time",))

        def next_change(self, facts: Facts) -> float | None:
            return began + 60 if facts.now < began + 60 else None

    routes = streams.world.evaluator.snapshot.routes
    monkeypatch.setitem(routes, "public", replace(routes["public"], policy=Clocked()))  # type: ignore[type-var]
    streams.watcher._doubt_all()
    assert await streams.settle() == []
    streams.world.clock.advance(59.8)
    streams.watcher.on_time()
    assert await streams.settle() == []
    streams.world.clock.advance(0.3)
    streams.watcher.on_time()
    assert await streams.settle() == [(number, False, "time")]


async def test_s43_what_is_deleted_without_a_revoke_ends_as_well(streams: Streams):
    """The store's word counts, whoever changed it."""
    cookie = streams.world.sign_in()
    number = await streams.opened(cookie=cookie)
    known = list(streams.world.records.data)
    streams.world.records.data.clear()
    streams.watcher.on_record("User", next(user for kind, user in known if kind == "User"))
    assert await streams.settle() == [(number, False, "session-ended")]
    assert not passed(await streams.world.check(cookie=cookie))


async def test_s42_a_superseded_session_touches_nothing_of_its_successor(tmp_path: Path):
    """A new sign-in has a new session; the cookie of the old one must neither work nor keep anything alive."""
    touched: list[str] = []
    streams = Streams(tmp_path, touched.append)
    old = streams.world.sign_in("alice")
    number = await streams.opened(cookie=old)
    session = Session.from_bytes(streams.world.records.data.pop(("Session", ALICE)))
    successor = replace(session, id="f" * 32)
    streams.world.records.data["Session", successor.id] = successor.to_bytes()
    streams.watcher.on_record("Session", ALICE)
    assert await streams.settle() == [(number, False, "session-ended")]
    assert not passed(await streams.world.check(cookie=old))
    streams.world.clock.advance(10)
    touched.clear()
    streams.watcher.on_time()
    assert touched == []


class Uses:
    """What other authorizers have seen, as `ActivityTracker` asks for it."""

    def __init__(self) -> None:
        self.seen_at: float | None = None

    async def get(self, record_type: str, record_id: str) -> Record:
        if self.seen_at is None:
            raise NotFoundError(record_id)
        return Record(type=record_type, id=record_id, data=Activity(seen_at=self.seen_at).to_bytes())

    async def put(self, writes: object) -> tuple[RecordVersion, ...]:
        return ()


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "counts"])
async def test_s66_a_stream_does_not_outlive_an_idle_session_where_it_does_not_count_as_use(
    tmp_path: Path, strict: bool
):
    streams = Streams(tmp_path)
    uses = Uses()
    activity = ActivityTracker(uses, lambda: 60.0, streams.world.clock)
    streams.world.principals._activity = activity
    streams.watcher._touch = activity.touch
    if strict:
        await streams.change(GUARDED.replace("- name: app", "- name: app\n    idle: strict"))
    number = await streams.opened(cookie=streams.world.sign_in())

    async def passes(seconds: float) -> list[tuple[int, bool, str]]:
        streams.world.clock.advance(seconds)
        streams.watcher.on_time()
        await streams.watcher.settle()
        await streams.watcher.end_idle()
        return await streams.settle()

    assert await passes(59) == []
    uses.seen_at = streams.world.clock.now()
    assert await passes(1.2) == [], "another authorizer has seen the session in use"
    uses.seen_at = None
    assert await passes(57) == []
    ended = [*await passes(1.9), *await passes(0.2)]
    assert ended == ([(number, False, "session-idle")] if strict else [])


async def test_streams_count_as_use_as_often_as_the_idle_time_needs_it(tmp_path: Path):
    """Ten thousand streams are looked through for it."""
    touched: list[str] = []
    streams = Streams(tmp_path, touched.append)
    await streams.opened(cookie=streams.world.sign_in())
    for idle, seconds, times in ((None, 100, 0), (60.0, 20, 10), (1_000.0, 100, 10)):
        touched.clear()
        streams.watcher._idle_seconds = lambda idle=idle: idle
        for _ in range(seconds):
            streams.world.clock.advance(1.0)
            streams.watcher.on_time()
        assert len(touched) == times


TEAM = GUARDED.replace("{accept: true}", "{http_header/x-team: blue}")


async def test_the_headers_that_a_policy_reads_travel_with_the_stream_and_no_others(tmp_path: Path):
    streams = Streams(tmp_path)
    await streams.change(TEAM)
    number = await streams.opened("public", x_team="blue", x_other="secret")
    assert b"secret" not in await streams.describe("public", x_team="blue", x_other="secret")
    streams.watcher._doubt_all()
    assert await streams.settle() == []
    assert await streams.change(TEAM.replace("x-team: blue", "x-team: red")) == [
        (number, False, "http-header-unauthorized")
    ]


@pytest.mark.parametrize("second", ["admin", "blue,admin"])
async def test_s09_each_value_of_a_header_is_looked_at(tmp_path: Path, second: str):
    """Joined, or judged by the first of them, two values say what neither does."""
    streams = Streams(tmp_path)
    await streams.change(TEAM)
    request = CheckRequest.FromString(streams.world.request("public", x_team="blue"))
    request.attributes.request.http.header_map.headers.add(key="x-team").raw_value = second.encode()
    answer = streams.world.checker.check(request.SerializeToString())
    assert isinstance(answer, bytes)
    assert not passed(CheckResponse.FromString(answer))
    assert not passed(await streams.world.check("public", x_team="blue,admin"))


PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


async def traced(streams: Streams, parent: str = PARENT, **options: str) -> list[tuple[str, str, str]]:
    """What a stream's spans say, from now on; the stream itself is number 1."""
    found: list[tuple[str, str, str]] = []

    def take(spans: Sequence[Span]) -> None:
        for span in spans:
            assert (span.trace_id, span.parent_id) == ("a" * 32, "b" * 16)
            found.append(
                (span.name, span.attributes.get("doorward.outcome", ""), span.attributes.get("doorward.reason", ""))
            )

    tracer = Tracer(0.0, take, streams.world.clock.now, lambda: 0.5)
    streams.watcher._spans = StreamSpans(tracer)
    streams.world.checker._tracer = tracer
    data = await streams.describe(cookie=streams.world.sign_in(), traceparent=parent, **options)
    found.clear()
    streams.open(data)
    return found


OPEN = ("open stream", "allow", "")


async def test_the_spans_of_a_stream_say_that_it_opened_and_why_it_ended(streams: Streams):
    found = await traced(streams)
    streams.watcher.on_record("User", "provider/alice")
    await streams.settle()
    assert found == [OPEN], "deciding again is none"
    del streams.world.records.data["Session", ALICE]
    streams.watcher.on_record("Session", ALICE)
    await streams.settle()
    assert found == [OPEN, ("guarded stream", "", "session-ended")]


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda streams: streams.watcher.close(streams.link, 1), "closed"),
        (lambda streams: streams.watcher.leave(streams.link), "handed-over"),
    ],
)
async def test_a_stream_that_is_not_cut_has_its_span_too(streams: Streams, end: Callable[[Streams], None], reason: str):
    found = await traced(streams)
    end(streams)
    assert found == [OPEN, ("guarded stream", "", reason)]


async def test_a_stream_that_is_refused_when_it_is_named_has_a_span_that_says_so(streams: Streams):
    await traced(streams)
    data = await streams.describe(cookie=streams.world.sign_in("bob", number=2), traceparent=PARENT)
    found = await traced(streams)
    found.clear()
    streams.world.reload(GUARDED.replace(":9000", ":9009"))
    streams.open(data)
    assert found == [("open stream", "deny", "route-changed")]


async def test_a_stream_of_no_sampled_trace_has_no_spans(streams: Streams):
    for parent in (PARENT[:-1] + "0", "junk"):
        found = await traced(streams, parent)
        streams.watcher.close(streams.link, 1)
        assert found == []
