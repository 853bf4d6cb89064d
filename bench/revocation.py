"""How long access lasts after it has ended: from an acknowledged revoke to the refusal of a request, and to the end of a stream.

A whole deployment on this machine with real Envoy. Many people hold one open event stream each over HTTP/2; each trial
revokes one session and notes when ``Revoke`` answers *applied*, when the first request with that session is refused, and when
its stream ends. No request that begins after *applied* may pass. Then sessions with a hundred streams each are revoked, and at last
everybody loses access at once. What guard and authorizer cost while nothing happens, in memory and CPU, is read on the way, with all
streams and without any. Short by default; the published figures are made with ``--trials 1000 --streams 1000``, and with
``--trials 100 --streams 10000``.
"""

import argparse
import asyncio
import json
import secrets
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
from tests.support.deployment import short_folder
from tests.support.site import Site, signed_in, site

from doorward.config.endpoints import LocalEndpoints, default_run_folder
from doorward.identity import session as sessions
from doorward.identity import user as users
from doorward.identity.session import Session
from doorward.identity.user import User, user_id
from doorward.keys.handle import HandleSealer, SessionHandle
from doorward.keys.sealed import Sealer
from doorward.keys.store import KeyStore, Purpose
from doorward.records.client import RecordClient
from doorward.records.record import Record, RecordVersion, Write
from doorward.rpc.client import open_channel
from doorward.rpc.planes import Plane

HOST = "live.localhost"
STREAMS_A_CONNECTION = 100
STREAMS_A_SESSION = 100
IDLE_SECONDS = 10.0


@dataclass(eq=False)
class Person:
    """Somebody with a session and, mostly, an open stream."""

    session_id: str
    cookie: str
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ended_at: float = 0.0
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    status: int = 0


