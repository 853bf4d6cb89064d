"""What a check costs as routes, sessions and groups grow, and how long anything holds the authorizer's loop. The last line is JSON.

In one process, without transport: the replica is filled through its own code, and every check is a whole one, CheckRequest to CheckResponse.
``decide`` is look-up, unpacking, expiry, policy and answer for sessions in random order, so nearly every one is unpacked anew once there
are more than are remembered; assertions are off, because signing costs the same for any number of sessions.

``cold_start`` is a replica that begins with nothing beside a real store and a real databroker: the time until it is ready, what waits
meanwhile, and memory on both sides; ``cold_start_two`` are two of them, each in a process of its own, at once. The demo's own authorizer
is asked through its socket while 10,000 routes change, while 100,000 entries of a directory do, and with a second one beside it
(``scale_live.py``).

    bench/scale.py --sessions 1000000 --cold 1000000      the largest steps, by hand: some minutes and 5 GB
"""

import argparse
import asyncio
import gc
import json
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
from bench.databroker import databroker_process
from scale_live import live
from tests.support.deployment import short_folder
from tests.support.redis_server import redis_server
from tests.unit.authorize.builders import ISSUER, World

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.clock import SystemClock
from doorward.config.endpoints import LocalEndpoints
from doorward.errors import OutcomeUnknownError
from doorward.identity.session import Session
from doorward.identity.user import User, user_id
from doorward.keys.handle import SessionHandle
from doorward.keys.store import Purpose
from doorward.records.building import Building
from doorward.records.record import Record, RecordVersion, Write, record_message
from doorward.records.replica import Replica
from doorward.rpc.client import open_channel
from doorward.rpc.planes import Plane
from doorward_authorize.evaluator import Evaluator
from doorward_authorize.main import COLLECT_AFTER, packers
from doorward_authorize.principals import Principals
from doorward_authorize.snapshot import compile_in_slices, compile_snapshot, let_go
from doorward_databroker.store.codec import SealedCodec
from doorward_databroker.store.connection import Link
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import Servers

CONFIG = """\
version: 1
authenticate_url: https://sign-in.example.com
identity_providers:
  - {id: corp, issuer: "https://idp.example.com", client_id: x, client_secret: "file:secret", email_domains: [example.com], claims: {groups: groups}}
routes:
"""
CHECKS = 5_000
WATCHED = ("Session", "User", "ServiceAccount", "DirectoryUser", "DirectoryGroup", "DirectoryState")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sessions", type=int, default=100_000, help="the largest number")
    arguments.add_argument("--cold", type=int, default=100_000, help="sessions of the cold start")
    arguments.add_argument("--routes", type=int, default=10_000, help="routes that change while checks are answered")
    arguments.add_argument("--people", type=int, default=100_000, help="entries that change while checks are answered")
    arguments.add_argument("--seconds", type=int, default=10, help="checks at a fixed rate, at least for each case")
    arguments.add_argument("--follow", type=Path, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    gc.set_threshold(*COLLECT_AFTER)
    if options.follow is not None:
        print(json.dumps(asyncio.run(followed(LocalEndpoints(options.follow), options.cold))))
        return
    report = asyncio.run(measure(options.sessions, options.cold))
    report |= live(options.seconds, options.routes, options.people)
    print(json.dumps(report))


async def measure(largest: int, cold: int) -> dict[str, Any]:
    started, two = await cold_start(cold)
    print(f"{cold:>9} cold      {started}")
    print(f"{cold:>9} cold, two {two}")
    report: dict[str, Any] = {"routes": {}, "sessions": {}, "groups": {}}
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), configuration(1))
        steps = [count for count in (1_000, 10_000, 100_000, 1_000_000) if count <= largest]
        for count in steps:
            report["sessions"][count] = await of_sessions(world, count)
            print(f"{count:>9} sessions  {report['sessions'][count]}")
        for count in (10, 1_000, 10_000):
            report["routes"][count] = await of_routes(world, count)
            print(f"{count:>9} routes    {report['routes'][count]}")
        for count in (0, 50, 5_000):
            report["groups"][count] = of_groups(world, count)
            print(f"{count:>9} groups    {report['groups'][count]} µs")
    first, last = report["sessions"][steps[0]], report["sessions"][steps[-1]]
    report["ratio_routes"] = round(report["routes"][10_000]["check_us"] / report["routes"][10]["check_us"], 2)
    report["ratio_sessions"] = round(last["decide_us"] / first["decide_us"], 2)
    report["bytes_a_session"] = last["bytes_a_session"]
    report["cold_start"] = started
    report["cold_start_s"] = started["ready_s"]
    report["cold_start_two"] = two
    return report


