"""A check in the minute that the design promises: one file of a hundred with routes changes, and a directory sends a batch.

The real deployment (``doorward run``), with 10,000 routes in 100 files. A client in C asks the authorizer on its socket and counts from when a
call was due: first a minute in which nothing changes, then that minute, then one in which all hundred files change. It asks at a quarter of
the rate that saturates the authorizer with 32 calls at once: one that comes alone costs nearly twice as much, so this is nearly half of what it
can answer one by one. Beside the times stands how often the authorizer's collector ran, by generation, since the change. The last line is JSON.
"""

import argparse
import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from envoy_cases import CHECK_PATH, cpu
from ext_authz import check_request, sockets_of
from open_loop import SATURATING, shown
from paced_calls import PacedCalls
from scale_live import readers_rest
from tests.support.deployment import short_folder, wait_for
from tests.support.site import Site, signed_in, site

from doorward.clock import SystemClock
from doorward.config.directory_settings import DirectorySettings, KeycloakConnection
from doorward.config.endpoints import LocalEndpoints, default_run_folder
from doorward.config.load import load_settings
from doorward.config.references import Reference, no_secret
from doorward.config.sources import ROUTES_FOLDER
from doorward.priority import Priority
from doorward.records.client import RecordClient
from doorward.records.lease import hold_lease
from doorward.rpc.client import open_channel
from doorward.rpc.planes import Plane
from doorward_databroker.directory.main import NICE
from doorward_databroker.directory.port import Progress
from doorward_databroker.directory.roster import Roster
from doorward_databroker.directory.synchroniser import synchronise

ALICE = ("alice@example.com", "alice-demo")
COLLECTIONS = """
import gc, json, os, signal
from pathlib import Path

def note(*_):
    path = Path(os.environ["DOORWARD_BENCH_COLLECTIONS"])
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps([one["collections"] for one in gc.get_stats()]))
    scratch.replace(path)

signal.signal(signal.SIGUSR2, note)
"""
"""What every process of the deployment does first: so the authorizer notes how often its collector ran when it is asked."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=int, default=60, help="each case")
    arguments.add_argument("--part", type=float, default=0.25, help="of the rate that saturates the authorizer")
    arguments.add_argument("--routes", type=int, default=10_000)
    arguments.add_argument("--files", type=int, default=100)
    arguments.add_argument("--people", type=int, default=10_000, help="entries in the directory's batch")
    arguments.add_argument("--directory-of", type=Path, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.directory_of is not None:
        asyncio.run(directory(options.directory_of, options.people))
        return
    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        lists = RouteLists(folder / ROUTES_FOLDER, options.routes, options.files)
        notes = stack.enter_context(counting_collections(folder / "first"))
        made = stack.enter_context(
            site(folder, [{"name": "mine", "from": "mine", "to": "http://127.0.0.1:9", "policy": signed_in()}])
        )
        print(json.dumps(measure(made, lists, notes, options)))


class People:
    """A directory in which everybody is new."""

    def __init__(self, count: int) -> None:
        self._count = count

    async def read(self, roster: Roster, progress: Progress) -> None:
        del progress
        mark = secrets.token_hex(4)
        for number in range(self._count):
            roster.person(f"{mark}-{number}", join_value=f"person{number}", email=f"person{number}@example.com")


async def directory(data: Path, count: int) -> None:
    """Be the directory worker of a deployment for one reading, as nice as it is."""
    priority = Priority()
    priority.lower()
    priority.become(NICE)
    settings = DirectorySettings(
        id="bench", kind="keycloak", identity_provider_id="demo", join="sub", group_names=True, every_seconds=300,
        stale_seconds=3600, removal_limit=1.0,
        connection=KeycloakConnection(url="", realm="", client_id="", client_secret=Reference(data, "file:secret")),
    )  # fmt: skip
    endpoint = LocalEndpoints(default_run_folder(data)).databroker(Plane.DIRECTORY)
    async with open_channel(endpoint, Plane.DATABROKER) as channel:
        client = RecordClient(channel)
        async with hold_lease(client, "directory/bench", "bench", 30) as lease:
            await synchronise(settings, People(count), client, SystemClock(), Progress(), lease.fence)


class RouteLists:
    """Files with routes, each of which is written again with other policies."""

    def __init__(self, folder: Path, routes: int, files: int) -> None:
        folder.mkdir()
        self._folder = folder
        self._each = routes // files
        self._files = files
        self.change_all("a")

    def change(self, file: int, generation: str) -> None:
        path = self._folder / f"{file:03}.yaml"
        scratch = path.with_suffix(".new")
        scratch.write_text(
            "".join(
                f"- {{name: more-{n}, from: 'https://team-{file}.localhost', prefix: /{n}, to: 'http://127.0.0.1:9', "
                f"policy: [{{allow: {{and: [{{groups: {{has: team-{n}-{generation}}}}}]}}}}]}}\n"
                for n in range(file * self._each, (file + 1) * self._each)
            )
        )
        scratch.replace(path)

    def change_all(self, generation: str) -> None:
        for file in range(self._files):
            self.change(file, generation)


@contextmanager
def counting_collections(folder: Path) -> Iterator[Path]:
    """Processes that begin within note on SIGUSR2, in the file that this yields, how often their collector ran, by generation."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(COLLECTIONS)
    notes = folder / "collections.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        patch.setenv("DOORWARD_BENCH_COLLECTIONS", str(notes))
        yield notes


