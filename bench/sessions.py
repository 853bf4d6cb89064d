"""What sessions take in the store, by kind of record, and how long it takes to end those of a group.

    PYTHONPATH=. python bench/sessions.py [--sessions N] [--members N]

A real Valkey and a real databroker. Each session has a person of its own, an entry of a directory with ten groups, tokens of a usual
length, and what the sign-in writes besides. The last line is JSON.
"""

import argparse
import asyncio
import json
import random
import secrets
import time
from collections.abc import Iterator

from bench.databroker import databroker_process
from tests.support.deployment import short_folder
from tests.support.redis_server import RedisServer, redis_server

from doorward.clock import SystemClock
from doorward.config.endpoints import LocalEndpoints
from doorward.identity.directory import (
    GROUP_TYPE,
    USER_TYPE,
    DirectoryGroup,
    DirectoryUser,
    directory_group_id,
    directory_user_id,
)
from doorward.identity.session import Session
from doorward.identity.user import User, user_id
from doorward.keys.sealed import Sealer
from doorward.keys.store import KeyStore, Purpose
from doorward.records.client import RecordClient
from doorward.records.record import Record, Write
from doorward.rpc.client import open_channel
from doorward.rpc.planes import Plane
from doorward_authenticate.session_life.tokens import KeptTokens, ProviderTokens
from doorward_authenticate.sessions import session_record, user_record
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import Servers

ISSUER = "https://idp.example.com"
GROUPS, EACH, RARE = 10_000, 10, 10_000
"""Groups of the directory, groups of each person, and the number of the group whose sessions are ended."""
JWT_CHARACTERS = 1100