def configuration(routes: int, changed: str = "") -> str:
    """Routes with a policy of their own each."""
    lines = [
        f"  - {{name: r{n}, from: 'https://r{n}.example.com', to: 'http://127.0.0.1:9000', pass_assertion: false, "
        f"policy: [{{allow: {{and: [{{domain: example.com}}, {{groups: {{has: team-{n % 2000:04}-engineering{changed}}}}}]}}}}]}}"
        for n in range(routes)
    ]
    return CONFIG + "\n".join(lines) + "\n"


async def of_routes(world: World, count: int) -> dict[str, float]:
    """A check on any of the routes, the first compile, one changed route, all changed."""
    settings = world.read(configuration(count))
    began = time.perf_counter()
    snapshot = compile_snapshot(settings, None, 0.0)
    compiled = time.perf_counter() - began
    world.evaluator.snapshot = snapshot
    cookies = {}
    for number in random.sample(range(count), min(count, 50)):
        groups = frozenset({f"team-{number % 2000:04}-engineering"})
        cookies[f"r{number}"] = world.sign_in(f"user{number}", groups=groups, host=f"r{number}.example.com")
    requests = [
        world.request(name, cookie=cookie, x_request_id=str(i)) for i, (name, cookie) in enumerate(cookies.items())
    ]
    check_us = timed(world, requests)
    changed = world.read(configuration(count, "x"))
    del settings
    world.settings = changed

    async def reload() -> None:
        """As authorize does it."""
        nonlocal snapshot
        world.evaluator.snapshot = await compile_in_slices(changed, snapshot, 1.0)
        parts = snapshot.parts()
        snapshot = world.evaluator.snapshot
        await let_go(parts)

    held = await longest_hold(reload())
    return {
        "check_us": check_us,
        "compile_s": round(compiled, 2),
        "all_changed_longest_hold_ms": round(held * 1e3, 2),
    }


async def longest_hold(work: Any) -> float:
    """The longest time that ``work`` kept a callback waiting."""
    task = asyncio.ensure_future(work)
    longest, before = 0.0, time.perf_counter()
    while not task.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, before = max(longest, now - before), now
    await task
    return longest


def of_groups(world: World, count: int) -> float:
    """A check of somebody in ``count`` groups."""
    world.evaluator.snapshot = compile_snapshot(world.read(configuration(10)), None, 0.0)
    groups = frozenset({"team-0001-engineering", *(f"other-{number}" for number in range(count))})
    cookie = world.sign_in("grouped", groups=groups, host="r1.example.com")
    return timed(world, [world.request("r1", cookie=cookie)])


async def cold_start(count: int) -> tuple[dict[str, float], dict[str, float]]:
    """A replica of ``count`` sessions with a user each, filled by a databroker that reads them from its store; and two at once."""
    rnd = random.Random(count)
    groups = [f"team-{number:04}-engineering" for number in range(2_000)]
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        server = stack.enter_context(redis_server("valkey", "--appendfsync", "no"))
        endpoints, keys, process = stack.enter_context(databroker_process(folder, server))
        store = RedisStore(Link(Servers.parse(server.url)), SealedCodec(keys.keyring(Purpose.RECORDS)), SystemClock())
        for start in range(0, count, 150):
            writes = []
            for number in range(start, min(start + 150, count)):
                session, user = people(rnd, number, groups, time.time())
                writes += [
                    Write(record=stored("Session", session.id, session.to_bytes(), user_id=(user.id,))),
                    Write(record=stored("User", user.id, user.to_bytes(), email=(user.email,))),
                ]
            await put(store, writes)
        await store.close()
        await asyncio.sleep(2)  # the feed's own reader is through with it
        one = await at_once(1, endpoints.folder, process, count)
        return one, await at_once(2, endpoints.folder, process, count)


