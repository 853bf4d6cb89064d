"""Which streams a change concerns, and what becomes of them. No input or output.

A stream is found by what its decision read: the records of its principal, its route, and the time at which the same
facts may be judged otherwise. Only the streams that a change concerns are decided again, in slices, so that checks are
answered in between.

Concurrency: belongs to one event loop; ``run`` is one task.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog

from doorward.clock import Clock
from doorward.config.settings import Settings
from doorward.errors import DataCorruptedError, NotFoundError
from doorward.identity import session as sessions
from doorward.identity import user as users
from doorward.identity.directory import GROUP_TYPE, STATE_TYPE, USER_TYPE
from doorward.identity.external_record import RECORD_TYPE as EXTERNAL_TYPE
from doorward.identity.external_record import SOURCE_TYPE
from doorward.identity.grant import RECORD_TYPE as GRANT_TYPE
from doorward.identity.grant import holder_of
from doorward.identity.session import Session
from doorward.policy import Facts
from doorward.route.route import CertificateUse
from doorward.telemetry.background import watched
from doorward_authorize.client_certificates import ID_PREFIX as CERTIFICATE_PREFIX
from doorward_authorize.client_certificates import principal_of
from doorward_authorize.evaluator import Evaluator
from doorward_authorize.guard.agenda import Agenda, discard
from doorward_authorize.guard.dependence import differs, limits, records_of, vouching
from doorward_authorize.guard.description import Description, read_description
from doorward_authorize.guard.idleness import is_idle
from doorward_authorize.guard.spans import CLOSED, HANDED_OVER, NO_SPANS, StreamSpans
from doorward_authorize.guard.stream import StreamVerdict, WatchedStream, Watching
from doorward_authorize.metrics import AuthorizeMetrics
from doorward_authorize.outcome import Outcome, Verdict
from doorward_authorize.principal import Principal, Rejected
from doorward_authorize.principals import Principals
from doorward_authorize.snapshot import CompiledRoute, Snapshot

TICK_SECONDS = 0.1
"""How late a boundary of the clock may be noticed."""
SIGN_IN_SECONDS = 0.3
"""How long a stream waits for a sign-in that has not arrived here; below what its guard waits for a verdict."""
IDLE_ASK_SECONDS = 5.0
"""How soon a stream is looked at again whose session seems idle; by then it is known."""
TOUCH_SECONDS = 2.0
"""The least pause between two times that sessions with open streams are noted as used; the shortest idle time that can be
configured is thirty times as long."""
_TOUCHED_PART = 100
"""Of a longer idle time, the part that passes between them."""
SLICE = 25
"""Streams decided again before others get their turn; about a millisecond's worth."""
_BACKWARDS_SECONDS = 0.5
"""A wall clock that goes back further than this was set, and every stream is decided again."""

_RECORD_READ = "record/"
"""How a policy declares that it reads a kind of external record."""
_ROUTE_CHANGED, _MALFORMED, _FAILED = "route-changed", "description-malformed", "internal-error"
_NO_REFUSAL = frozenset({_ROUTE_CHANGED, _MALFORMED, _FAILED})
"""Reasons for which a check is answered with 503: Envoy still goes by a former configuration, or something is broken."""
_SESSION_ENDED = "session-ended"
_SESSION_IDLE = "session-idle"
_KEY_REVOKED = "key-revoked"

_log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class _Cut:
    """Why a stream must end."""

    reasons: tuple[str, ...]
    outcome: Outcome | None = None

    def verdict(self, number: int) -> StreamVerdict:
        """What is said of it."""
        unavailable = not _NO_REFUSAL.isdisjoint(self.reasons)
        return StreamVerdict(number, allowed=False, reason=",".join(self.reasons), unavailable=unavailable)


@dataclass(slots=True)
class _Link:
    streams: dict[int, WatchedStream] = field(default_factory=dict)


