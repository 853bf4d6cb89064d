"""A directory of 100,000 people and 10,000 groups: read over HTTP, written through a real databroker into a real store.

    PYTHONPATH=. python bench/directory.py [--people N] [--groups N] [--each N]

This process is the directory worker; databroker, store and the directory's interface are processes of their own. The last line is
JSON; `first_seconds` and `peak_mb` are what the worker took for the first reading.
"""

import argparse
import asyncio
import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h2corn
import httpx
from tests.support.deployment import free_port, short_folder, wait_for
from tests.support.redis_server import redis_server

from doorward.clock import SystemClock
from doorward.config.directory_settings import DirectorySettings, KeycloakConnection
from doorward.config.endpoints import LocalEndpoints
from doorward.config.references import Reference
from doorward.keys.store import create_missing_keys
from doorward.records.client import RecordClient
from doorward.records.lease import hold_lease
from doorward.rpc.client import open_channel
from doorward.rpc.planes import Plane
from doorward_databroker.directory.port import Progress
from doorward_databroker.directory.sources.keycloak import KeycloakSource
from doorward_databroker.directory.sources.rest import http_client
from doorward_databroker.directory.synchroniser import synchronise

CONFIG = """\
version: 1
authenticate_url: https://sign-in.example.com
databroker: {{redis: "{redis}"}}
routes:
  - from: https://app.example.com
    to: http://127.0.0.1:1
    policy: [{{allow: {{and: [{{authenticated_user: true}}]}}}}]
"""
FIRST_LIMIT_SECONDS, PEAK_LIMIT_MB = 60.0, 500.0


class Directory:
    """Keycloak's interface over people and groups that are computed, so that it costs little itself."""

    def __init__(self, people: int, groups: int, each: int) -> None:
        self.people, self.groups, self.each = people, groups, each
        self.moved = 0
        """How many people are in another group than at first."""

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        del receive  # nothing here has a body that matters
        path, query = scope["path"], dict(part.split("=") for part in scope["query_string"].decode().split("&") if part)
        if path == "/move":
            self.moved = int(query["count"])
        body = json.dumps(self.answer(path, query)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    def answer(self, path: str, query: dict[str, str]) -> object:
        first, most = int(query.get("first", 0)), int(query.get("max", 0))
        if path.endswith("/token"):
            return {"access_token": "t", "expires_in": 3600}
        if path.endswith("/users/count"):
            return self.people
        if path.endswith("/users"):
            return [self.user(n) for n in range(first, min(first + most, self.people))]
        if path.endswith("/groups"):
            found = range(first, min(first + most, self.groups))
            return [{"id": f"group-{n:08}", "name": f"g{n}", "path": f"/g{n}", "subGroupCount": 0} for n in found]
        if path.endswith("/members"):
            group = int(path.split("/")[-2].removeprefix("group-"))
            per_group = self.people * self.each // self.groups
            members = [(group * per_group + n) % self.people for n in range(per_group)]
            if group == 0:
                members += range(self.people - self.moved, self.people)
            return [self.user(n) for n in members[first : first + most]]
        return {}

    def user(self, number: int) -> dict[str, object]:
        return {
            "id": f"00000000-0000-4000-8000-{number:012}", "username": f"u{number}", "firstName": "Person",
            "lastName": str(number), "email": f"person{number}@example.com", "enabled": True,
        }  # fmt: skip


@contextlib.contextmanager
def processes(options: argparse.Namespace) -> Iterator[tuple[Path, str]]:
    """Store, databroker and directory; the run folder, and the directory's address."""
    with short_folder() as folder, redis_server("valkey") as store:
        (folder / "doorward.yaml").write_text(CONFIG.format(redis=store.url))
        run = folder / "run"
        for private in (run, folder / "data"):
            private.mkdir(mode=0o700)
        create_missing_keys(folder / "data" / "keys")
        port = free_port()
        commands = [
            [
                sys.executable, "-m", "doorward.cli.app", "serve", "databroker", "--config", str(folder / "doorward.yaml"),
                "--data", str(folder / "data"), "--run-dir", str(run),
            ],
            [
                sys.executable, __file__, "--serve", str(port), "--people", str(options.people), "--groups",
                str(options.groups), "--each", str(options.each),
            ],
        ]  # fmt: skip
        with (folder / "log").open("w") as log:
            children = [subprocess.Popen(command, stdout=log, stderr=log) for command in commands]
        try:
            wait_for(lambda: LocalEndpoints(run).databroker(Plane.DIRECTORY).exists(), 20, what="the databroker")
            yield run, f"http://127.0.0.1:{port}"
        finally:
            for child in children:
                child.terminate()
                child.wait()


async def measure(run: Path, address: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Three readings: the first, one without a change, one in which a hundredth has changed."""
    (folder / "secret").write_text("s")
    settings = DirectorySettings(
        id="bench", kind="keycloak", identity_provider_id="idp", join="sub", group_names=True, every_seconds=300,
        stale_seconds=3600, removal_limit=0.2,
        connection=KeycloakConnection(
            url=address, realm="r", client_id="c", client_secret=Reference(folder, "file:secret")
        ),
    )  # fmt: skip
    found: dict[str, float] = {}
    async with (
        open_channel(LocalEndpoints(run).databroker(Plane.DIRECTORY), Plane.DATABROKER) as channel,
        http_client() as http,
    ):
        client, clock = RecordClient(channel), SystemClock()
        source = KeycloakSource(settings, settings.connection, http, clock)  # type: ignore[arg-type]  # it is one
        for name in ("first", "unchanged", "changed"):
            if name == "changed":
                await http.get(f"{address}/move?count={options.people // 100}")
            began = time.monotonic()
            progress = Progress()
            async with hold_lease(client, "directory/bench", "bench", 30) as lease:
                outcome = await synchronise(settings, source, client, clock, progress, lease.fence)
            found[f"{name}_seconds"] = round(time.monotonic() - began, 2)
            found[f"{name}_written"] = outcome.written
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            found["peak_mb" if name == "first" else f"peak_mb_{name}"] = round(peak, 1)
            print(f"{name:10} {found[f'{name}_seconds']:7.2f} s  {outcome.written:7} records  {peak:6.0f} MB at most")
    return found


async def serve(port: int, directory: Directory) -> None:
    await h2corn.Server(directory, h2corn.Config(bind=(f"127.0.0.1:{port}",), access_log=False, lifespan="off")).serve()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=100_000)
    parser.add_argument("--groups", type=int, default=10_000)
    parser.add_argument("--each", type=int, default=10, help="groups of each person")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(serve(options.serve, Directory(options.people, options.groups, options.each)))
        return
    with short_folder() as folder, processes(options) as (run, address):
        wait_for(lambda: httpx.get(f"{address}/x", trust_env=False).status_code == 200, 20, what="the directory")
        found = asyncio.run(measure(run, address, folder, options))
    found["within_limits"] = float(found["first_seconds"] <= FIRST_LIMIT_SECONDS and found["peak_mb"] <= PEAK_LIMIT_MB)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
