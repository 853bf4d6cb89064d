"""A directory of 100,000 people and 10,000 groups: read over HTTP, written through a real databroker into a real store.

    PYTHONPATH=. python bench/directory.py [--people N] [--groups N] [--each N] [--scim]

This process is the directory worker; databroker, store and the directory's interface are processes of their own. The last line is
JSON; `first_seconds` and `peak_mb` are what the worker took for the first reading.

With `--scim` a client pushes the same people and groups to a directory worker of its own process, each by a POST, as identity
providers do; then single members of one large group come and go, and another worker takes over.
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
SCIM_CONFIG = """\
scim: {{listen: "127.0.0.1:{port}"}}
directories: [{{id: pushed, type: scim, identity_provider: main, join: sub, tokens: ["file:scim-token"]}}]
identity_providers: [{{id: main, issuer: "https://idp.example.com", client_id: c, client_secret: "file:scim-token"}}]
"""
SCIM_TOKEN = "a-token-that-only-this-machine-knows"
SCIM_SCHEMA = "urn:ietf:params:scim:schemas:core:2.0"
SCIM_PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
CONNECTIONS, LARGE_GROUP, SINGLE_CHANGES = 8, 10_000, 50
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
def processes(options: argparse.Namespace, scim_port: int) -> Iterator[tuple[Path, str]]:
    """Store, databroker and directory; the run folder, and the directory's address."""
    with short_folder() as folder, redis_server("valkey") as store:
        scim = SCIM_CONFIG.format(port=scim_port) if options.scim else ""
        (folder / "doorward.yaml").write_text(CONFIG.format(redis=store.url) + scim)
        (folder / "scim-token").write_text(SCIM_TOKEN)
        run = folder / "run"
        for private in (run, folder / "data"):
            private.mkdir(mode=0o700)
        create_missing_keys(folder / "data" / "keys")
        port = free_port()
        directory = [
            sys.executable, __file__, "--serve", str(port), "--people", str(options.people), "--groups", str(options.groups),
            "--each", str(options.each),
        ]  # fmt: skip
        children = [served("databroker", folder)]
        if not options.scim:
            children.append(subprocess.Popen(directory))
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