class Connection(asyncio.Protocol):
    """One HTTP/2 connection to Envoy with many streams on it."""

    def __init__(self) -> None:
        self._http2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._people: dict[int, Person] = {}
        self._statuses: dict[int, asyncio.Future[int]] = {}
        self._transport: asyncio.Transport | None = None

    @property
    def load(self) -> int:
        return len(self._people)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._http2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        for event in self._http2.receive_data(data):
            stream = getattr(event, "stream_id", 0)
            if isinstance(event, h2.events.ResponseReceived):
                status = int(dict(event.headers)[":status"])
                if stream in self._statuses:
                    self._statuses.pop(stream).set_result(status)
                elif stream in self._people:
                    person = self._people[stream]
                    if status != 200:
                        del self._people[stream]
                    person.status = status
                    person.opened.set()
            elif isinstance(event, h2.events.DataReceived):
                self._http2.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, h2.events.StreamReset | h2.events.StreamEnded):
                person = self._people.pop(stream, None)
                if person is not None:
                    person.ended_at = time.monotonic()
                    person.ended.set()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        for person in self._people.values():
            person.ended_at = time.monotonic()
            person.ended.set()

    def open(self, port: int, person: Person) -> None:
        self._people[self._send(port, person, "/events")] = person

    async def ask(self, port: int, person: Person) -> int:
        answer = asyncio.get_running_loop().create_future()
        self._statuses[self._send(port, person, "/ask")] = answer
        return int(await answer)

    def _send(self, port: int, person: Person, path: str) -> int:
        stream = self._http2.get_next_available_stream_id()
        headers = [(":method", "GET"), (":scheme", "https"), (":authority", f"{HOST}:{port}"), (":path", path)]
        self._http2.send_headers(stream, [*headers, ("cookie", person.cookie)], end_stream=True)
        self._flush()
        return stream

    def _flush(self) -> None:
        if self._transport is not None:
            self._transport.write(self._http2.data_to_send())

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Upstream(asyncio.Protocol):
    """Begins an answer to every request over clear-text HTTP/2 and ends only those to ``/ask``."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._http2.update_settings({3: 100_000})
        self._http2.initiate_connection()
        transport.write(self._http2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self._http2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                ends = dict(event.headers)[":path"] == "/ask"
                self._http2.send_headers(event.stream_id, [(":status", "200")], end_stream=ends)
        self._transport.write(self._http2.data_to_send())


class World:
    """People, their connections, and the deployment."""

    def __init__(self, made: Site, records: RecordClient, operator: RecordClient) -> None:
        self._site = made
        self._records = records
        self._operator = operator
        self._issuer = f"http://localhost:{made.provider_port}"
        self._handles = HandleSealer(Sealer(KeyStore(made.data / "keys").keyring(Purpose.SESSION_HANDLE)))
        self._tls = ssl.create_default_context(cafile=str(made.data / "certificates" / "authority.crt"))
        self._tls.set_alpn_protocols(["h2"])
        self._connections: list[Connection] = []
        self.port = made.port
        self.members = {name: made.run.member(name) for name in ("guard", "authorize", "envoy")}

    async def people(self, count: int) -> list[Person]:
        """People who have just signed in."""
        found: list[Person] = []
        now = time.time()
        while len(found) < count:
            batch = [secrets.token_hex(16) for _ in range(min(200, count - len(found)))]
            writes: list[Write] = []
            for session_id in batch:
                user = User(
                    id=user_id(self._issuer, session_id),
                    issuer=self._issuer,
                    subject=session_id,
                    groups=frozenset({"eng"}),
                )
                session = Session(
                    id=session_id,
                    user_id=user.id,
                    identity_provider_id="demo",
                    issued_at=now,
                    expires_at=now + 36_000,
                    authenticated_at=now,
                )
                indexes = {"user_id": (user.id,), "identity_provider_id": ("demo",)}
                writes += [
                    Write(record=Record(type=users.RECORD_TYPE, id=user.id, data=user.to_bytes())),
                    Write(
                        record=Record(
                            type=sessions.RECORD_TYPE,
                            id=session_id,
                            data=session.to_bytes(),
                            expires_at=session.expires_at,
                            indexes=indexes,
                        )
                    ),
                ]
            versions = await self._records.put(writes)
            found += [Person(session_id, self._cookie(session_id, now, versions[-1])) for session_id in batch]
        return found

    def _cookie(self, session_id: str, now: float, version: RecordVersion) -> str:
        handle = SessionHandle(
            session_id=session_id,
            audience=HOST,
            expires_at=int(now) + 36_000,
            epoch=version.epoch,
            number=version.number,
        )
        return f"__Host-doorward={self._handles.mint(handle)}"

    async def connection(self) -> Connection:
        _, made = await asyncio.get_running_loop().create_connection(
            Connection, "127.0.0.1", self.port, ssl=self._tls, server_hostname=HOST
        )
        return made

    async def open(self, people: list[Person]) -> None:
        """A stream for each of them; returns once all are open."""
        for first in range(0, len(people), STREAMS_A_CONNECTION):
            group = people[first : first + STREAMS_A_CONNECTION]
            room = next((item for item in self._connections if item.load + len(group) <= STREAMS_A_CONNECTION), None)
            if room is None:
                room = await self.connection()
                self._connections.append(room)
            for person in group:
                room.open(self.port, person)
            async with asyncio.timeout(30):
                await asyncio.gather(*(person.opened.wait() for person in group))
            refused = [person for person in group if person.status != 200]
            for person in refused:
                # A loaded machine may take longer to hear of a sign-in than a request waits for it.
                person.opened.clear()
            if refused:
                await asyncio.sleep(0.2)
                await self.open(refused)

    async def trial(self, person: Person, asking: Connection) -> tuple[float, float, float]:
        """Seconds: from applied to the first refusal, from applied to the end of the stream, and for the revoke itself."""
        began = time.monotonic()
        revoked = await self._operator.revoke(session_id=person.session_id)
        applied = time.monotonic()
        if not revoked.applied:
            raise SystemExit("a revoke was not applied in time")
        status = await asking.ask(self.port, person)
        denied = time.monotonic()
        if status == 200:
            raise SystemExit("a request passed after its session's end was acknowledged")
        async with asyncio.timeout(10):
            await person.ended.wait()
        return denied - applied, max(0.0, person.ended_at - applied), applied - began

    async def ended_after_revoke(
        self, people: list[Person], *, session_id: str | None = None, all_sessions: bool = False
    ) -> float:
        """Seconds from applied to the end of the last stream when all these lose access at once."""
        if all_sessions:
            revoked = await self._operator.revoke(all_sessions=True)
        else:
            revoked = await self._operator.revoke(session_id=session_id)
        applied = time.monotonic()
        if not revoked.applied:
            raise SystemExit("a revoke was not applied in time")
        async with asyncio.timeout(60):
            await asyncio.gather(*(person.ended.wait() for person in people))
        return max(0.0, max(person.ended_at for person in people) - applied)


async def idle(world: World) -> dict[str, float]:
    """Parts of a core that guard and authorizer use while nothing happens."""
    names = ("guard", "authorize")
    before = {name: sum(world.members[name].cpu_times()[:2]) for name in names}
    await asyncio.sleep(IDLE_SECONDS)
    return {name: (sum(world.members[name].cpu_times()[:2]) - before[name]) / IDLE_SECONDS for name in names}


def memory(world: World) -> dict[str, int]:
    return {name: process.memory_info().rss for name, process in world.members.items()}


async def many_of_one(world: World, times: int) -> list[float]:
    """Seconds from applied to the end of the last of a session's hundred streams."""
    took = []
    for _ in range(times):
        (person,) = await world.people(1)
        streams = [Person(person.session_id, person.cookie) for _ in range(STREAMS_A_SESSION)]
        await world.open(streams)
        took.append(await world.ended_after_revoke(streams, session_id=person.session_id))
    return took


