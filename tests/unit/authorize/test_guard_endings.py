"""Every way in which authorize's part in a guarded stream can fail, at every line of it: the stream ends, or the guard loses its proof.

A stream is opened, its access ends, and it is decided again. Once for each line that runs, something is raised at that line. What escapes
from reading a guard's words ends that guard's call; what escapes from hearing of a change, every guard's; what escapes from deciding again
ends the process. All are a loss to the guard, which cuts at its limit. What escapes while others are asked whether a session is idle is lost, and they are asked again. Else the guard must
have been told to cut.
"""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog.testing
from tests.support.key_material import keyring
from tests.support.sabotage import Sabotage, every_point
from tests.support.token_issuer import TokenIssuer
from tests.unit.authorize.test_client_certificates import Certified
from tests.unit.authorize.test_external_tokens import Issued
from tests.unit.authorize.test_guard_watcher import ALICE, GUARDED, Streams, Uses, description

from doorward.api.guard.v1.guard_pb2 import WatchStreamsRequest, WatchStreamsResponse
from doorward.errors import UnavailableError
from doorward.keys.store import Purpose
from doorward_authorize import certificate, evaluator, external_tokens, principals, snapshot
from doorward_authorize.activity import ActivityTracker
from doorward_authorize.guard import agenda, dependence, idleness, service, watcher
from doorward_authorize.guard import description as descriptions


class PlantedError(Exception):
    """Stands for a bug."""


@dataclass(frozen=True)
class Life:
    """How a stream begins, and what ends its access."""

    begin: Callable[[Streams], Awaitable[bytes]]
    end: Callable[[Streams], None]
    made: Callable[[Path], Streams] = Streams


async def _by_cookie(streams: Streams) -> bytes:
    return await streams.describe(cookie=streams.world.sign_in())


async def _by_token(streams: Streams) -> bytes:
    return await streams.describe(authorization=f"Bearer {streams.world.account()}")


async def _by_certificate(streams: Streams) -> bytes:
    assert isinstance(streams.world, Certified)
    return description(await streams.world.ask("machine", streams.world.authority.client()))


async def _by_foreign_token(streams: Streams) -> bytes:
    assert isinstance(streams.world, Issued)
    return description(await streams.world.ask("builds", streams.world.token()))


def _revoke(streams: Streams) -> None:
    streams.world.records.data.pop(("Session", ALICE), None)
    streams.watcher.on_record("Session", ALICE)


def _revoke_account(streams: Streams) -> None:
    for kind, account in [key for key in streams.world.records.data if key[0] == "ServiceAccount"]:
        del streams.world.records.data[kind, account]
        streams.watcher.on_record(kind, account)


def _expire(streams: Streams) -> None:
    streams.world.clock.advance(3601)
    streams.watcher.on_time()


def _change_policy(streams: Streams) -> None:
    before = streams.world.evaluator.snapshot
    config = (streams.world.folder / "doorward.yaml").read_text()
    streams.world.reload(config.replace("{authenticated_user: true}", "{groups: {has: nobody}}"))
    streams.watcher.on_snapshot(before, streams.world.evaluator.snapshot)


def _outlast_the_lists(streams: Streams) -> None:
    streams.world.clock.advance(6)
    streams.watcher.on_time()


def _take_keys_away(streams: Streams) -> None:
    assert isinstance(streams.world, Issued)
    streams.world.learn(TokenIssuer())
    streams.watcher.on_record(*streams.world.ci.record(0)[0])


def _revoke_key(streams: Streams) -> None:
    streams.world.handle_keys.take_over(keyring(Purpose.SESSION_HANDLE, "new"))
    streams.watcher.on_time()


def _issued(folder: Path) -> Streams:
    return Streams(folder, world=Issued(folder))


def _certified(folder: Path) -> Streams:
    world = Certified(folder)
    world.revoke(ends=dt.timedelta(seconds=5))
    return Streams(folder, world=world)


def _strict(folder: Path) -> Streams:
    streams = Streams(folder)
    streams.world.reload(GUARDED.replace("- name: app", "- name: app\n    idle: strict"))
    streams.world.principals._activity = ActivityTracker(Uses(), lambda: 60.0, streams.world.clock)
    return streams


def _be_idle(streams: Streams) -> None:
    streams.world.clock.advance(61)
    streams.watcher.on_time()


LIVES = {
    "revoked": Life(_by_cookie, _revoke),
    "expired": Life(_by_cookie, _expire),
    "another policy": Life(_by_cookie, _change_policy),
    "account revoked": Life(_by_token, _revoke_account),
    "lists of certificates ran out": Life(_by_certificate, _outlast_the_lists, _certified),
    "foreign keys gone": Life(_by_foreign_token, _take_keys_away, _issued),
    "key revoked": Life(_by_cookie, _revoke_key),
    "idle": Life(_by_cookie, _be_idle, _strict),
}
MODULES = (
    watcher,
    agenda,
    idleness,
    dependence,
    descriptions,
    evaluator,
    principals,
    snapshot,
    certificate,
    external_tokens,
)


