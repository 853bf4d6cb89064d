"""Every session due for a refresh at once: the authenticate plane's keeper and refresher, over HTTP to an identity provider and over gRPC
to a databroker.

The identity provider is a process of its own that rotates refresh tokens and refuses a used one. It answers at once, so what is measured
is ours.
"""

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import psutil
from prometheus_client import CollectorRegistry

from doorward.clock import SystemClock
from doorward.config.endpoints import LocalEndpoints
from doorward.config.settings import IdentityProviderSettings
from doorward.identity.session import Session
from doorward.keys.sealed import Sealer
from doorward.keys.secret import Secret
from doorward.keys.store import KeyStore, Purpose
from doorward.records.client import RecordClient
from doorward.records.lease import hold_lease
from doorward.records.record import Record, RecordVersion, Write
from doorward.rpc.client import open_channel
from doorward.rpc.planes import Plane
from doorward_authenticate.identity_providers.claims import personal_claims, user_from
from doorward_authenticate.identity_providers.fetch import http_client
from doorward_authenticate.identity_providers.id_token import VerifiedClaims
from doorward_authenticate.identity_providers.relying_party import OidcRelyingParty
from doorward_authenticate.session_life.keeper import LEASE, Keeper
from doorward_authenticate.session_life.refresher import Attended, Refresher
from doorward_authenticate.session_life.schedule import Rhythm
from doorward_authenticate.session_life.tokens import KeptTokens, ProviderTokens
from doorward_authenticate.sessions import session_record, user_record

TOKEN_CHARACTERS = 1_000
"""Of an access token and of an ID token, as providers make them."""
LIFE_SECONDS = 3600
_BATCH = 150
"""Sessions that are stored with one put: three records each."""


def person(subject: str) -> dict[str, object]:
    """What the identity provider says of somebody."""
    return {"sub": subject, "email": f"{subject}@example.com", "name": subject, "groups": ["staff", "engineering"]}


class Provider(asyncio.Protocol):
    """One connection to the identity provider: HTTP/1.1 with bodies of known length, as our client speaks it."""

    issuer: ClassVar[str]
    generations: ClassVar[Counter[str]] = Counter()
    calls: ClassVar[Counter[str]] = Counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, rest = self._received.partition(b"\r\n\r\n")
            line, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
            length = int(headers.get("content-length", "0"))
            if len(rest) < length:
                return
            body, self._received = rest[:length], rest[length:]
            status, answer = self._answer(line.split(" ")[1], headers, body.decode())
            content = json.dumps(answer).encode()
            self._transport.write(
                f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n".encode()
                + content
            )

    def _answer(self, path: str, headers: dict[str, str], body: str) -> tuple[str, dict[str, object]]:
        self.calls[path] += 1
        match path:
            case "/.well-known/openid-configuration":
                endpoints = {
                    name: f"{self.issuer}/{name.removesuffix('_endpoint')}"
                    for name in ("authorization_endpoint", "token_endpoint", "userinfo_endpoint")
                }
                return "200 OK", {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys", **endpoints}
            case "/token":
                subject, _, generation = urllib.parse.parse_qs(body)["refresh_token"][0].partition(":")
                if int(generation) != self.generations[subject]:
                    return "400 Bad Request", {"error": "invalid_grant"}
                self.generations[subject] += 1
                return "200 OK", {
                    "access_token": f"{subject}:{'a' * TOKEN_CHARACTERS}",
                    "refresh_token": f"{subject}:{self.generations[subject]}",
                    "token_type": "Bearer",
                    "expires_in": LIFE_SECONDS,
                }
            case "/userinfo":
                return "200 OK", person(headers["authorization"].removeprefix("Bearer ").partition(":")[0])
            case _:
                return "200 OK", dict(self.calls)


async def provide() -> None:
    """Be the identity provider, until standard input ends."""
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0)
    Provider.issuer = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(Provider.issuer, flush=True)
    await asyncio.to_thread(sys.stdin.read)


@contextmanager
def provider_process() -> Iterator[str]:
    """The issuer."""
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()