async def measure(world: World, trials: int, streams: int) -> dict[str, float]:
    without, before = await idle(world), memory(world)
    people = await world.people(streams)
    signed_in = memory(world)
    await world.open(people)
    used = memory(world)
    within = await idle(world)
    asking = await world.connection()
    results = []
    for number in range(trials):
        person = people[number % len(people)]
        results.append(await world.trial(person, asking))
        (fresh,) = await world.people(1)
        people[number % len(people)] = fresh
        await world.open([fresh])
    several = [took * 1000 for took in await many_of_one(world, max(3, trials // 10))]
    everybody = await world.ended_after_revoke(people, all_sessions=True)
    denied, closed, revoke = ([row[index] * 1000 for row in results] for index in range(3))
    for name, values in (
        ("revoke → applied", revoke), ("applied → denied", denied), ("applied → closed", closed), ("a hundred closed", several)
    ):  # fmt: skip
        print(f"{name:18} p50 {at(values, 0.5):7.2f}  p99 {at(values, 0.99):7.2f}  max {max(values):7.2f} ms")
    print(f"everybody at once  {everybody * 1000:.0f} ms for {streams} streams")
    for name in ("guard", "authorize"):
        print(
            f"{name:10} {used[name] / 1e6:.0f} MB; idle {without[name]:.2%} of a core, {within[name]:.2%} with the streams"
        )
    kilobytes = {name: (used[name] - before[name]) / 1024 / streams for name in used}
    # Sessions and users are in the authorizer's replica whether they have a stream or not.
    kilobytes["authorize"] = (used["authorize"] - signed_in["authorize"]) / 1024 / streams
    return {
        "trials": trials,
        "streams": streams,
        **{f"revoke_{name}_ms": value for name, value in spread(revoke).items()},
        **{f"deny_{name}_ms": value for name, value in spread(denied).items()},
        **{f"stream_close_{name}_ms": value for name, value in spread(closed).items()},
        **{f"hundred_closed_{name}_ms": value for name, value in spread(several).items()},
        "everybody_closed_ms": round(everybody * 1000, 1),
        **{f"{name}_mb": round(used[name] / 1e6, 1) for name in ("guard", "authorize")},
        **{f"{name}_kb_a_stream": round(value, 2) for name, value in kilobytes.items()},
        **{f"{name}_idle_cpu": round(value, 4) for name, value in within.items()},
        **{f"{name}_idle_cpu_without": round(value, 4) for name, value in without.items()},
    }


def at(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def spread(values: list[float]) -> dict[str, float]:
    return {"p50": round(at(values, 0.5), 2), "p99": round(at(values, 0.99), 2), "max": round(max(values), 2)}


@asynccontextmanager
async def upstream() -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def run(trials: int, streams: int) -> dict[str, float]:
    async with upstream() as port:
        with short_folder() as folder:
            route = {"name": "live", "from": "live", "to": f"h2c://127.0.0.1:{port}", "policy": signed_in()}
            with site(folder, [route]) as made:
                endpoints = LocalEndpoints(default_run_folder(made.data))
                channels = [
                    open_channel(endpoints.databroker(plane), Plane.DATABROKER)
                    for plane in (Plane.AUTHENTICATE, Plane.OPERATOR)
                ]
                try:
                    return await measure(World(made, *map(RecordClient, channels)), trials, streams)
                finally:
                    for channel in channels:
                        await channel.close()


def main() -> None:
    """Measure and print; the last line is JSON."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--trials", type=int, default=30, help="revokes, one at a time")
    arguments.add_argument("--streams", type=int, default=100, help="streams that are open all the while")
    options = arguments.parse_args()
    print(json.dumps(asyncio.run(run(options.trials, options.streams))))


if __name__ == "__main__":
    main()