async def put(store: RedisStore, writes: list[Write]) -> None:
    """Write; a store that answers late on a busy machine is asked again under the same number, and writes once."""
    request_id = secrets.token_hex(16)
    for _ in range(5):
        try:
            await store.put(writes, request_id)
            return
        except OutcomeUnknownError:
            await asyncio.sleep(1)
    raise SystemExit("the store does not answer")


async def at_once(replicas: int, folder: Path, databroker: psutil.Process, count: int) -> dict[str, float]:
    """Replicas that start at the same moment, each in a process of its own; the slowest, and what the databroker spent."""
    theirs = sum(databroker.cpu_times()[:2])
    command = [sys.executable, __file__, "--follow", str(folder), "--cold", str(count)]
    started = [await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE) for _ in range(replicas)]
    outputs = [(await process.communicate())[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("a replica has failed")
    found = max((json.loads(output.splitlines()[-1]) for output in outputs), key=lambda report: report["ready_s"])
    return {
        **found,
        "databroker_cpu_s": round(sum(databroker.cpu_times()[:2]) - theirs, 2),
        "databroker_mb": round(databroker.memory_info().rss / 1e6, 1),
    }


async def latest_timer(is_over: Callable[[], bool]) -> float:
    """How late a timer was at most until then; what else a check would have waited for."""
    latest = 0.0
    while not is_over():
        asked = time.perf_counter()
        await asyncio.sleep(0.002)
        latest = max(latest, time.perf_counter() - asked - 0.002)
    return latest


async def followed(endpoints: LocalEndpoints, count: int) -> dict[str, float]:
    """The replica's start, and how long it kept other callbacks waiting."""
    ours = psutil.Process()
    gc.collect()
    before = ours.memory_info().rss
    async with open_channel(endpoints.databroker("authorize"), Plane.DATABROKER) as channel:
        replica = Replica(channel, WATCHED, "bench", SystemClock(), 5.0, packers())
        used, began = time.process_time(), time.perf_counter()
        running = asyncio.create_task(replica.run())
        held = await latest_timer(replica.ready.is_set)
        took, used = time.perf_counter() - began, time.process_time() - used
        at_once = ours.memory_info().rss - before
        assert replica._making_small is not None
        began, used_then = time.perf_counter(), time.process_time()
        held_later = await latest_timer(replica._making_small.done)
        small, used_then = time.perf_counter() - began, time.process_time() - used_then
        memory = ours.memory_info().rss - before
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert replica.count("Session") == replica.count("User") == count
    return {
        "sessions": count,
        "ready_s": round(took, 2),
        "records_per_s": round(2 * count / took),
        "replica_cpu_s": round(used, 2),
        "longest_hold_ms": round(held * 1e3, 1),
        "replica_mb": round(memory / 1e6, 1),
        "small_after_s": round(small, 2),
        "small_cpu_s": round(used_then, 2),
        "longest_hold_then_ms": round(held_later * 1e3, 1),
        "replica_mb_before": round(at_once / 1e6, 1),
    }


def stored(kind: str, record_id: str, data: bytes, **indexes: tuple[str, ...]) -> Record:
    return Record(type=kind, id=record_id, data=data, expires_at=time.time() + 36_000, indexes=indexes)


async def of_sessions(world: World, count: int) -> dict[str, float]:
    """Memory, collection, and decisions for sessions in random order, out of a replica of ``count`` sessions with a user each."""
    rnd = random.Random(count)
    groups = [f"team-{number:04}-engineering" for number in range(2_000)]
    clock, small = world.clock, packers()
    replica = Replica(grpc.aio.insecure_channel("unix:/nowhere"), ["Session", "User"], "bench", clock, 5.0, small)
    gc.collect()
    gc.freeze()
    began = time.perf_counter()
    building = Building(["Session", "User"], small)
    asked: list[tuple[str, int]] = []
    spent = 0.0
    for start in range(0, count, 250):
        records = []
        for number in range(start, min(start + 250, count)):
            session, user = people(rnd, number, groups, clock.now())
            if len(asked) < CHECKS and rnd.random() < 2 * CHECKS / count:
                asked.append((session.id, number))
            records += [
                message("Session", session.id, 2 * number + 1, session.to_bytes()),
                message("User", user.id, 2 * number + 2, user.to_bytes()),
            ]
        took = time.perf_counter()
        await replica._build(records, building)
        spent += time.perf_counter() - took
    await replica._swap(building, frozenset())
    replica.version = RecordVersion(1, 2 * count)
    del building
    used = sum(map(held_by, replica._entries.values()))
    filled = time.perf_counter() - began
    took = time.perf_counter()
    gc.collect()
    collected = time.perf_counter() - took
    world.evaluator.snapshot = compile_snapshot(world.read(configuration(10)), None, 0.0)
    principals = Principals(world.handles, replica, world.records, clock)
    evaluator = Evaluator(world.evaluator.snapshot, principals, world.records, clock, world.metrics)
    rnd.shuffle(asked)
    parse = world.checker._parse
    requests = []
    for session_id, number in asked:
        handle = SessionHandle(
            session_id=session_id, audience="r1.example.com", expires_at=int(clock.now()) + 3600, epoch=1, number=number
        )
        requests.append(parse(world.request("r1", cookie=f"__Host-doorward={world.handles.mint(handle)}")))
    for request in requests[: len(requests) // 10]:
        evaluator.decide(request)
    gc.collect()
    gc.freeze()
    took = time.process_time()
    for request in requests:
        evaluator.decide(request)
    decided = time.process_time() - took
    gc.unfreeze()
    return {
        "decide_us": round(decided / len(requests) * 1e6, 1),
        "bytes_a_session": round(used / count),
        "apply_us_a_record": round(spent / count / 2 * 1e6, 1),
        "fill_s": round(filled, 1),
        "collection_ms": round(collected * 1e3, 1),
    }


def people(rnd: random.Random, number: int, groups: list[str], now: float) -> tuple[Session, User]:
    """Somebody in fifty groups, signed in."""
    user = User(
        id=user_id(ISSUER, f"subject-{number:08}"),
        issuer=ISSUER,
        subject=f"subject-{number:08}",
        email=f"user{number}@example.com",
        email_verified=True,
        name=f"User Number {number}",
        groups=frozenset(rnd.sample(groups, 50)),
        refreshed_at=now,
    )
    session = Session(
        id=f"{rnd.getrandbits(128):032x}",
        user_id=user.id,
        identity_provider_id="corp",
        issued_at=int(now),
        expires_at=int(now) + 36_000,
        authenticated_at=int(now),
        methods=("pwd", "mfa"),
        claims_json=b'{"department":"eng"}',
    )
    return session, user


def message(kind: str, record_id: str, number: int, data: bytes) -> pb.Record:
    return record_message(Record(type=kind, id=record_id, version=RecordVersion(1, number), data=data))


def timed(world: World, requests: list[bytes]) -> float:
    """Microseconds of processor time a whole check."""
    check = world.checker.check
    for _ in range(2):
        for request in requests:
            check(request)
    world.log._queue.clear()
    gc.collect()
    began = time.process_time()
    for number in range(CHECKS):
        check(requests[number % len(requests)])
    spent = time.process_time() - began
    world.log._queue.clear()
    return round(spent / CHECKS * 1e6, 1)


def held_by(entries: dict[int | str, bytes]) -> int:
    """Bytes of memory behind a dictionary; the allocator hands out multiples of sixteen."""
    return sys.getsizeof(entries) + sum(-(-sys.getsizeof(part) // 16) * 16 for pair in entries.items() for part in pair)


if __name__ == "__main__":
    main()
