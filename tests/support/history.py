"""Looks for a request that was let in although its session's end had been acknowledged as applied.

    people sign in ─► requests, all the time ─► revokes ─► from `applied` on, every request that begins must be refused;
                                                           from `pending` on, once the staleness limit is over
           faults, at random ─► at the end, whoever was never revoked must still be let in: an acknowledged put is kept

A whole deployment with real Envoy (``tests.support.stages``). The seed is printed, so that a history can be driven again.
"""

import asyncio
import random
import secrets
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import grpc.aio
import httpx

from doorward.errors import DoorwardError
from doorward.identity import session as sessions
from doorward.identity import user as users
from doorward.identity.session import Session
from doorward.identity.user import User, user_id
from doorward.keys.handle import HandleSealer, SessionHandle
from doorward.keys.sealed import Sealer
from doorward.keys.store import KeyStore, Purpose
from doorward.records.client import RecordClient
from doorward.records.record import Record, Write
from doorward.rpc.planes import Plane

HOST = "live.localhost"
STALENESS_SECONDS = 5.0
"""The longer limit, as it is when nothing else is configured."""
SETTLE_SECONDS = 60.0
"""A sentinel that has lost its primary twice takes its time."""


class Stage(Protocol):
    """A deployment that can be broken."""

    @property
    def issuer(self) -> str:
        """Of the one identity provider, ``demo``."""
        ...

    @property
    def ports(self) -> Sequence[int]:
        """Where Envoy listens; the first one is in everybody's URLs."""
        ...

    @property
    def ca_file(self) -> Path:
        """Who vouches for Envoy's certificate."""
        ...

    @property
    def keys(self) -> Path:
        """A folder with the key of session handles."""
        ...

    def channel(self, plane: Plane) -> grpc.aio.Channel:
        """To the databroker, as ``plane``."""
        ...

    async def fault(self, chance: random.Random, note: Callable[[str], None]) -> None:
        """Break something, tell ``note`` what, and let it be whole again."""
        ...

    def let_go(self) -> None:
        """End whatever fault is going on."""
        ...


@dataclass(eq=False)
class Person:
    """Somebody with a session."""

    session_id: str
    cookie: str
    acknowledged: str
    """As which version, and when."""
    touched: bool = False
    """Whether an end was asked for, however that went."""
    ended_from: float | None = None
    """From when on every request that begins must be refused."""
    ended_how: str = ""
    allowed: int = 0


@dataclass
class History:
    """What happened."""

    seed: int
    people: int = 0
    allowed: int = 0
    refused: int = 0
    applied: list[float] = field(default_factory=list)
    """Seconds from each revoke's call until it was applied."""
    pending: int = 0
    failed: int = 0
    """Revokes that ended in an error, after which nothing is promised."""
    faults: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """Sessions that were acknowledged, never revoked, and are gone."""