@pytest.mark.parametrize(
    ("life", "error"),
    [
        *((life, PlantedError) for life in LIVES),
        *((life, asyncio.CancelledError) for life in ("revoked", "expired", "another policy")),
    ],
)
def test_a_failure_at_any_point_ends_the_stream_or_the_proof(tmp_path: Path, life: str, error: type[BaseException]):
    ends: list[tuple[bool, bool]] = []

    def run(sabotage: Sabotage) -> None:
        streams = LIVES[life].made(tmp_path)
        lost = False

        async def lived() -> None:
            nonlocal lost
            data = await LIVES[life].begin(streams)
            try:
                with sabotage:
                    streams.open(data)
                    LIVES[life].end(streams)
                    await streams.watcher.settle()
                    # A task of its own: nobody hears how it ends.
                    with contextlib.suppress(PlantedError, asyncio.CancelledError):
                        await streams.watcher.end_idle()
                    await streams.watcher.settle()
            except (PlantedError, asyncio.CancelledError):
                lost = True
            # A clock that goes on, in an authorizer that works again.
            for _ in range(2):
                streams.world.clock.advance(watcher.IDLE_ASK_SECONDS)
                streams.watcher.on_time()
                await streams.watcher.settle()
                await streams.watcher.end_idle()

        asyncio.run(lived())
        said = [verdict.allowed for verdict in streams.link.said]
        ends.append((lost or streams.link.failed, bool(said) and said[-1]))

    count = 0
    with structlog.testing.capture_logs():
        for place in every_point(run, *MODULES, error=error):
            is_lost, goes_on = ends.pop()
            assert is_lost or not goes_on, f"{life}: goes on unwatched, failed in {place}"
            count += 1
    assert count > 50, "the watcher's lines were not found"


class Call:
    """A guard's call, and what it has heard."""

    def __init__(self, streams: Streams) -> None:
        self.servicer = service.GuardServicer(streams.watcher, lambda: 0.0, streams.world.metrics.failures.inc)
        self.words: asyncio.Queue[WatchStreamsRequest] = asyncio.Queue()
        self.heard: list[WatchStreamsResponse] = []
        self.task = asyncio.create_task(self._listen())

    async def _said(self) -> AsyncIterator[WatchStreamsRequest]:
        while True:
            yield await self.words.get()

    async def _listen(self) -> None:
        async for response in self.servicer.WatchStreams(self._said(), None):  # type: ignore[arg-type]  # it is not used
            self.heard.append(response)

    async def say(self, request: WatchStreamsRequest) -> None:
        """Say something and wait until nothing more happens."""
        self.words.put_nowait(request)
        for _ in range(30):
            await asyncio.sleep(0)

    @property
    def vouches(self) -> bool:
        """Whether the guard would let the stream go on: the call lives, and the newest word with the newest stamp is a yes."""
        verdicts = [verdict.allowed for response in self.heard for verdict in response.verdicts]
        proven = any(response.stamp == 3 for response in self.heard)
        return not self.task.done() and proven and bool(verdicts) and verdicts[-1]


@pytest.mark.parametrize("error", [PlantedError, asyncio.CancelledError])
def test_a_failure_at_any_point_of_a_guards_call_ends_the_call_the_stream_or_the_proof(
    tmp_path: Path, error: type[BaseException]
):
    vouching: list[bool] = []

    def run(sabotage: Sabotage) -> None:
        streams = Streams(tmp_path)

        async def lived() -> None:
            data = await _by_cookie(streams)
            opened = WatchStreamsRequest(opened=[WatchStreamsRequest.Open(number=7, description=data)], stamp=1)
            call = Call(streams)
            with sabotage:
                await call.say(opened)
                _revoke(streams)
                await call.say(WatchStreamsRequest(stamp=2))
            await call.say(WatchStreamsRequest(stamp=3))
            vouching.append(call.vouches)
            call.task.cancel()
            await asyncio.gather(call.task, return_exceptions=True)

        asyncio.run(lived())

    count = 0
    with structlog.testing.capture_logs():
        for place in every_point(run, service, error=error):
            assert not vouching.pop(), f"vouched for after its end, failed in {place}"
            count += 1
    assert count > 50, "the call's lines were not found"


async def test_nothing_fails_and_the_guard_is_told_to_let_go_on_and_then_to_cut(tmp_path: Path):
    """Else the others would hold whatever happens."""
    streams = Streams(tmp_path)
    data = await _by_cookie(streams)
    call = Call(streams)
    await call.say(WatchStreamsRequest(opened=[WatchStreamsRequest.Open(number=7, description=data)], stamp=3))
    assert call.vouches
    _revoke(streams)
    await call.say(WatchStreamsRequest(stamp=3))
    assert not call.vouches
    assert not call.task.done()
    call.task.cancel()
    await asyncio.gather(call.task, return_exceptions=True)


@pytest.mark.parametrize("change", ["a record", "the configuration"])
async def test_a_change_that_cannot_be_looked_at_ends_every_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
):
    """Whoever tells of it, the replica or whoever reads the configuration, logs what is raised and goes on."""
    streams = Streams(tmp_path)
    data = await _by_cookie(streams)
    call = Call(streams)
    await call.say(WatchStreamsRequest(opened=[WatchStreamsRequest.Open(number=7, description=data)], stamp=3))
    assert call.vouches

    def fails(*_: object) -> None:
        raise PlantedError

    streams.world.records.data.pop(("Session", ALICE))
    with monkeypatch.context() as patched:
        patched.setattr(watcher.Watcher, "on_record", fails)
        patched.setattr(watcher.Watcher, "on_snapshot", fails)
        snapshot = streams.world.evaluator.snapshot
        match change:
            case "a record":
                call.servicer.on_record("Session", ALICE)
            case _:
                call.servicer.on_snapshot(snapshot, snapshot)
    await call.say(WatchStreamsRequest(stamp=3))
    assert isinstance(call.task.exception(), UnavailableError)
    assert streams.world.registry.get_sample_value("doorward_check_failures_total") == 1, "an alert must tell of it"
    again = Call(streams)
    await again.say(WatchStreamsRequest(opened=[WatchStreamsRequest.Open(number=7, description=data)], stamp=3))
    assert not again.vouches
    again.task.cancel()
    await asyncio.gather(again.task, return_exceptions=True)
