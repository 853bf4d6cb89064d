"""What has not changed is not read again, and what is remembered never differs from what a first reading finds."""

import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorward.config import apart
from doorward.config import load as loading
from doorward.config.apart import ConfigurationReader
from doorward.config.load import load, load_settings
from doorward.config.references import no_secret
from doorward.config.remembered import Remembered
from doorward.config.settings import Loaded
from doorward.errors import ConfigurationError
from doorward.priority import Priority

HEAD = """\
version: 1
authenticate_url: https://sign-in.example.com
identity_providers:
  - {id: corp, issuer: "https://idp.example.com", client_id: c, client_secret: "env:X", email_domains: [example.com]}
"""
ROUTE = '- {{name: {0}, from: "https://{0}.example.com", to: "{1}", policy: {2}}}\n'


def main(extra: str) -> str:
    return HEAD + extra + ("" if "routes:" in extra else "routes: []\n")


MAIN = main("")
OPEN = "[{allow: {or: [accept: true]}}]"


def route(name: str, to: str = "http://127.0.0.1:1", policy: str = OPEN) -> str:
    return ROUTE.format(name, to, policy)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "doorward.yaml").write_text(MAIN)
    (tmp_path / "routes.d").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "routes.d" / f"{name}.yaml").write_text(route(f"{name}1") + route(f"{name}2"))
    return tmp_path


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the files that were taken apart."""
    names: list[str] = []
    read = loading.read_yaml

    def counted(text: str, file: str) -> object:
        names.append(Path(file).name)
        return read(text, file)

    monkeypatch.setattr(loading, "read_yaml", counted)
    return names


def again(folder: Path, remembered: Remembered) -> Loaded:
    return load(folder, secrets=no_secret, remembered=remembered)


def objects(loaded: Loaded) -> dict[str, int]:
    assert loaded.settings is not None
    return {item.route.name: id(item) for item in loaded.settings.routes}


def test_only_the_file_that_changed_is_read(folder: Path, parsed: list[str]):
    remembered = Remembered()
    first = again(folder, remembered)
    assert sorted(parsed) == ["a.yaml", "b.yaml", "c.yaml", "doorward.yaml"]
    parsed.clear()
    assert again(folder, remembered).settings is not None
    assert parsed == []
    (folder / "routes.d" / "b.yaml").write_text(route("b1") + route("b2", "http://127.0.0.1:2"))
    second = again(folder, remembered)
    assert parsed == ["b.yaml"]
    before, after = objects(first), objects(second)
    assert {name for name in after if after[name] != before[name]} == {"b1", "b2"}
    assert first.settings is not None
    assert second.settings is not None
    assert (
        second.settings.generation == load(folder, secrets=no_secret).settings.generation != first.settings.generation
    )  # type: ignore[union-attr]


def test_a_file_that_comes_back_as_it_was_and_one_that_goes_are_noticed(folder: Path, parsed: list[str]):
    remembered = Remembered()
    again(folder, remembered)
    path = folder / "routes.d" / "b.yaml"
    text = path.read_text()
    path.unlink()
    assert set(objects(again(folder, remembered))) == {"a1", "a2", "c1", "c2"}
    path.write_text(text)
    parsed.clear()
    assert set(objects(again(folder, remembered))) == {"a1", "a2", "b1", "b2", "c1", "c2"}
    assert parsed == ["b.yaml"]


@pytest.mark.parametrize(
    "extra", ["sets: {x: [a]}\n", "policies: {staff: [{allow: {or: [accept: true]}}]}\n", "session: {lifetime: 1h}\n"]
)
def test_what_the_main_file_says_to_all_routes_is_part_of_each(folder: Path, parsed: list[str], extra: str):
    remembered = Remembered()
    again(folder, remembered)
    parsed.clear()
    (folder / "doorward.yaml").write_text(main(extra))
    again(folder, remembered)
    assert ("a.yaml" in parsed) is not extra.startswith("session")


def test_a_named_policy_that_is_closed_closes_every_route_that_names_it(folder: Path):
    remembered = Remembered()
    (folder / "routes.d" / "a.yaml").write_text(route("a1", policy="door"))
    policies = "policies: {{door: [{{allow: {{or: [{0}]}}}}]}}\n"
    (folder / "doorward.yaml").write_text(main(policies.format("accept: true")))
    first = again(folder, remembered)
    (folder / "doorward.yaml").write_text(main(policies.format("reject: true")))
    second = again(folder, remembered)
    assert first.settings is not None
    assert second.settings is not None
    assert first.settings.routes[0].policy != second.settings.routes[0].policy
    assert second == load(folder, secrets=no_secret)


def test_a_certificate_that_a_route_names_is_read_again_when_it_has_changed(folder: Path):
    remembered = Remembered()
    pem = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"
    text = route("a1", "https://127.0.0.1:1").replace("policy:", "tls_ca_file: ca.pem, policy:")
    (folder / "routes.d" / "a.yaml").write_text(text)
    assert any("cannot read `ca.pem`" in problem.render() for problem in again(folder, remembered).problems)
    for content in ("AAAA", "BBBB"):
        (folder / "ca.pem").write_text(pem.format(content))
        loaded = again(folder, remembered)
        assert loaded.settings is not None
        assert content in str(loaded.settings.routes[0].route.tls_ca_pem)


def test_what_is_wrong_is_said_each_time(folder: Path):
    remembered = Remembered()
    (folder / "routes.d" / "a.yaml").write_text(route("a1", "nowhere") + route("b1"))
    (folder / "routes.d" / "c.yaml").write_text("{")
    found = [again(folder, remembered).problems for _ in range(2)]
    assert found[0] == found[1] == load(folder, secrets=no_secret).problems
    assert len(found[0]) >= 4


CONTENTS = st.sampled_from(
    [
        "",
        "{",
        "routes: 7\n",
        route("x"),
        route("y"),
        route("x") + route("y"),
        route("x", policy="door"),
        route("y", "nowhere"),
        route("z").replace("policy:", "prefix: /z, policy:") + route("q").replace("q.example", "z.example"),
    ]
)
MAINS = st.sampled_from(
    [
        "",
        "policies: {door: [{allow: {or: [accept: true]}}]}\n",
        "policies: {door: [{allow: {or: [domain: other.example]}}]}\n",
        "routes:\n  " + route("x"),
        "listen: nowhere\n",
        "version: 1\n",
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "main"]), CONTENTS, MAINS), min_size=1, max_size=8))
def test_remembering_changes_nothing_of_what_is_found(edits: list[tuple[str, str, str]]):
    """Whatever is edited in whatever order: the same settings, problems and generation as of somebody who reads for the first time."""
    with tempfile.TemporaryDirectory() as name:
        folder, remembered = Path(name), Remembered()
        (folder / "routes.d").mkdir()
        (folder / "doorward.yaml").write_text(MAIN)
        for file, content, extra in edits:
            if file == "main":
                (folder / "doorward.yaml").write_text(main(extra))
            else:
                (folder / "routes.d" / f"{file}.yaml").write_text(content)
            assert outcome(folder, remembered) == outcome(folder, None)


_PLANE = """
import asyncio, sys
from pathlib import Path
from doorward.config.apart import ConfigurationReader