class Watcher:
    """Watches the streams of every guard that has a call here."""

    def __init__(
        self,
        evaluator: Evaluator,
        principals: Principals,
        is_fresh: Callable[[float], bool],
        clock: Clock,
        metrics: AuthorizeMetrics,
        touch: Callable[[str], None] = lambda _: None,
        on_cut: Callable[[Description, Outcome], None] = lambda *_: None,
        idle_seconds: Callable[[], float | None] = lambda: TOUCH_SECONDS,
        spans: StreamSpans = NO_SPANS,
    ) -> None:
        """``touch`` hears of sessions that are in use, when any can be idle at all; ``on_cut`` of streams that are ended here."""
        self._idle_seconds = idle_seconds
        self._on_cut = on_cut
        self._spans = spans
        self._touch = touch
        self._touched = float("-inf")
        self._evaluator = evaluator
        self._principals = principals
        self._is_fresh = is_fresh
        self._clock = clock
        self._metrics = metrics
        self._links: dict[Watching, _Link] = {}
        self._by_record: dict[tuple[str, str], dict[WatchedStream, None]] = {}
        self._by_route: dict[str, dict[WatchedStream, None]] = {}
        self._agenda = Agenda()
        self._doubtful: dict[WatchedStream, None] = {}
        self._perhaps_idle: dict[WatchedStream, Session] = {}
        self._awaited: dict[WatchedStream, float] = {}
        """New streams whose session is not known here, with the monotonic time until which it may still arrive."""
        self._wake = asyncio.Event()
        self._seen_now = clock.now()
        self._groups_changed = False
        self._keys = principals.keys

    @property
    def can_vouch(self) -> bool:
        """Whether the data are fresh enough for anybody."""
        return self._is_fresh(self._evaluator.snapshot.settings.staleness.longest)

    def __len__(self) -> int:
        return sum(len(link.streams) for link in self._links.values())

    # What the guards say.

    def join(self, link: Watching) -> None:
        """A guard's call begins."""
        self._links[link] = _Link()

    def leave(self, link: Watching) -> None:
        """A guard's call has ended, and with it our part in its streams."""
        for stream in tuple(self._links[link].streams.values()):
            self._forget(stream, HANDED_OVER)
        del self._links[link]

    def open(self, link: Watching, number: int, data: bytes) -> None:
        """Decide a stream, say so, and watch it if it may go on. It is watched before it is decided."""
        stream: WatchedStream | None = None
        try:
            stream = WatchedStream(
                link, number, read_description(data, self._evaluator.snapshot.routes.get), began=self._clock.now()
            )
            self._enter(stream)
            cut = self._judge(stream)
        except NotFoundError:
            cut = _Cut((_ROUTE_CHANGED,))
        except DataCorruptedError as error:
            _log.error("a guard names a stream that no check described", error=str(error))
            cut = _Cut((_MALFORMED,))
        except Exception as error:
            # A bug here must refuse the stream, not leave it unwatched.
            self._metrics.failures.inc()
            _log.error("a stream could not be decided and is refused", error=str(error), exc_info=True)
            cut = _Cut((_FAILED,))
        if cut is None and stream is not None:
            self._allow(stream)
        elif cut is not None and stream is not None and cut.reasons == (_SESSION_ENDED,):
            # The check may have known of a sign-in that this replica has not heard of yet.
            self._awaited[stream] = self._clock.monotonic() + SIGN_IN_SECONDS
        elif stream is not None:
            self._end(stream, cut or _Cut((_FAILED,)))
        else:
            link.say((cut or _Cut((_FAILED,))).verdict(number))

    def close(self, link: Watching, number: int) -> None:
        """A stream has ended by itself. Unknown numbers are those that we have ended."""
        stream = self._links[link].streams.get(number)
        if stream is not None:
            self._forget(stream, CLOSED)

    # What changes.

    def on_record(self, record_type: str, record_id: str) -> None:
        """A record has changed: the streams that read it are in doubt, and no others."""
        if record_type == GROUP_TYPE:
            # Many change at once when a directory is read; they are looked at together.
            self._groups_changed = True
            return
        if record_type == STATE_TYPE:
            # It changes whenever a directory is read, and then says no less than before. Asked each time: the next answer compares with this.
            has_gone_back = self._principals.has_directory_gone_back(record_id)
            self._groups_changed = self._groups_changed or has_gone_back
            return
        if record_type == GRANT_TYPE:
            # Its holder's streams: one that is given may open nothing, but one that ends may have been all that held them open.
            record_type, record_id = users.RECORD_TYPE, holder_of(record_id)
        self._doubt(self._by_record.get((record_type, record_id), ()))

    def on_snapshot(self, before: Snapshot, after: Snapshot) -> None:
        """The configuration has changed: the streams of the routes that differ are in doubt, and no others."""
        if vouching(before.settings) != vouching(after.settings):
            self._doubt_all()
            return
        limits_differ = limits(before.settings) != limits(after.settings)
        for route_id, streams in self._by_route.items():
            if limits_differ or differs(before.routes.get(route_id), after.routes.get(route_id)):
                self._doubt(streams)

    def on_time(self) -> None:
        """Time has passed: what is due is in doubt; with data that are too old for anybody, no guard is vouched for."""
        now = self._clock.now()
        if now < self._seen_now - _BACKWARDS_SECONDS:
            self._doubt_all()
        self._seen_now = now
        self._doubt(self._agenda.due(now))
        if self._awaited:
            over = self._clock.monotonic()
            self._doubt([stream for stream, until in self._awaited.items() if until <= over])
        if self._groups_changed:
            self._groups_changed = False
            for books in self._links.values():
                self._doubt(stream for stream in books.streams.values() if _stands_on_a_directory(stream))
        self._on_keys()
        idle = self._idle_seconds()
        if idle is not None and self._clock.monotonic() - self._touched >= max(TOUCH_SECONDS, idle / _TOUCHED_PART):
            self._touched = self._clock.monotonic()
            self._count_as_use()
        if not self.can_vouch:
            for link in tuple(self._links):
                link.fail()

    def _on_keys(self) -> None:
        """Where keys have changed: the streams are in doubt whose cookie or token was made with one that is held no more."""
        keys = self._principals.keys
        if any(now is not before for now, before in zip(keys, self._keys, strict=True)):
            for books in self._links.values():
                self._doubt(stream for stream in books.streams.values() if self._is_key_lost(stream.description))
            self._keys = keys

    def _is_key_lost(self, described: Description) -> bool:
        """What was opened before descriptions named keys has none, and goes by its session alone."""
        return bool(described.key) and not self._principals.holds_key(described.session_id, described.key)

    def _count_as_use(self) -> None:
        """An open stream is a use of its session, unless its route says otherwise."""
        routes = self._evaluator.snapshot.routes
        for (kind, record_id), streams in self._by_record.items():
            if kind == sessions.RECORD_TYPE and any(
                (route := routes.get(stream.description.route)) is not None and not route.route.idle_strict
                for stream in streams
            ):
                self._touch(record_id)

    # Deciding again.

    async def run(self) -> None:
        """Decide what is in doubt again until cancelled."""
        looked = float("-inf")
        asking: asyncio.Task[None] | None = None
        while True:
            if not self._doubtful:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_SECONDS):
                        await self._wake.wait()
            if self._clock.monotonic() - looked >= TICK_SECONDS:
                looked = self._clock.monotonic()
                self.on_time()
            await self.settle()
            # Asking others takes time that no revoke must wait for.
            if self._perhaps_idle and (asking is None or asking.done()):
                asking = watched(asyncio.create_task(self.end_idle()), "idle streams", self._metrics.failures.inc)

    async def end_idle(self) -> None:
        """End the streams whose sessions nobody has used, after one question for each session."""
        perhaps, self._perhaps_idle = self._perhaps_idle, {}
        answers: dict[str, bool] = {}
        for stream, session in perhaps.items():
            if session.id not in answers:
                answers[session.id] = await is_idle(self._principals, session, self._metrics)
            if answers[session.id] and self._is_watched(stream):
                self._end(stream, _Cut((_SESSION_IDLE,)))
        self._doubt(stream for stream in perhaps if self._is_watched(stream))

    async def settle(self) -> None:
        """Return when everything that is in doubt now is decided; other callbacks get their turn in between."""
        count = 0
        for stream in tuple(self._doubtful):
            if stream not in self._doubtful:
                continue  # it has ended, or somebody else has settled it
            del self._doubtful[stream]
            self._decide_again(stream)
            count += 1
            if count % SLICE == 0:
                await asyncio.sleep(0)

    def _decide_again(self, stream: WatchedStream) -> None:
        limit = stream.limit_seconds
        try:
            cut = self._judge(stream)
        except Exception as error:
            # What cannot be decided must end.
            self._metrics.failures.inc()
            _log.error("an open stream could not be decided and is cut", error=str(error), exc_info=True)
            cut = _Cut((_FAILED,))
        awaited = self._awaited.pop(stream, None) is not None
        if cut is not None:
            self._end(stream, cut)
        elif awaited or stream.limit_seconds != limit:
            self._allow(stream)

    def _judge(self, stream: WatchedStream) -> _Cut | None:
        """Why the stream must end, or ``None`` while it may go on; says when to ask again."""
        described = stream.description
        snapshot = self._evaluator.snapshot
        route = snapshot.routes.get(described.route)
        if (
            route is None
            or route.removed_at is not None
            or route.route.broken is not None
            or route.route.digest != described.digest
            or not route.route.takes(described.facts.method)
        ):
            return _Cut((_ROUTE_CHANGED,))
        if described.listed_origin and described.listed_origin not in route.route.allowed_origins:
            return _Cut(("foreign-origin",))
        staleness = snapshot.settings.staleness
        stream.limit_seconds = staleness.sensitive if route.route.sensitive else staleness.default
        certificate = described.certificate
        if certificate is not None and (
            route.route.client_certificate is CertificateUse.IGNORED
            or not certificate.counts(snapshot.settings, self._clock.now())
        ):
            return _Cut(("client-certificate-ended",))
        if self._is_key_lost(described):
            return _Cut((_KEY_REVOKED,))
        found = None
        if described.session_id:
            found = self._principal(described, route, snapshot.settings)
            if found is None or (isinstance(found, Principal) and found.user.id != described.user_id):
                return _Cut((_SESSION_ENDED,))
        speaks = certificate is not None and route.route.client_certificate is CertificateUse.PRINCIPAL
        if speaks and described.session_id and not described.session_id.startswith(CERTIFICATE_PREFIX):
            return _Cut(("credentials-conflict",))  # since the route has begun to listen to it
        if isinstance(found, Principal):
            self._reads(stream, found, route)
        outcome = self._evaluator.judge(found, described.facts, route)
        if speaks and certificate is not None and not described.session_id and outcome.verdict is Verdict.ALLOW:
            # Begun as nobody's; who holds it must be let in as well.
            outcome = self._evaluator.judge(principal_of(certificate), described.facts, route)
        if outcome.verdict is not Verdict.ALLOW:
            return _Cut(outcome.reasons or ("denied",), outcome)
        ends_at = min(found.session.expires_at, found.good_until) if isinstance(found, Principal) else float("inf")
        if certificate is not None:
            ends_at = min(ends_at, certificate.ends_at(snapshot.settings))
        if isinstance(found, Principal) and route.route.idle_strict:
            idle_at = self._principals.idle_at(found)
            if idle_at <= self._clock.now():
                # Another authorizer may have seen the session in use; that has to be asked, and is, by ``run``.
                self._perhaps_idle[stream] = found.session
                idle_at = self._clock.now() + IDLE_ASK_SECONDS
            ends_at = min(ends_at, idle_at)
        principal = found.facts if isinstance(found, Principal) else None
        inputs = Facts(principal=principal, request=described.facts, now=self._clock.now())
        changes_at = route.policy.next_change(inputs)
        self._agenda.put(stream, ends_at if changes_at is None else min(ends_at, changes_at))
        return None

    def _reads(self, stream: WatchedStream, found: Principal, route: CompiledRoute) -> None:
        """Note which records a stream is decided by; a refresh may name another directory entry, or another address."""
        stream.directory_user_id = found.user.directory_user_id if found.directory_mark is not None else ""
        further = {(USER_TYPE, stream.directory_user_id)} if stream.directory_user_id else set()
        further |= found.stands_on
        for kind in (name.removeprefix(_RECORD_READ) for name in route.policy.reads if name.startswith(_RECORD_READ)):
            further.add((SOURCE_TYPE, kind))
            if kind in found.external_ids:
                further.add((EXTERNAL_TYPE, found.external_ids[kind]))
        for key in stream.further - further:
            discard(self._by_record, key, stream)
        for key in further - stream.further:
            self._by_record.setdefault(key, {})[stream] = None
        stream.further = frozenset(further)

    def _principal(
        self, described: Description, route: CompiledRoute, settings: Settings
    ) -> Principal | Rejected | None:
        """Whose stream it is, as things are now."""
        if described.external is not None:
            return self._principals.of_external_token(described.external, route.route, settings)
        if not described.session_id.startswith(CERTIFICATE_PREFIX):
            return self._principals.of_session(described.session_id, settings)
        speaks = route.route.client_certificate is CertificateUse.PRINCIPAL and described.certificate is not None
        return principal_of(described.certificate) if speaks and described.certificate is not None else None

    def _allow(self, stream: WatchedStream) -> None:
        stream.link.say(StreamVerdict(stream.number, allowed=True, limit_seconds=stream.limit_seconds))
        self._spans.opened(stream.description, stream.began, self._clock.now(), was_open=stream.is_open)
        stream.is_open = True

    def _end(self, stream: WatchedStream, cut: _Cut) -> None:
        self._metrics.streams_cut.inc()
        reason = ",".join(cut.reasons)
        _log.info(
            "a stream is cut", decision_id=stream.description.decision_id, route=stream.description.route, reason=reason
        )
        stream.link.say(cut.verdict(stream.number))
        self._forget(stream, reason)
        described, said = stream.description, cut.outcome
        self._on_cut(
            described,
            Outcome(
                verdict=Verdict.CUT,
                reasons=cut.reasons,
                rule=said.rule if said is not None else None,
                route=self._evaluator.snapshot.routes.get(described.route),
                principal=said.principal if said is not None else None,
                user_id=described.user_id or None,
                session_id=described.session_id or None,
                decision=said.decision if said is not None else None,
            ),
        )

    # The books.

    def _enter(self, stream: WatchedStream) -> None:
        self._links[stream.link].streams[stream.number] = stream
        self._by_route.setdefault(stream.description.route, {})[stream] = None
        for key in records_of(stream.description):
            self._by_record.setdefault(key, {})[stream] = None
        self._metrics.guarded_streams.inc()

    def _forget(self, stream: WatchedStream, reason: str) -> None:
        self._links[stream.link].streams.pop(stream.number, None)
        self._awaited.pop(stream, None)
        self._perhaps_idle.pop(stream, None)
        self._doubtful.pop(stream, None)
        self._agenda.drop(stream)
        discard(self._by_route, stream.description.route, stream)
        for key in (*records_of(stream.description), *stream.further):
            discard(self._by_record, key, stream)
        self._metrics.guarded_streams.dec()
        self._spans.ended(stream.description, stream.began, self._clock.now(), reason, was_open=stream.is_open)

    def _is_watched(self, stream: WatchedStream) -> bool:
        link = self._links.get(stream.link)
        return link is not None and link.streams.get(stream.number) is stream

    def _doubt(self, streams: Iterable[WatchedStream]) -> None:
        for stream in streams:
            self._doubtful[stream] = None
        if self._doubtful:
            self._wake.set()

    def _doubt_all(self) -> None:
        for link in self._links.values():
            self._doubt(link.streams.values())


def _stands_on_a_directory(stream: WatchedStream) -> bool:
    """By whoever asks, or by whoever answers for a program."""
    return any(record_type == USER_TYPE for record_type, _ in stream.further)
