"""`doorward databroker …` on a databroker of its own process over a real store, with more records than one page holds."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
import yaml
from click.testing import Result
from tests.support.deployment import short_folder, wait_for
from tests.support.redis_server import RedisServer, redis_server
from typer.testing import CliRunner

from doorward.cli.app import app
from doorward.config.endpoints import LocalEndpoints, default_run_folder
from doorward.errors import NotFoundError
from doorward.identity.session import Session
from doorward.identity.user import User
from doorward.records.client import RecordClient
from doorward.records.record import Record, Write
from doorward.rpc.client import open_channel
from doorward.rpc.planes import Plane

T = TypeVar("T")
PEOPLE = 1_600
"""Each a user and a session: more keys than six pages of the store hold."""
_FAR = 4_000_000_000


@dataclass
class Deployment:
    """A databroker as `serve` runs it."""

    folder: Path
    store: RedisServer
    process: "subprocess.Popen[bytes] | None" = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder / "log"

    def start(self) -> None:
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "doorward.cli.app", "serve", "databroker", "-c", "doorward.yaml"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--data", "data", "--ready-fd", str(writing)],
                cwd=self.folder, stdout=log, stderr=log, pass_fds=[writing],
            )  # fmt: skip
        os.close(writing)
        with os.fdopen(reading, "rb") as ready:
            assert ready.read(1), self.log.read_text()
        wait_for(lambda: self.run("status").exit_code == 0, what="a heartbeat")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            assert self.process.wait(20) == 0, self.log.read_text()[-2000:]

    def run(self, *arguments: str, of: str = "databroker") -> Result:
        return CliRunner().invoke(app, [of, *arguments, "--data", str(self.folder / "data")])

    def as_plane(self, plane: Plane, body: Callable[[RecordClient], Awaitable[T]]) -> T:
        async def call() -> T:
            place = LocalEndpoints(default_run_folder(self.folder / "data")).databroker(plane)
            async with open_channel(place, Plane.DATABROKER, None) as channel:
                return await body(RecordClient(channel))

        return asyncio.run(call())

    def put(self, records: Sequence[Record]) -> None:
        async def write(client: RecordClient) -> None:
            for start in range(0, len(records), 400):
                await client.put([Write(record=record) for record in records[start : start + 400]])

        self.as_plane(Plane.AUTHENTICATE, write)


def person(number: int) -> list[Record]:
    groups = frozenset({"staff"} if number % 2 else {"guests"}) if number < 4 else None
    user = User(
        id=f"{number:032x}", issuer="https://idp.example", subject=f"s{number}", email=f"p{number}@example.com",
        groups=groups,
    )  # fmt: skip
    session = Session(
        id=f"{number:05}-{'0' * 30}", user_id=user.id, identity_provider_id="idp",
        issued_at=1, authenticated_at=1, expires_at=_FAR,
    )  # fmt: skip
    return [
        Record(type="User", id=user.id, data=user.to_bytes(), indexes={"email": (user.email,)}),
        Record(
            type="Session", id=session.id, data=session.to_bytes(), expires_at=_FAR, indexes={"user_id": (user.id,)}
        ),
    ]


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with redis_server("valkey") as store, short_folder() as folder, ExitStack() as stack:
        document = {
            "version": 1, "authenticate_url": "https://authenticate.example", "databroker": {"redis": store.url},
            "routes": [],
        }  # fmt: skip
        (folder / "doorward.yaml").write_text(yaml.safe_dump(document))
        made = Deployment(folder, store)
        assert made.run("init", of="keys").exit_code == 0
        stack.callback(made.stop)
        made.start()
        made.put([record for number in range(PEOPLE) for record in person(number)])
        yield made


def test_what_is_backed_up_comes_back_where_it_is_missing(deployment: Deployment):
    status = json.loads(deployment.run("status", "--json").stdout)
    assert (status["records"]["Session"], status["records"]["User"], status["damaged"]) == (PEOPLE, PEOPLE, [])
    file = deployment.folder / "backup"
    result = deployment.run("backup", str(file))
    assert (result.exit_code, result.stdout) == (0, f"{2 * PEOPLE} records in {file}\n")
    assert "p1@example.com" not in file.read_text()
    for number in range(0, PEOPLE, 16):
        deployment.store.ask(f"DEL {{dw}}:r:User:{number:032x}")
    result = deployment.run("restore", str(file))
    assert result.exit_code == 0
    assert result.stdout.startswith(
        f"restored {PEOPLE // 16}; kept {2 * PEOPLE - PEOPLE // 16} as the store has them; 0 had"
    )
    exported = [json.loads(line) for line in deployment.run("export").stdout.splitlines()]
    assert len(exported) == 2 * PEOPLE
    assert {line["data"]["email"] for line in exported if line["type"] == "User"} == {
        f"p{number}@example.com" for number in range(PEOPLE)
    }


def test_a_list_of_sessions_has_whole_ids_where_nobody_looks_and_names_what_does_not_open(deployment: Deployment):
    first, second = person(20)[1].id, person(21)[1].id
    deployment.store.ask(f"HSET {{dw}}:r:Session:{second} b spoiled")
    try:
        result = deployment.run("list", of="session")
        assert result.exit_code == 1
        assert first in result.stdout
        assert f"{20:032x}" in result.stdout
        assert "p20@example.com" in result.stdout
        assert second not in result.stdout
        assert f"not listed: `Session` `{second}`: " in result.stderr
        result = deployment.run("export", "Session")
        assert (result.exit_code, len(result.stdout.splitlines())) == (1, PEOPLE - 1)
        status = deployment.run("status", "--json")
        assert status.exit_code == 1
        assert [one["id"] for one in json.loads(status.stdout)["damaged"]] == [second]
    finally:
        assert deployment.run("discard", "--all").stdout == f"discarded `Session` `{second}`\n"
    wait_for(lambda: deployment.run("status").exit_code == 0, what="a store without damage")
    result = deployment.run("discard", "Session", first)
    assert (result.exit_code, "the record opens" in result.stderr) == (1, True)
    assert deployment.run("discard", "Session").exit_code == 2
    deployment.put([person(21)[1]])


def test_a_revoke_that_names_nobody_says_so_and_one_by_address_or_group_ends_their_sessions(deployment: Deployment):
    def revoke(*arguments: str) -> tuple[int, str]:
        result = deployment.run("revoke", *arguments, of="session")
        return result.exit_code, result.stdout + result.stderr + str(result.exception or "")

    for arguments, said in (
        (("--user", "nobody@example.com"), "nobody with the address `nobody@example.com` ever signed in"),
        (("--user", "nobody"), "neither an address nor a user id"),
        (("--user", "f" * 32), f"no user `{'f' * 32}` ever signed in; nothing was ended"),
        (("--group", "nope"), "no group is called `nope`"),
        (("--provider", "nope"), "no live session from the identity provider `nope`"),
        (("nope",), "no live session `nope`; nothing was ended"),
    ):
        status, text = revoke(*arguments)
        assert (status, said in text) == (1, True), (arguments, text)
        assert "ended 0" not in text
    assert revoke("--user", "p3@example.com") == (0, "ended 1 session; applied everywhere\n")
    assert revoke("--user", f"{3:032x}") == (0, "ended 0 sessions; applied everywhere\n")
    assert revoke("--group", "staff") == (0, "ended 1 session; applied everywhere\n")
    revoked = deployment.as_plane(Plane.OPERATOR, lambda client: client.revoke(group="guests"))
    assert (revoked.applied, revoked.revoked) == (True, 2)
    with pytest.raises(NotFoundError):
        deployment.as_plane(Plane.OPERATOR, lambda client: client.revoke(group="nope"))
    left = deployment.run("list", "--user", "p1@example.com", "--json", of="session")
    assert (left.exit_code, left.stdout) == (0, "")
    deployment.put([person(number)[1] for number in range(4)])


def test_a_databroker_that_is_started_again_with_two_keys_finishes_the_rotation(deployment: Deployment):
    assert "sealed 0 anew; 0 do not open" in deployment.run("rekey").stdout
    assert deployment.run("rotate", "records", of="keys").exit_code == 0
    wait_for(lambda: deployment.run("rotate", "records", of="keys").exit_code == 0, what="the databroker's new key")
    deployment.stop()
    deployment.start()
    wait_for(lambda: b"sealed anew" in deployment.log.read_bytes(), what="the end of sealing anew")
    result = deployment.run("rekey")
    assert (result.exit_code, "sealed 0 anew; 0 do not open" in result.stdout) == (0, True)
    assert deployment.run("status").exit_code == 0
