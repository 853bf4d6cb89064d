"""What a record costs: put, watched by many, read as a snapshot, sealed; each against the bare thing in the same run.

A real Valkey (`appendfsync always`) and a real databroker process on this machine. The last line is JSON. Some two minutes by
default; ``--records 1000000 --sessions 100000`` are the large cases, by hand. ``--only-storm`` measures the refresh storm alone.
"""

import argparse
import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
import uvloop
import yaml
from bench.refresh_storm import storm
from bench.watching import WATCH, watch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.support.deployment import short_folder
from tests.support.records import metered
from tests.support.redis_server import RedisServer, redis_server

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.clock import SystemClock
from doorward.config.endpoints import LocalEndpoints
from doorward.keys.store import KeyStore, Purpose, create_missing_keys
from doorward.records.client import RecordClient
from doorward.records.record import Record, RecordVersion, Write, record_message
from doorward.rpc.client import open_channel
from doorward.rpc.planes import Plane
from doorward_databroker.store.codec import Codec, SealedCodec
from doorward_databroker.store.connection import Call, Link
from doorward_databroker.store.keyspace import Keyspace
from doorward_databroker.store.redis import RedisStore
from doorward_databroker.store.servers import Servers
from doorward_databroker.store.writer import _Job

PAYLOAD = 500


class PlainCodec:
    """What sealing costs is seen against a codec that does not seal."""

    def encode(self, record: Record) -> bytes:
        return record_message(record).SerializeToString()

    def message(self, record_type: str, record_id: str, version: RecordVersion, stored: bytes) -> pb.Record:
        del record_type, record_id, version
        return pb.Record.FromString(stored)

    def index_values(self, record_type: str, index: str, value: str) -> tuple[str, ...]:
        return (f"{record_type}{index}{value}",)

    def attest(self, statement: bytes) -> bytes:
        return statement[:0]

    def is_attested(self, statement: bytes, proof: bytes) -> bool:
        return bool(statement) and not proof

    def mark(self) -> str:
        return ""

    def check_mark(self, mark: str) -> None:
        del mark

    def is_current(self, stored: bytes) -> bool:
        return bool(stored)


def session(name: str, data: bytes = bytes(PAYLOAD)) -> Record:
    user = name[:24]
    return Record(
        type="Session", id=name, data=data, expires_at=time.time() + 36_000,
        indexes={"user_id": (user,), "identity_provider_id": ("corp",)},
    )  # fmt: skip