async def main():
    reader = ConfigurationReader(Path(sys.argv[1]))
    reading = asyncio.create_task(reader.load())
    while reader._process is None:
        await asyncio.sleep(0)
    print(reader._process.pid, flush=True)
    await reading

asyncio.run(main())
"""


def outcome(folder: Path, remembered: Remembered | None) -> object:
    try:
        found = load(folder, secrets=no_secret, remembered=remembered)
    except ConfigurationError as error:
        return error.problems
    return found.settings and (
        found.settings.generation,
        found.settings.routes,
        found.settings.broken_hosts,
    ), found.problems


async def test_a_reader_apart_sends_what_has_changed_and_keeps_the_rest(folder: Path):
    reader = ConfigurationReader(folder, secrets=no_secret)
    try:
        first = objects(await reader.load())
        (folder / "routes.d" / "b.yaml").write_text(route("b2") + route("b3"))
        loaded = await reader.load()
        assert loaded == load(folder, secrets=no_secret)
        second = objects(loaded)
        assert list(second) == ["a1", "a2", "b2", "b3", "c1", "c2"]
        assert {name for name in second if second[name] == first.get(name)} == {"a1", "a2", "c1", "c2"}
        (folder / "doorward.yaml").write_text("{")
        with pytest.raises(ConfigurationError):
            await reader.load()
        (folder / "doorward.yaml").write_text(MAIN)
        assert list(objects(await reader.load())) == list(second)
    finally:
        await reader.close()


async def test_a_plane_that_has_no_use_for_routes_is_not_sent_any(folder: Path):
    reader = ConfigurationReader(folder, secrets=no_secret, in_brief=True)
    try:
        whole = load_settings(folder, secrets=no_secret)
        first = await reader.settings()
        assert first == whole.in_brief
        assert (first.generation, first.routes) == (whole.generation, ())
        assert first.routes_in_brief == whole.routes_in_brief
        assert whole.routes_in_brief.authorities == {item.route.authority for item in whole.routes}
        (folder / "routes.d" / "b.yaml").write_text(route("b2") + route("b3"))
        settings = (await reader.load()).settings
        assert settings == load_settings(folder, secrets=no_secret).in_brief
        assert settings.generation != first.generation
        (folder / "routes.d" / "b.yaml").write_text("no list of routes")
        assert (await reader.load()).settings is None, "what is no configuration for others is none here"
    finally:
        await reader.close()


async def test_a_reader_beside_a_plane_that_serves_takes_what_cores_others_leave(folder: Path):
    reader = ConfigurationReader(folder, secrets=no_secret)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        await reader.settings()  # for a plane that waits for it
        process = reader._process
        assert process is not None
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == own
        await reader.load()
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(own + 5, 19)
        # Niceness counts within a session only, and the authorizer is in another one than all readers but its own.
        assert os.getsid(process.pid) == process.pid
    finally:
        await reader.close()


class ToldPriority(Priority):
    """Remembers what it was told, and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[int] = []

    def lower(self) -> None:
        pass

    def become(self, nice: int, done: threading.Event | None = None) -> None:
        self.told.append(nice)