async def storm(endpoints: LocalEndpoints, keys: KeyStore, databroker: psutil.Process, count: int) -> dict[str, float]:
    """``count`` sessions that are all due, looked after by one keeper."""
    clock = SystemClock()
    sealer = Sealer(keys.keyring(Purpose.PROVIDER_TOKENS))
    with provider_process() as issuer:
        settings = IdentityProviderSettings(
            id="corp", name="Corp", issuer=issuer, client_id="bench", client_secret=Secret("secret"),
            scopes=("openid",), signing_algorithms=("RS256",), email_domains=None, groups_claim="groups",
        )  # fmt: skip
        async with (
            open_channel(endpoints.databroker("authenticate"), Plane.DATABROKER) as channel,
            http_client() as http,
        ):
            records = RecordClient(channel)
            stored = RecordVersion(0, 0)
            for first in range(0, count, _BATCH):
                names = range(first, min(first + _BATCH, count))
                writes = [write for n in names for write in _signed_in(settings, sealer, f"storm{n:08d}")]
                stored = (await records.put(writes))[-1]
            party = OidcRelyingParty(settings, "http://localhost/callback", http, clock)
            rhythm = Rhythm(ask_every_seconds=LIFE_SECONDS, idle_seconds=None)
            refresher = Refresher(records, sealer, lambda: {"corp": party}, lambda: rhythm, clock)
            keeper = Keeper(records, refresher, clock, CollectorRegistry())
            ours, theirs = psutil.Process().cpu_times(), databroker.cpu_times()
            began = time.perf_counter()
            async with hold_lease(records, LEASE, "bench", 30.0) as held:
                await keeper.survey(held.fence)
            took = time.perf_counter() - began
            used = [sum(after[:2]) - sum(start[:2]) for after, start in (
                (psutil.Process().cpu_times(), ours), (databroker.cpu_times(), theirs),
            )]  # fmt: skip
            last = await records.put([Write(record=Record(type="User", id="last"))])
            written = last[-1].number - stored.number - 1
            calls = (await http.get(f"{issuer}/calls")).json()
    # On a machine that others use a call may come too late; such a session stays due, and is not asked about twice.
    renewed = keeper.counts[Attended.RENEWED]
    assert calls["/token"] <= count, calls
    assert not keeper.counts[Attended.ENDED] + keeper.counts[Attended.GONE], keeper.counts
    return {
        "sessions": count, "seconds": took, "refreshes_per_s": renewed / took, "left": count - renewed, "writes": written,
        "token_calls": calls["/token"], "userinfo_calls": calls["/userinfo"],
        "authenticate_ms_each": used[0] / count * 1e3, "databroker_ms_each": used[1] / count * 1e3,
    }  # fmt: skip


def _signed_in(settings: IdentityProviderSettings, sealer: Sealer, subject: str) -> list[Write]:
    """A session whose access token has just run out, as a sign-in leaves it."""
    now = time.time()
    claims = VerifiedClaims(person(subject))
    user = user_from(settings, claims, {}, now - LIFE_SECONDS)
    session = Session(
        id=base64.b32encode(subject.encode()).decode().rstrip("="), user_id=user.id, identity_provider_id="corp",
        issued_at=now - LIFE_SECONDS, expires_at=now + 10 * LIFE_SECONDS, authenticated_at=None,
        claims_json=personal_claims(claims, {}),
    )  # fmt: skip
    tokens = ProviderTokens(
        access_token=f"{subject}:{'a' * TOKEN_CHARACTERS}", refresh_token=f"{subject}:0", id_token="i" * TOKEN_CHARACTERS,
        access_expires_at=now, claims=dict(claims), claims_at=now - LIFE_SECONDS,
    )  # fmt: skip
    kept = KeptTokens(session_id=session.id, tokens=tokens, due_at=now - 1, session_ends_at=session.expires_at)
    return [Write(record=one) for one in (user_record(user), kept.to_record(sealer), session_record(session))]


if __name__ == "__main__":
    asyncio.run(provide())
