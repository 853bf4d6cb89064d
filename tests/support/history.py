"""Looks for a request that was let in although its session's end had been acknowledged as applied.

    people sign in ─► requests, all the time ─► revokes ─► from `applied` on, every request that begins must be refused
           faults, at random: planes and the store are killed, or stopped for a while and let go on

A whole deployment with real Envoy. The seed is printed, so that a history can be driven again.
"""

import asyncio
import random
import secrets
import signal
import ssl
import time
from dataclasses import dataclass, field

import httpx
import psutil
from tests.support.site import Site

from doorward.config.endpoints import LocalEndpoints, default_run_folder
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
from doorward.rpc.client import open_channel
from doorward.rpc.planes import Plane

HOST = "live.localhost"
KILLED = ("authorize", "databroker", "valkey")
STOPPED = ("authorize", "databroker", "valkey")


@dataclass(eq=False)
class Person:
    """Somebody with a session; ``applied_at`` is when its end was acknowledged everywhere."""

    session_id: str
    cookie: str
    applied_at: float | None = None
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


class Driver:
    """Drives one deployment for a while."""

    def __init__(self, made: Site, history: History) -> None:
        self._site = made
        self.history = history
        self._random = random.Random(history.seed)
        self._issuer = f"http://localhost:{made.provider_port}"
        self._handles = HandleSealer(Sealer(KeyStore(made.data / "keys").keyring(Purpose.SESSION_HANDLE)))
        self._tls = ssl.create_default_context(cafile=str(made.data / "certificates" / "authority.crt"))
        self._people: list[Person] = []
        self._stopped: list[psutil.Process] = []

    async def run(self, seconds: float, *, faults: bool) -> None:
        """Drive it for ``seconds``."""
        endpoints = LocalEndpoints(default_run_folder(self._site.data))
        deadline = time.monotonic() + seconds
        async with (
            open_channel(endpoints.databroker("authenticate"), Plane.DATABROKER) as written,
            open_channel(endpoints.databroker("operator"), Plane.DATABROKER) as operated,
            httpx.AsyncClient(verify=self._tls, timeout=5.0) as client,
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
                self._let_go()

    async def _sign_in(self, records: RecordClient, deadline: float) -> None:
        while time.monotonic() < deadline:
            if sum(person.applied_at is None for person in self._people) < 20:
                try:
                    self._people.append(await self._person(records))
                    self.history.people += 1
                except DoorwardError:
                    await asyncio.sleep(0.1)
            await asyncio.sleep(0.02)

    async def _person(self, records: RecordClient) -> Person:
        now = time.time()
        session_id = secrets.token_hex(16)
        user = User(id=user_id(self._issuer, session_id), issuer=self._issuer, subject=session_id)
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
        return Person(session_id, f"__Host-doorward={self._handles.mint(handle)}")

    async def _revoke(self, records: RecordClient, deadline: float) -> None:
        while time.monotonic() < deadline:
            await asyncio.sleep(self._random.uniform(0.02, 0.2))
            candidates = [person for person in self._people if person.applied_at is None and person.allowed]
            if not candidates:
                continue
            person = self._random.choice(candidates)
            began = time.monotonic()
            try:
                outcome = await records.revoke(session_id=person.session_id)
            except DoorwardError:
                self.history.failed += 1
                continue
            if outcome.applied:
                person.applied_at = time.monotonic()
                self.history.applied.append(person.applied_at - began)
            else:
                self.history.pending += 1

    async def _ask(self, client: httpx.AsyncClient, deadline: float) -> None:
        while time.monotonic() < deadline:
            if not self._people:
                await asyncio.sleep(0.05)
                continue
            # Those whose end was applied lately are the ones that could still get through.
            ended = [person for person in self._people[-200:] if person.applied_at is not None]
            pool = ended if ended and self._random.random() < 0.5 else self._people[-60:]
            await self._ask_once(client, self._random.choice(pool))

    async def _ask_once(self, client: httpx.AsyncClient, person: Person) -> None:
        ended_before = person.applied_at
        began = time.monotonic()
        try:
            answer = await client.get(
                f"https://127.0.0.1:{self._site.port}/ask",
                headers={"host": f"{HOST}:{self._site.port}", "cookie": person.cookie},
                extensions={"sni_hostname": HOST},
            )
        except httpx.HTTPError:
            await asyncio.sleep(0.02)
            return
        if answer.status_code != 200:
            self.history.refused += 1
            return
        person.allowed += 1
        self.history.allowed += 1
        if ended_before is not None:
            late = f"{person.session_id}: let in by a request that began {began - ended_before:.3f} s after `applied`"
            self.history.violations.append(late)

    async def _break(self, deadline: float) -> None:
        while time.monotonic() < deadline - 3:
            await asyncio.sleep(self._random.uniform(0.5, 2.5))
            kill = self._random.random() < 0.4
            name = self._random.choice(KILLED if kill else STOPPED)
            try:
                process = self._site.run.member(name)
                if kill:
                    self.history.faults.append(f"kill {name}")
                    process.kill()
                    continue
                pause = self._random.choice((0.2, 1.0, 3.0, 6.5))
                self.history.faults.append(f"stop {name} for {pause} s")
                process.send_signal(signal.SIGSTOP)
                self._stopped.append(process)
                await asyncio.sleep(pause)
            except (LookupError, psutil.Error):
                continue
            finally:
                self._let_go()

    def _let_go(self) -> None:
        while self._stopped:
            process = self._stopped.pop()
            try:
                process.send_signal(signal.SIGCONT)
            except psutil.Error:
                continue