def test_a_reader_gives_way_until_a_change_has_waited_long_enough():
    for patience_seconds, wanted in ((60.0, [10]), (0.0, [10, 5])):
        priority = ToldPriority()
        with apart._giving_way(priority, patience_seconds):
            deadline = time.monotonic() + 10
            while priority.told != wanted:
                assert time.monotonic() < deadline
                time.sleep(0.001)


async def test_a_reader_that_dies_is_started_again(folder: Path):
    reader = ConfigurationReader(folder, secrets=no_secret)
    try:
        before = await reader.load()
        process = reader._process
        assert process is not None
        os.kill(process.pid, 9)
        await process.wait()
        assert await reader.load() == before
    finally:
        await reader.close()


async def test_a_reader_ends_with_whoever_asks_it(folder: Path):
    reader = ConfigurationReader(folder, secrets=no_secret)
    await reader.load()
    process = reader._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    assert await process.wait() == 0


def test_a_reader_in_the_middle_of_its_work_ends_with_a_plane_that_is_killed(folder: Path):
    """It has a session of its own, so nothing that is sent to the plane's group reaches it."""
    (folder / "doorward.yaml").unlink()
    os.mkfifo(folder / "doorward.yaml")
    with subprocess.Popen([sys.executable, "-c", _PLANE, str(folder)], stdout=subprocess.PIPE) as plane:
        assert plane.stdout is not None
        reader = os.pidfd_open(int(plane.stdout.readline()))
        # It is at work once somebody waits for the other end of the pipe.
        with (folder / "doorward.yaml").open("wb"):
            plane.kill()
            assert select.select([reader], [], [], 10)[0]
        os.close(reader)
