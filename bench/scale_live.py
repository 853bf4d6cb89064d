"""The part of ``scale.py`` that needs the real deployment: checks on the authorizer's socket while much changes, and one more worker.

The client is written in C (``paced_calls.c``) and counts from when a call was due, at half of what saturates the authorizer.
"""

import asyncio
import secrets
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
from envoy_cases import CHECK_PATH, cpu
from ext_authz import check_request, second_worker, sign_in, sockets_of
from paced_calls import PacedCalls
from tests.support.deployment import Running, short_folder, start, wait_for
from tests.support.http_client import BrowserlessClient

from doorward.config.endpoints import LocalEndpoints, default_run_folder
from doorward.identity.directory import USER_TYPE, DirectoryUser, directory_user_id
from doorward.records.client import RecordClient
from doorward.records.record import Record, Write
from doorward.rpc.client import open_channel
from doorward.rpc.planes import Plane

BATCH = 250
REST = 6
"""Looks at the readers, a fifth of a second apart."""
MARK = "  # What follows is the measurement's own.\n"


def live(seconds: int, routes: int, people: int) -> dict[str, Any]:
    """Keys ``check_p99_ms``, ``reload_check_p99_ms``, ``directory_check_p99_ms`` and ``workers``."""
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        running = start(["demo", "--port", "0"], folder / "data")
        stack.callback(running.stop)
        cookie, context = sign_in(running)
        socket = next(Path(c.laddr) for c in sockets_of(running) if Path(c.laddr).name == "check.0.sock")
        client, call = PacedCalls(folder), ("/" + CHECK_PATH, check_request(cookie, context))
        alone = client.saturated(socket, *call, seconds * 5_000)
        report: dict[str, Any] = {"check_rate": round(alone / 2)}
        change(running, routes, "a")
        readers_rest(running)
        for key, work in (
            ("check", lambda: None),
            ("reload_check", lambda: change(running, routes, "b")),
            ("directory_check", lambda: asyncio.run(people_change(running, people))),
        ):
            report |= measured(client, socket, call, round(alone / 2), seconds, key, work)
            readers_rest(running)
        stack.enter_context(second_worker(running, socket.parent, folder / "second.log"))
        second = socket.with_name("check.1.sock")
        report["workers"] = {1: round(alone), 2: round(together(client, (socket, second), call, seconds * 5_000))}
    return report


def measured(
    client: PacedCalls, socket: Path, call: tuple[str, bytes], rate: int, seconds: int, key: str, work: Any
) -> dict[str, float]:
    """Latencies of checks at a fixed rate while ``work`` is done; they go on until it is through."""
    times: list[float] = []
    working = threading.Thread(target=work)
    began = time.monotonic()
    while not times or working.is_alive():
        calls = client.start(socket, *call, rate, rate * seconds)
        if not times:
            working.start()
        times += calls.times().from_due
    working.join()
    times.sort()
    found = {name: round(times[int((len(times) - 1) * part)] * 1e3, 2) for name, part in (("p50", 0.5), ("p99", 0.99))}
    print(f"{key:>16}  {found} ms, {len(times)} checks in {time.monotonic() - began:.0f} s")
    return {f"{key}_{name}_ms": value for name, value in found.items()}


def change(running: Running, count: int, generation: str) -> None:
    """Put ``count`` routes beside the demo's own, each with another policy than in the generation before."""
    config = running.data / "demo.yaml"
    own = config.read_text().partition(MARK)[0]
    host = running.ready["urls"]["admin"]
    config.write_text(
        own
        + MARK
        + "".join(
            f"  - {{name: more-{n}, from: '{host}', prefix: /more/{n}, to: 'http://127.0.0.1:9', "
            f"policy: [{{allow: {{and: [{{groups: {{has: team-{n}-{generation}}}}}]}}}}]}}\n"
            for n in range(count)
        )
    )
    with BrowserlessClient(running.ca_file) as client:
        wait_for(
            lambda: client.request("GET", f"{host}/more/{count - 1}").status_code == 401, 120, what="the last route"
        )


def readers_rest(running: Running) -> None:
    """Return once no reader of a configuration has used the processor for a second: the last plane may be far behind the first one."""
    seen: list[float] = []

    def rest() -> bool:
        used = 0.0
        for process in running.members():
            with suppress(psutil.Error):
                used += cpu(process) if "doorward.config.apart" in process.cmdline() else 0.0
        seen.append(used)
        time.sleep(0.2)
        return len(seen) > REST and seen[-1] - seen[-REST] < 0.02  # two ticks of the clock by which time is counted

    wait_for(rest, 240, what="the end of reading")


async def people_change(running: Running, count: int) -> None:
    """Entries of a directory, as its worker writes them."""
    endpoints = LocalEndpoints(default_run_folder(running.data))
    async with open_channel(endpoints.databroker(Plane.DIRECTORY), Plane.DATABROKER) as channel:
        records = RecordClient(channel)
        mark = secrets.token_hex(4)
        for first in range(0, count, BATCH):
            writes = []
            for number in range(first, min(first + BATCH, count)):
                name = f"person{number}"
                entry = DirectoryUser(
                    directory_id="bench", entry_id=f"{name}-{mark}", join_value=name, group_numbers=(number % 100 + 1,)
                )
                record_id = directory_user_id("bench", "sub", name)
                writes.append(Write(record=Record(type=USER_TYPE, id=record_id, data=entry.to_bytes())))
            await records.put(writes)


def together(client: PacedCalls, sockets: tuple[Path, Path], call: tuple[str, bytes], count: int) -> float:
    """Calls a second of two authorizers side by side, each saturated by a client of its own."""
    began = time.perf_counter()
    running = [client.start(socket, *call, 0, count) for socket in sockets]
    for calls in running:
        calls.times()
    return 2 * count / (time.perf_counter() - began)