class Population:
    """People with a session each; the first ``members`` of them are in the rare group."""

    def __init__(self, count: int, members: int, keys: KeyStore) -> None:
        self._count = count
        self._members = members
        self._sealer = Sealer(keys.keyring(Purpose.PROVIDER_TOKENS))
        self._random = random.Random(1)
        self._now = time.time()

    def kinds(self) -> Iterator[tuple[str, Iterator[Record]]]:
        """Each kind of record, one after the other."""
        everybody = range(self._count)
        yield "directory group", (self._group(number) for number in range(GROUPS + 1))
        yield "directory entry", map(self._entry, everybody)
        yield "user", map(self._user, everybody)
        yield "session", map(self._session, everybody)
        yield "tokens", map(self._tokens, everybody)

    def _group(self, number: int) -> Record:
        group = DirectoryGroup(
            directory_id="corp", group_id=f"00000000-0000-4000-8000-{number:012}", number=number, name=f"team {number}"
        )
        return Record(type=GROUP_TYPE, id=directory_group_id("corp", number), data=group.to_bytes())

    def _entry(self, number: int) -> Record:
        groups = self._random.sample(range(GROUPS), EACH) + [RARE] * (number < self._members)
        entry = DirectoryUser(
            directory_id="corp", entry_id=f"entry-{number}", join_value=f"subject-{number}",
            group_numbers=tuple(sorted(groups)), display_name=f"Person {number}", email=f"person{number}@example.com",
        )  # fmt: skip
        return Record(type=USER_TYPE, id=directory_user_id("corp", "sub", entry.join_value), data=entry.to_bytes())

    def _user(self, number: int) -> Record:
        subject = f"subject-{number}"
        return user_record(
            User(
                id=user_id(ISSUER, subject), issuer=ISSUER, subject=subject, email=f"person{number}@example.com",
                email_verified=True, name=f"Person {number}", refreshed_at=self._now,
                directory_user_id=directory_user_id("corp", "sub", subject),
            )
        )  # fmt: skip

    def _session(self, number: int) -> Record:
        claims = {"sub": f"subject-{number}", "email": f"person{number}@example.com", "name": f"Person {number}",
                  "department": "Engineering", "locale": "en", "preferred_username": f"person{number}"}  # fmt: skip
        return session_record(
            Session(
                id=f"{number:032x}", user_id=user_id(ISSUER, f"subject-{number}"), identity_provider_id="corp",
                issued_at=self._now, expires_at=self._now + 36_000, authenticated_at=self._now, methods=("pwd", "otp"),
                provider_session_id=f"sid-{number:032x}", claims_json=json.dumps(claims).encode(),
            )
        )  # fmt: skip

    def _tokens(self, number: int) -> Record:
        tokens = ProviderTokens(
            access_token=secrets.token_hex(JWT_CHARACTERS // 2), refresh_token=secrets.token_hex(32),
            id_token=secrets.token_hex(JWT_CHARACTERS // 2), access_expires_at=self._now + 300,
            claims={"sub": f"subject-{number}", "email": f"person{number}@example.com"}, claims_at=self._now,
        )  # fmt: skip
        kept = KeptTokens(
            session_id=f"{number:032x}", tokens=tokens, due_at=self._now + 30_000, session_ends_at=self._now + 36_000
        )
        return kept.to_record(self._sealer)


def memory(server: RedisServer) -> int:
    """Bytes that the store's data takes."""
    lines = server.ask("INFO memory").decode().splitlines()
    return next(int(line.partition(":")[2]) for line in lines if line.startswith("used_memory:"))


async def fill(server: RedisServer, keys: KeyStore, options: argparse.Namespace) -> dict[str, float]:
    """Bytes of memory for a record of each kind, and of what all puts leave in the history."""
    store = RedisStore(Link(Servers.parse(server.url)), SealedCodec(keys.keyring(Purpose.RECORDS)), SystemClock())
    found: dict[str, float] = {}
    for kind, records in Population(options.sessions, options.members, keys).kinds():
        before, history, count = memory(server), feed_bytes(server), 0
        batch: list[Write] = []
        for record in records:
            batch.append(Write(record=record))
            count += 1
            if len(batch) == 200:
                await store.put(batch, secrets.token_hex(16))
                batch = []
        if batch:
            await store.put(batch, secrets.token_hex(16))
        fed = feed_bytes(server) - history
        found[kind] = round((memory(server) - before - fed) / count)
        print(f"{kind:16} {found[kind]:6.0f} bytes, and {fed / count:6.0f} in the history  ({count})", flush=True)
    found["history_mb"] = round(feed_bytes(server) / 1e6, 1)
    found["memory_mb"] = round(memory(server) / 1e6, 1)
    await store.close()
    return found


def feed_bytes(server: RedisServer) -> int:
    """Bytes of the history, estimated by the server."""
    answer = server.ask("MEMORY USAGE {dw}:feed SAMPLES 0").strip().removeprefix(b":")
    return max(0, int(answer.removeprefix(b"$")))


async def revoke(endpoints: LocalEndpoints) -> dict[str, float]:
    async with open_channel(endpoints.databroker(Plane.OPERATOR), Plane.DATABROKER) as channel:
        began = time.monotonic()
        outcome = await RecordClient(channel).revoke(group=f"team {RARE}")
        return {"revoked": outcome.revoked, "revoke_group_seconds": round(time.monotonic() - began, 2)}


async def measure(options: argparse.Namespace) -> dict[str, float]:
    with (
        short_folder() as folder,
        redis_server("valkey") as server,
        databroker_process(folder, server) as (endpoints, keys, process),
    ):
        found = await fill(server, keys, options)
        cpu = process.cpu_times()
        found |= await revoke(endpoints)
        now = process.cpu_times()
        found["revoke_group_cpu_seconds"] = round(now.user + now.system - cpu.user - cpu.system, 2)
        found["disk_mb"] = round(
            sum(file.stat().st_size for file in server.folder.rglob("*") if file.is_file()) / 1e6, 1
        )
        found["databroker_mb"] = round(process.memory_info().rss / 2**20)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--members", type=int, default=10_000, help="how many of them are in the group that is ended")
    print(json.dumps(asyncio.run(measure(parser.parse_args()))))


if __name__ == "__main__":
    main()