async def taken_in_turns(count: int, **calls: Callable[[int], Awaitable[object]]) -> dict[str, float]:
    """The median of each call in microseconds. They take turns one by one, so that whatever disturbs the run disturbs all alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(count):
        for name, call in calls.items():
            began = time.perf_counter()
            await call(number)
            times[name].append(time.perf_counter() - began)
    return {f"{name}_us": statistics.median(taken) * 1e6 for name, taken in times.items()}


class BarePuts:
    """The put script alone: called as a put of a session is, with arguments that were made before, by the client that the store uses."""

    def __init__(self, link: Link, codec: Codec) -> None:
        self._link = link
        # A history of its own: ours must not find that somebody else has moved its head.
        self._store = RedisStore(link, codec, SystemClock(), Keyspace("{bare}"))
        self._calls: list[Call] = []

    async def prepare(self, count: int) -> None:
        head = await self._store.head()
        for number in range(count):
            write = Write(record=session(f"bare{number:08d}{secrets.token_hex(8)}"))
            job = _Job([write], secrets.token_hex(16), None, asyncio.get_running_loop().create_future())
            call, head = self._store._writer._call(job, head)
            self._calls.append(call)

    async def put(self, number: int) -> None:
        (answer,) = await self._link.write_all([self._calls[number]])
        assert answer == [b"ok"], answer  # the script is known: the store's first put has brought it


async def store_figures(server: RedisServer, codec: Codec, count: int) -> dict[str, float]:
    link = Link(Servers.parse(server.url))
    redis = RedisStore(link, codec, SystemClock())
    store = metered(redis)
    await store.put([Write(record=session("warm"))], secrets.token_hex(16))

    async def put(number: int) -> None:
        await store.put([Write(record=session(f"s{number:08d}{secrets.token_hex(8)}"))], secrets.token_hex(16))

    bare = BarePuts(link, codec)
    await bare.prepare(count)
    result = await taken_in_turns(count, bare=bare.put, put=put)
    began = time.perf_counter()
    await asyncio.gather(*(_many(put, count // 32) for _ in range(32)))
    at_once = (count // 32) * 32 / (time.perf_counter() - began)
    began = time.perf_counter()
    for first in range(0, count, 100):
        writes = [Write(record=session(f"b{first + n:08d}{secrets.token_hex(8)}")) for n in range(100)]
        await store.put(writes, secrets.token_hex(16))
    batched = count / (time.perf_counter() - began)
    await redis.close()
    return result | {"puts_per_s_32_at_once": at_once, "records_per_s_batches_of_100": batched}


async def sync_prices(server: RedisServer, codec: Codec, count: int) -> dict[str, float]:
    """The same puts when each waits for the disk, and when the disk is written once a second; by turns on one server."""
    link = Link(Servers.parse(server.url))
    store = RedisStore(link, codec, SystemClock())

    async def put(number: int) -> None:
        await store.put([Write(record=session(f"y{number:08d}{secrets.token_hex(8)}"))], secrets.token_hex(16))

    alone: dict[str, list[float]] = {"always": [], "everysec": []}
    at_once: dict[str, list[float]] = {"always": [], "everysec": []}
    for _ in range(5):
        for policy, times in alone.items():
            server.ask(f"CONFIG SET appendfsync {policy}")
            times.append((await taken_in_turns(count // 5, put=put))["put_us"])
            began = time.perf_counter()
            await asyncio.gather(*(_many(put, count // 32) for _ in range(32)))
            at_once[policy].append((count // 32) * 32 / (time.perf_counter() - began))
    server.ask("CONFIG SET appendfsync always")
    await store.close()
    found = {"sync_us": disk_sync_us(server.folder)}
    for policy, times in alone.items():
        found[f"put_us_{policy}"] = statistics.median(times)
        found[f"puts_per_s_{policy}"] = statistics.median(at_once[policy])
    return found


def disk_sync_us(folder: Path) -> float:
    """What it takes this disk to keep a small write for good."""
    times = []
    with (folder / "probe").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(bytes(PAYLOAD))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


async def _many(put: Callable[[int], Awaitable[object]], count: int) -> None:
    for number in range(count):
        await put(number)


async def rpc_figures(endpoints: LocalEndpoints, server: RedisServer, codec: Codec, count: int) -> dict[str, float]:
    link = Link(Servers.parse(server.url))
    async with open_channel(endpoints.databroker("authenticate"), Plane.DATABROKER) as channel:
        client = RecordClient(channel)
        health = health_pb2_grpc.HealthStub(channel)
        await client.put([Write(record=session("warm"))])
        bare = BarePuts(link, codec)
        await bare.prepare(count)
        result = await taken_in_turns(
            count,
            bare=bare.put,
            empty=lambda _: health.Check(health_pb2.HealthCheckRequest()),
            put=lambda n: client.put([Write(record=session(f"r{n:08d}{secrets.token_hex(8)}"))]),
        )
    await link.close()
    return result


async def snapshot(
    endpoints: LocalEndpoints, expected: int, databroker: psutil.Process, server: RedisServer
) -> dict[str, float]:
    """Everything of one type, as bytes, until the databroker says that it is consistent."""
    before = psutil.Process().memory_info().rss
    async with open_channel(endpoints.databroker("authorize"), Plane.DATABROKER) as channel:
        began = time.perf_counter()
        count = 0
        kept: list[bytes] = []
        async for data in _watch(channel, ["Session"], "snapshot"):
            message = pb.WatchResponse.FromString(data)
            kept.append(data)
            count += len(message.batch.records)
            if message.WhichOneof("message") == "consistent":
                break
        took = time.perf_counter() - began
    assert count >= expected, f"{count} of {expected} records"
    return {
        "records": count, "seconds": took, "records_per_s": count / took,
        "store_mb": psutil.Process(server.pid).memory_info().rss / 1e6,
        "databroker_mb": databroker.memory_info().rss / 1e6, "watcher_mb": (psutil.Process().memory_info().rss - before) / 1e6,
    }  # fmt: skip


async def _watch(channel: grpc.aio.Channel, types: list[str], name: str) -> Any:
    call = channel.stream_stream(
        WATCH, request_serializer=pb.WatchRequest.SerializeToString, response_deserializer=bytes
    )

    async def requests() -> Any:
        yield pb.WatchRequest(start=pb.WatchRequest.Start(types=types, watcher_id=name))
        await asyncio.Event().wait()

    stream = call(requests())
    while (data := await stream.read()) is not grpc.aio.EOF:
        yield data
    raise RuntimeError(f"the watch ended: {await stream.details()}")


async def fan_out(
    endpoints: LocalEndpoints, databroker: psutil.Process, count: int, rate: int, batch: int, seconds: float
) -> dict[str, float]:
    process = subprocess.Popen(  # noqa: ASYNC220  # starting it is not measured
        [sys.executable, __file__, "--watchers", str(count), "--folder", str(endpoints.folder), "--seconds", str(seconds)],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
    cpu = sum(databroker.cpu_times()[:2])
    written = failed = 0
    async with open_channel(endpoints.databroker("authenticate"), Plane.DATABROKER) as channel:
        client = RecordClient(channel)
        began = time.perf_counter()
        pending: set[asyncio.Task[object]] = set()
        while (elapsed := time.perf_counter() - began) < seconds:
            while written < elapsed * rate:
                writes = [
                    Write(record=Record(type="User", id=f"u{(written + n) % 5000}", data=b"%.6f" % time.time()))
                    for n in range(batch)
                ]
                pending.add(asyncio.create_task(client.put(writes)))
                written += batch
                if len(pending) > 2_000:
                    break
            failed += sum(task.exception() is not None for task in pending if task.done())
            pending = {task for task in pending if not task.done()}
            await asyncio.sleep(0.001)
        failed += sum(isinstance(one, Exception) for one in await asyncio.gather(*pending, return_exceptions=True))
    output = await asyncio.to_thread(process.stdout.read)
    process.wait()
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    used = sum(databroker.cpu_times()[:2]) - cpu
    return {
        "watchers": count, "changes_per_s": written / seconds, "failed_puts": failed, "cut": result["cut"],
        "seen_of_sent": result["seen"] / (written * count), "p50_ms": result["p50"], "p99_ms": result["p99"],
        "max_ms": result["max"], "messages_per_s": result["messages"] / (seconds + 1),
        "databroker_cores": used / (seconds + 1), "watchers_cores": result["cores"],
        "databroker_mb": databroker.memory_info().rss / 1e6,
    }  # fmt: skip


@contextmanager
def databroker_process(folder: Path, server: RedisServer) -> Any:
    data, run = folder / "data", folder / "run"
    for path in (data, run):
        path.mkdir(mode=0o700)
    create_missing_keys(data / "keys")
    config = folder / "doorward.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "version": 1,
                "authenticate_url": "https://sign-in.example.com",
                "databroker": {"redis": server.url},
                "identity_providers": [
                    {"id": "corp", "issuer": "https://idp.example.com", "client_id": "x", "client_secret": "env:NONE"}
                ],
                "routes": [],
            }
        )
    )
    reading, writing = os.pipe()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "doorward.cli.app", "serve", "databroker", "--config", str(config), "--data", str(data),
             "--run-dir", str(run), "--ready-fd", str(writing)],
            pass_fds=[writing], stdout=log, stderr=log,
        )  # fmt: skip
    os.close(writing)
    with os.fdopen(reading, "rb") as ready:
        if not ready.readline():
            raise RuntimeError((folder / "log").read_text()[-2000:])
    try:
        yield LocalEndpoints(run), KeyStore(data / "keys"), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


async def measure_storm(count: int) -> dict[str, float]:
    with (
        short_folder() as folder,
        redis_server("valkey") as server,
        databroker_process(folder, server) as (endpoints, keys, process),
    ):
        return await storm(endpoints, keys, process, count)


async def measure(arguments: argparse.Namespace) -> dict[str, float]:
    count = arguments.puts
    with short_folder() as folder, redis_server("valkey") as server:
        create_missing_keys(folder / "alone")
        codec = SealedCodec(KeyStore(folder / "alone").keyring(Purpose.RECORDS))
        sealed = await store_figures(server, codec, count)
        server.ask("FLUSHALL")
        plain = await store_figures(server, PlainCodec(), count)
        server.ask("FLUSHALL")
        prices = await sync_prices(server, codec, count)
        server.ask("FLUSHALL")
        print("appendfsync:  ", _shown(prices))
        print("store, sealed:", _shown(sealed))
        print("store, plain: ", _shown(plain))
        with databroker_process(folder, server) as (endpoints, keys, process):
            rpc = await rpc_figures(endpoints, server, SealedCodec(keys.keyring(Purpose.RECORDS)), count)
            print("over gRPC:    ", _shown(rpc))
            many = await fan_out(endpoints, process, 100, 1000, 1, arguments.seconds)
            print("fan-out:      ", _shown(many))
            fast = await fan_out(endpoints, process, 10, 10_000, 100, arguments.seconds)
            print("fan-out:      ", _shown(fast))
            stormed = await storm(endpoints, keys, process, arguments.sessions)
            print("refresh storm:", _shown(stormed))
            store = RedisStore(
                Link(Servers.parse(server.url)), SealedCodec(keys.keyring(Purpose.RECORDS)), SystemClock()
            )
            for first in range(0, arguments.records, 500):
                names = [f"many{first + n:09d}" for n in range(min(500, arguments.records - first))]
                await store.put([Write(record=session(name)) for name in names], secrets.token_hex(16))
            await store.close()
            await asyncio.sleep(2)  # the feed's own reader is through with it
            shot = await snapshot(endpoints, arguments.records, process, server)
            print("snapshot:     ", _shown(shot))
    return {
        "put_ratio_store": sealed["put_us"] / sealed["bare_us"],
        "put_ratio_rpc": rpc["put_us"] / (rpc["bare_us"] + rpc["empty_us"]),
        "sealed_to_plain_put": sealed["put_us"] / plain["put_us"],
        "puts_per_s": sealed["puts_per_s_32_at_once"],
        "always_to_everysec_put": prices["put_us_always"] / prices["put_us_everysec"],
        "always_to_everysec_puts_per_s": prices["puts_per_s_always"] / prices["puts_per_s_everysec"],
        "watch_p99_ms": many["p99_ms"],
        "watch_fast_p99_ms": fast["p99_ms"],
        "snapshot_records_per_s": shot["records_per_s"],
        "refreshes_per_s": stormed["refreshes_per_s"],
    }


def _shown(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.2f}" for name, value in figures.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--puts", type=int, default=1000)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--sessions", type=int, default=2_000, help="of the refresh storm")
    parser.add_argument("--only-storm", action="store_true")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--watchers", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watchers:
        asyncio.run(watch(arguments.folder, arguments.watchers, arguments.seconds))
        return
    if arguments.only_storm:
        found = asyncio.run(measure_storm(arguments.sessions))
        print("refresh storm:", _shown(found))
        print(json.dumps({name: round(value, 2) for name, value in found.items()}))
        return
    # As the databroker's own loop, so that the bare script is not called by a slower client than the store's.
    figures = uvloop.run(measure(arguments))
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
