"""`make run` as a person sees it: ready line, Ctrl-C, a second start, and an unclean end."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.support.deployment import Running, short_folder, start, wait_for

pytestmark = pytest.mark.e2e


@pytest.fixture
def data() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def start_demo(data: Path) -> Running:
    return start(["demo", "--port", "0"], data)


def test_the_ready_line_names_addresses_people_and_the_authority(data: Path):
    running = start_demo(data)
    try:
        assert set(running.ready["urls"]) == {"verify", "admin", "public", "authenticate"}
        assert {user["email"] for user in running.ready["users"]} == {
            "alice@example.com",
            "bob@example.com",
            "carol@partner.example",
        }
        assert "BEGIN CERTIFICATE" in Path(running.ready["ca_file"]).read_text()
        assert (data.stat().st_mode & 0o077) == 0
    finally:
        assert running.stop() == 0


def test_ctrl_c_ends_every_child(data: Path):
    running = start_demo(data)
    children = running.members()
    assert len(children) >= 8
    assert running.stop(signal.SIGINT) == 0
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []


def test_a_second_start_takes_under_five_seconds_and_says_who_holds_the_folder(data: Path):
    first = start_demo(data)
    try:
        with pytest.raises(RuntimeError, match="exit status 1"):
            start_demo(data)
        assert str(first.process.pid) in (data / "console.log").read_text()
    finally:
        first.stop()
    began = time.monotonic()
    second = start_demo(data)
    seconds = time.monotonic() - began
    second.stop()
    # The promise is five seconds on a laptop; a shared machine in a test run is allowed twice that.
    assert seconds < 10, f"the second start took {seconds:.1f} s"


def test_killing_the_parent_leaves_no_orphan_and_the_next_start_mends_it(data: Path):
    running = start_demo(data)
    children = running.members()
    os.kill(running.process.pid, signal.SIGKILL)
    running.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert [child.name() for child in alive] == []
    again = start_demo(data)
    assert again.stop() == 0


def test_a_killed_plane_is_started_again(data: Path):
    running = start_demo(data)
    try:
        for name in ("databroker", "authorize", "authenticate", "proxy", "valkey"):
            victim = running.member(name)
            victim.kill()

            def replaced(name: str = name, victim: psutil.Process = victim) -> bool:
                try:
                    return running.member(name).pid != victim.pid
                except LookupError:
                    return False

            wait_for(replaced, 20, what=f"a new {name}")
        status = wait_for(lambda: _ready(running), 30, what="a healthy deployment")
        assert status["databroker"]["store_healthy"]
    finally:
        running.stop()


def _ready(running: Running) -> dict[str, dict[str, object]] | None:
    result = running.command("status", "--json")
    return json.loads(result.stdout) if result.returncode == 0 else None
