"""Proofs and limits, on a clock that the test moves."""

import asyncio
import base64

import pytest
from prometheus_client import CollectorRegistry
from tests.support.fake_clock import FakeClock

from doorward.envoy_api.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest
from doorward.route.internal import METADATA_NAMESPACE, METADATA_STREAM
from doorward_proxy.guard.messages import HEADERS_PASS, TRAILERS_PASS
from doorward_proxy.guard.metrics import GuardMetrics
from doorward_proxy.guard.streams import ANSWER_SECONDS, LOOK_SECONDS, TICK_SECONDS, Streams

DENIED, NOT_FOUND, UNAVAILABLE, INTERNAL = 7, 5, 14, 13


class FakeCall:
    """A call as the streams see it."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.answers: list[bytes] = []
        self.status: int | None = None

    @property
    def open(self) -> bool:
        return self.status is None

    @property
    def answered(self) -> bool:
        return bool(self.answers)

    def answer(self, message: bytes) -> None:
        self.answers.append(message)

    def end(self, status: int) -> None:
        if self.status is None:
            self.status = status
            self._streams.on_closed(self)  # type: ignore[arg-type]  # has what is used


class World:
    def __init__(self, limit: int = 100) -> None:
        self.clock = FakeClock()
        self.streams = Streams(self.clock, GuardMetrics(CollectorRegistry()), limit)

    def open(self, description: bytes = b"stream") -> FakeCall:
        call = FakeCall(self.streams)
        self.streams.on_message(call, begin(description))  # type: ignore[arg-type]  # has what is used
        return call

    def vouched(self, limit: float = 5.0) -> FakeCall:
        """An open stream with a verdict and a proof of this moment."""
        call = self.open()
        self.streams.on_proof(self.clock.monotonic())
        _, opened = self.streams.taken()
        self.streams.on_verdict(opened[-1].number, allowed=True, limit=limit, reason="")
        assert call.answers == [HEADERS_PASS]
        return call

    def number(self, call: FakeCall) -> int:
        return next(stream.number for stream in self.streams if stream.call is call)  # type: ignore[comparison-overlap]


def begin(description: bytes) -> bytes:
    message = ProcessingRequest()
    message.request_headers.SetInParent()
    metadata = message.metadata_context.filter_metadata[METADATA_NAMESPACE]
    metadata.fields[METADATA_STREAM].string_value = base64.b64encode(description).decode()
    return message.SerializeToString()


def trailers() -> bytes:
    message = ProcessingRequest()
    message.response_trailers.SetInParent()
    return message.SerializeToString()


@pytest.fixture
def world() -> World:
    return World()


def test_nothing_passes_before_its_verdict(world: World):
    call = world.open()
    world.streams.on_proof(world.clock.monotonic())
    world.streams.tick()
    assert call.answers == []
    assert call.open


def test_a_stream_without_a_verdict_in_time_is_cut_before_it_passed(world: World):
    call = world.open()
    world.clock.advance(ANSWER_SECONDS)
    world.streams.tick()
    assert (call.answers, call.status) == ([], UNAVAILABLE)


def test_a_refused_stream_never_passes(world: World):
    call = world.open()
    world.streams.on_verdict(world.number(call), allowed=False, limit=0, reason="denied")
    assert (call.answers, call.status) == ([], DENIED)


def test_a_no_that_is_no_refusal_may_be_asked_again(world: World):
    """Envoy turns the status into 403 or 503."""
    call = world.open()
    world.streams.on_verdict(world.number(call), allowed=False, limit=0, reason="route-changed", unavailable=True)
    assert (call.answers, call.status) == ([], UNAVAILABLE)


def test_a_stream_goes_on_while_proofs_come_and_is_cut_when_they_end(world: World):
    call = world.vouched(limit=5.0)
    for _ in range(10):
        world.clock.advance(1.0)
        world.streams.on_proof(world.clock.monotonic())
        world.streams.tick()
        assert call.open
    world.clock.advance(4.99)
    world.streams.tick()
    assert call.open
    world.clock.advance(0.01)
    world.streams.tick()
    assert call.status == UNAVAILABLE


def test_old_data_count_against_the_limit_although_the_authorizer_speaks(world: World):
    """An authorizer that is cut off from the records must not keep streams alive by chatting."""
    call = world.vouched(limit=5.0)
    began = world.clock.monotonic()
    for _ in range(5):
        world.clock.advance(1.0)
        world.streams.on_proof(began)
        world.streams.tick()
    assert call.status == UNAVAILABLE


def test_each_route_has_its_own_limit(world: World):
    strict, lax = world.vouched(limit=2.0), world.vouched(limit=5.0)
    world.clock.advance(2.0)
    world.streams.tick()
    assert (strict.status, lax.status) == (UNAVAILABLE, None)


def test_the_loss_of_an_authorizer_cuts_nothing_until_the_limit(world: World):
    call = world.vouched(limit=5.0)
    world.clock.advance(1.0)
    world.streams.on_proof(world.clock.monotonic())
    world.streams.on_lost()
    world.clock.advance(4.9)
    world.streams.tick()
    assert call.open
    world.clock.advance(0.1)
    world.streams.tick()
    assert call.status == UNAVAILABLE


def test_another_authorizer_takes_over_and_hears_of_every_stream(world: World):
    calls = [world.vouched(limit=5.0) for _ in range(3)]
    world.streams.on_lost()
    world.clock.advance(3.0)
    world.streams.on_proof(world.clock.monotonic())
    world.streams.name_all()
    closed, opened = world.streams.taken()
    assert closed == []
    assert [stream.call for stream in opened] == calls
    for stream in opened[:2]:
        world.streams.on_verdict(stream.number, allowed=True, limit=5.0, reason="")
    world.clock.advance(2.0)
    world.streams.tick()
    assert [call.status for call in calls] == [None, None, UNAVAILABLE], "the third was never vouched for again"
    assert calls[0].answers == [HEADERS_PASS], "answered once"


def test_losses_one_after_another_do_not_add_up(world: World):
    """A stream that no authorizer confirmed keeps its oldest proof, however many authorizers come and go."""
    call = world.vouched(limit=5.0)
    for _ in range(5):
        world.streams.on_lost()
        world.clock.advance(1.0)
        world.streams.on_proof(world.clock.monotonic())
        world.streams.name_all()
        world.streams.tick()
    assert call.status == UNAVAILABLE


def test_a_changed_limit_counts_at_once(world: World):
    call = world.vouched(limit=60.0)
    world.streams.on_verdict(world.number(call), allowed=True, limit=1.0, reason="")
    world.clock.advance(1.0)
    world.streams.tick()
    assert call.status == UNAVAILABLE


def test_what_is_due_first_says_when_to_look_again(world: World):
    assert world.streams.tick() == LOOK_SECONDS
    world.vouched(limit=5.0)
    world.vouched(limit=2.0)
    assert world.streams.tick() == LOOK_SECONDS
    world.clock.advance(1.9)
    assert world.streams.tick() == pytest.approx(0.1)
    world.streams.on_proof(world.clock.monotonic())
    waiting = world.open()
    world.clock.advance(ANSWER_SECONDS - 0.01)
    assert world.streams.tick() == TICK_SECONDS, "not without end for what is due in a moment"
    assert waiting.open


async def test_a_limit_that_is_shorter_than_all_others_is_kept_to_the_moment(world: World):
    """Although it came while the others let one look away."""
    world.vouched(limit=5.0)
    keeping = asyncio.create_task(world.streams.keep())
    await asyncio.sleep(0)
    strict = world.open()
    world.clock.advance(1.0)
    world.streams.on_verdict(world.number(strict), allowed=True, limit=1.0, reason="")
    for _ in range(5):
        await asyncio.sleep(0)
    keeping.cancel()
    assert strict.status == UNAVAILABLE


def test_trailers_pass_and_nothing_else_does(world: World):
    call = world.vouched()
    world.streams.on_message(call, trailers())  # type: ignore[arg-type]  # has what is used
    assert call.answers == [HEADERS_PASS, TRAILERS_PASS]
    world.streams.on_message(call, begin(b"again"))  # type: ignore[arg-type]  # has what is used
    assert call.answers == [HEADERS_PASS, TRAILERS_PASS]


def test_a_request_that_check_did_not_describe_is_refused(world: World):
    for message in (ProcessingRequest().SerializeToString(), trailers(), begin(b"")):
        call = FakeCall(world.streams)
        world.streams.on_message(call, message)  # type: ignore[arg-type]  # has what is used
        assert call.status == NOT_FOUND
    assert len(world.streams) == 0


def test_streams_that_end_by_themselves_are_told_and_forgotten(world: World):
    call = world.vouched()
    number = world.number(call)
    call.status = 1
    world.streams.on_closed(call)  # type: ignore[arg-type]  # has what is used
    assert world.streams.taken() == ([number], [])
    assert len(world.streams) == 0
    world.streams.on_verdict(number, allowed=False, limit=0, reason="late")


def test_beyond_the_limit_and_while_stopping_nothing_new_is_taken():
    world = World(limit=1)
    first, second = world.open(), world.open()
    assert (first.status, second.status) == (None, UNAVAILABLE)
    world.streams.stop()
    assert first.status == UNAVAILABLE
    assert world.open().status == UNAVAILABLE