def collections(made: Site, notes: Path) -> list[int]:
    """How often the authorizer's collector has run until now, youngest generation first."""
    notes.unlink(missing_ok=True)
    made.run.member("authorize").send_signal(signal.SIGUSR2)
    wait_for(notes.exists, 10, what="the authorizer's note")
    found: list[int] = json.loads(notes.read_text())
    return found


def measure(made: Site, lists: RouteLists, notes: Path, options: argparse.Namespace) -> dict[str, Any]:
    client = made.client()
    client.sign_in(made.url("mine") + "/", *ALICE)
    route = next(item.route for item in load_settings(made.where, secrets=no_secret).routes if item.route.id == "mine")
    cookie = f"__Host-doorward={client.cookie(route.host, '__Host-doorward')}"
    check = ("/" + CHECK_PATH, check_request(cookie, {"route": route.id, "digest": route.digest, "host": route.host}))
    socket = next(Path(c.laddr) for c in sockets_of(made.run) if Path(c.laddr).name == "check.0.sock")
    authorizer, calls = made.run.member("authorize"), PacedCalls(made.folder)
    readers_rest(made.run)
    rate = round(calls.saturated(socket, *check, SATURATING) * options.part)
    report: dict[str, Any] = {"rate": rate, "seconds": options.seconds, "routes": options.routes}
    # A reader is started at the first change of all, and reads everything then; from then on it knows what it has read.
    lists.change(0, "b")
    readers_rest(made.run)

    def much_changes() -> None:
        lists.change(options.files // 2, "c")
        worker = [sys.executable, __file__, "--directory-of", str(made.data), "--people", str(options.people)]
        subprocess.run(worker, check=True, start_new_session=True)

    print(f"{rate} checks a second, {options.seconds} s each")
    print(f"{'case':22} {'p50 ms':>8} {'p99 ms':>8} {'p99.9 ms':>9} {'max ms':>8}")
    for name, work in (
        ("nothing changes", lambda: None),
        ("promised minute", much_changes),
        ("all files change", lambda: lists.change_all("d")),
    ):
        used = cpu(authorizer)
        running = calls.start(socket, *check, rate, rate * options.seconds)
        time.sleep(options.seconds / 4)  # when in the minute, not until something holds
        began, before = time.monotonic(), collections(made, notes)
        work()
        readers_rest(made.run)
        settled = round(time.monotonic() - began, 1)
        figures = shown(name, running.times().from_due)
        used = (cpu(authorizer) - used) / options.seconds
        collected = [now - then for now, then in zip(collections(made, notes), before, strict=True)]
        print(f"{'':22} {used:.2f} of a core in the authorizer; settled in {settled} s; collections {collected}")
        figures |= {"core": round(used, 2), "settled_s": settled, "collections": collected}
        report[name.replace(" ", "_")] = figures
    return report


if __name__ == "__main__":
    main()