class Driver:
    """Drives one deployment for a while."""

    def __init__(self, stage: Stage, history: History) -> None:
        self._stage = stage
        self.history = history
        self._random = random.Random(history.seed)
        # Its own, so that a seed gives the same faults however many requests there are between them.
        self._chance = random.Random(history.seed)
        self._handles = HandleSealer(Sealer(KeyStore(stage.keys).keyring(Purpose.SESSION_HANDLE)))
        self._tls = ssl.create_default_context(cafile=str(stage.ca_file))
        self._people: list[Person] = []

    async def run(self, seconds: float, *, faults: bool) -> None:
        """Drive it for ``seconds``, and then until everything is well again."""
        deadline = time.monotonic() + seconds
        async with (
            self._stage.channel(Plane.AUTHENTICATE) as written,
            self._stage.channel(Plane.OPERATOR) as operated,
            httpx.AsyncClient(verify=self._tls, timeout=5.0, trust_env=False) as client,
        ):
            tasks = [
                self._sign_in(RecordClient(written), deadline),
                self._revoke(RecordClient(operated), deadline),
                *(self._ask(client, deadline) for _ in range(6)),
            ]
            if faults:
                tasks.append(self._break(deadline))
            try:
                await asyncio.gather(*tasks)
            finally:
                self._stage.let_go()
            await self._look_for_lost(client, RecordClient(operated))

    async def _sign_in(self, records: RecordClient, deadline: float) -> None:
        while time.monotonic() < deadline:
            if sum(not person.touched for person in self._people) < 20:
                try:
                    self._people.append(await self._person(records))
                    self.history.people += 1
                except DoorwardError:
                    await asyncio.sleep(0.1)
            await asyncio.sleep(0.02)

    async def _person(self, records: RecordClient) -> Person:
        now = time.time()
        session_id = secrets.token_hex(16)
        issuer = self._stage.issuer
        user = User(id=user_id(issuer, session_id), issuer=issuer, subject=session_id)
        session = Session(
            id=session_id, user_id=user.id, identity_provider_id="demo", issued_at=now, expires_at=now + 3600,
            authenticated_at=now,
        )  # fmt: skip
        writes = [
            Write(record=Record(type=users.RECORD_TYPE, id=user.id, data=user.to_bytes())),
            Write(
                record=Record(
                    type=sessions.RECORD_TYPE, id=session_id, data=session.to_bytes(), expires_at=session.expires_at,
                    indexes={"user_id": (user.id,), "identity_provider_id": ("demo",)},
                )
            ),
        ]  # fmt: skip
        version = (await records.put(writes))[-1]
        handle = SessionHandle(
            session_id=session_id, audience=HOST, expires_at=int(now) + 3600, epoch=version.epoch, number=version.number
        )
        cookie = f"__Host-doorward={self._handles.mint(handle)}"
        return Person(session_id, cookie, f"put as {version} at {time.strftime('%H:%M:%S', time.gmtime())}")

    async def _revoke(self, records: RecordClient, deadline: float) -> None:
        while time.monotonic() < deadline:
            await asyncio.sleep(self._random.uniform(0.02, 0.2))
            candidates = [person for person in self._people if person.ended_from is None and person.allowed]
            if not candidates:
                continue
            person = self._random.choice(candidates)
            began = time.monotonic()
            person.touched = True
            try:
                outcome = await records.revoke(session_id=person.session_id)
            except DoorwardError:
                self.history.failed += 1
                continue
            person.ended_from = time.monotonic()
            person.ended_how = f"{'applied' if outcome.applied else 'pending'} as {outcome.version}"
            if outcome.applied:
                self.history.applied.append(person.ended_from - began)
            else:
                self.history.pending += 1
                person.ended_from += STALENESS_SECONDS

    async def _ask(self, client: httpx.AsyncClient, deadline: float) -> None:
        while time.monotonic() < deadline:
            if not self._people:
                await asyncio.sleep(0.05)
                continue
            # Those whose end was applied lately are the ones that could still get through.
            ended = [person for person in self._people[-200:] if person.ended_from is not None]
            pool = ended if ended and self._random.random() < 0.5 else self._people[-60:]
            await self._ask_once(client, self._random.choice(pool))

    async def _ask_once(self, client: httpx.AsyncClient, person: Person) -> bool:
        ended_before = person.ended_from
        began = time.monotonic()
        public = self._stage.ports[0]
        try:
            answer = await client.get(
                f"https://127.0.0.1:{self._random.choice(self._stage.ports)}/ask",
                headers={"host": f"{HOST}:{public}", "cookie": person.cookie},
                extensions={"sni_hostname": HOST},
            )
        except httpx.HTTPError:
            await asyncio.sleep(0.02)
            return False
        if answer.status_code != 200:
            self.history.refused += 1
            return False
        person.allowed += 1
        self.history.allowed += 1
        if ended_before is not None and began >= ended_before:
            late = (
                f"{person.session_id} ({person.acknowledged}, {person.ended_how}): let in by a request that began"
                f" {began - ended_before:.3f} s too late, at {time.strftime('%H:%M:%S', time.gmtime())}"
            )
            self.history.violations.append(late)
        return True

    async def _break(self, deadline: float) -> None:
        began = time.monotonic()

        def note(fault: str) -> None:
            self.history.faults.append(f"after {time.monotonic() - began:.1f} s: {fault}")

        while time.monotonic() < deadline - 3:
            await asyncio.sleep(self._chance.uniform(0.5, 2.5))
            await self._stage.fault(self._chance, note)

    async def _look_for_lost(self, client: httpx.AsyncClient, records: RecordClient) -> None:
        """Whoever was acknowledged and never revoked is let in, once everything is well again."""
        deadline = time.monotonic() + SETTLE_SECONDS
        waiting = [person for person in self._people if not person.touched]
        while waiting and time.monotonic() < deadline:
            waiting = [person for person in waiting if not await self._ask_once(client, person)]
            await asyncio.sleep(0.1)
        for person in waiting:
            try:
                stored = f"stored as {(await records.get(sessions.RECORD_TYPE, person.session_id)).version}"
            except DoorwardError as error:
                stored = f"not to be had: {error}"
            self.history.lost.append(f"{person.session_id} ({person.acknowledged}): {stored}")