def served(what: str, folder: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "doorward.cli.app", "serve", what, "--config", str(folder / "doorward.yaml"),
        "--data", str(folder / "data"), "--run-dir", str(folder / "run"),
    ]  # fmt: skip
    with (folder / f"{what}.log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def peak_mb(process: subprocess.Popen[bytes]) -> float:
    """The most memory that a process has had."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise LookupError("the kernel does not say")


async def answers(client: httpx.AsyncClient) -> None:
    """Wait until the listener serves: it reads the whole directory first."""
    while True:
        with contextlib.suppress(httpx.TransportError):
            if (await client.get("/Users", params={"count": "1"})).status_code == 200:
                return
        await asyncio.sleep(0.02)


async def posted(client: httpx.AsyncClient, path: str, bodies: list[dict[str, object]]) -> list[str]:
    """Resource ids of what was pushed over several connections, in order."""
    ids, waiting = [""] * len(bodies), iter(range(len(bodies)))

    async def push() -> None:
        for number in waiting:
            answer = await client.post(path, json=bodies[number])
            while answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                # As identity providers do: a worker that has lost its lease for a moment says when to come again.
                await asyncio.sleep(float(answer.headers["retry-after"]))
                answer = await client.post(path, json=bodies[number])
            answer.raise_for_status()
            ids[number] = answer.json()["id"]

    await asyncio.gather(*(push() for _ in range(CONNECTIONS)))
    return ids


async def push_everything(
    client: httpx.AsyncClient, options: argparse.Namespace
) -> tuple[dict[str, float], str, list[str]]:
    """What it took, the large group, and who is in none but may come into it."""
    found: dict[str, float] = {}
    began = time.monotonic()
    users: list[dict[str, object]] = [
        {"schemas": [f"{SCIM_SCHEMA}:User"], "userName": f"u{n}", "externalId": f"id-{n}", "displayName": f"Person {n}",
         "emails": [{"value": f"person{n}@example.com", "primary": True}]}
        for n in range(options.people)
    ]  # fmt: skip
    people = await posted(client, "/Users", users)
    found["users_ms_each"] = round((time.monotonic() - began) * 1e3 / options.people, 2)
    print(f"{options.people} people: {found['users_ms_each']} ms each", flush=True)
    began = time.monotonic()
    per_group = options.people * options.each // options.groups
    groups: list[dict[str, object]] = [
        {"schemas": [f"{SCIM_SCHEMA}:Group"], "displayName": f"g{n}",
         "members": [{"value": people[(n * per_group + i) % options.people]} for i in range(per_group)]}
        for n in range(options.groups)
    ]  # fmt: skip
    await posted(client, "/Groups", groups)
    found["groups_ms_each"] = round((time.monotonic() - began) * 1e3 / options.groups, 2)
    print(f"{options.groups} groups of {per_group}: {found['groups_ms_each']} ms each", flush=True)
    large = min(LARGE_GROUP, options.people - SINGLE_CHANGES)
    members = [{"value": person} for person in people[:large]]
    body = {"schemas": [f"{SCIM_SCHEMA}:Group"], "displayName": "large", "members": members}
    began = time.monotonic()
    group = (await posted(client, "/Groups", [body]))[0]
    found["large_group_seconds"] = round(time.monotonic() - began, 2)
    return found, group, people[large : large + SINGLE_CHANGES]


async def measure_scim(folder: Path, port: int, options: argparse.Namespace) -> dict[str, float]:
    worker = served("directory", folder)
    headers = {"authorization": f"Bearer {SCIM_TOKEN}", "content-type": "application/scim+json"}
    base = f"http://127.0.0.1:{port}/pushed/v2"
    try:
        async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, timeout=120) as client:
            await asyncio.wait_for(answers(client), 60)
            found, group, outside = await push_everything(client, options)
            times = []
            for person in outside:
                for change in (
                    {"op": "add", "path": "members", "value": [{"value": person}]},
                    {"op": "remove", "path": f'members[value eq "{person}"]'},
                ):
                    began = time.monotonic()
                    body = {"schemas": [SCIM_PATCH], "Operations": [change]}
                    (await client.patch(f"/Groups/{group}", json=body)).raise_for_status()
                    times.append((time.monotonic() - began) * 1e3)
            found["member_p50_ms"] = round(sorted(times)[len(times) // 2], 1)
            found["member_max_ms"] = round(max(times), 1)
            found["peak_mb"] = round(peak_mb(worker), 1)
            worker.terminate()
            worker.wait()
            began = time.monotonic()
            worker = served("directory", folder)
            await asyncio.wait_for(answers(client), 600)
            found["taken_over_seconds"] = round(time.monotonic() - began, 2)
            found["peak_mb_taken_over"] = round(peak_mb(worker), 1)
    except httpx.HTTPStatusError:
        print("".join((folder / "directory.log").read_text().splitlines(keepends=True)[-5:]), file=sys.stderr)
        raise
    finally:
        worker.terminate()
        worker.wait()
    return found


async def serve(port: int, directory: Directory) -> None:
    await h2corn.Server(directory, h2corn.Config(bind=(f"127.0.0.1:{port}",), access_log=False, lifespan="off")).serve()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=100_000)
    parser.add_argument("--groups", type=int, default=10_000)
    parser.add_argument("--each", type=int, default=10, help="groups of each person")
    parser.add_argument("--scim", action="store_true", help="push them by SCIM instead")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(serve(options.serve, Directory(options.people, options.groups, options.each)))
        return
    port = free_port()
    with short_folder() as folder, processes(options, port) as (run, address):
        if options.scim:
            print(json.dumps(asyncio.run(measure_scim(run.parent, port, options))))
            return
        wait_for(lambda: httpx.get(f"{address}/x", trust_env=False).status_code == 200, 20, what="the directory")
        found = asyncio.run(measure(run, address, folder, options))
    found["within_limits"] = float(found["first_seconds"] <= FIRST_LIMIT_SECONDS and found["peak_mb"] <= PEAK_LIMIT_MB)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
