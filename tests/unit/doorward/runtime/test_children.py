"""Children end with us, whatever ends us."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from doorward.errors import UnavailableError
from doorward.runtime.children import spawn, spawn_ready

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
READY = "import os,sys,time; os.write(int(sys.argv[-1]), b'ready\\n'); time.sleep(600)"


async def test_a_child_runs_in_a_session_of_its_own():
    """Ctrl-C must reach the parent alone, which then ends the children in order."""
    child = await spawn("sleeper", SLEEPER)
    try:
        assert os.getsid(child.process.pid) == child.process.pid != os.getsid(0)
    finally:
        assert await child.stop(signal.SIGTERM, 5) == -signal.SIGTERM
    assert not child.running


async def test_a_child_that_ignores_the_signal_is_killed():
    code = "import os,signal,sys,time; signal.signal(15, signal.SIG_IGN); os.write(int(sys.argv[-1]), b'r\\n'); time.sleep(600)"
    child = await spawn_ready("stubborn", [sys.executable, "-c", code], timeout_seconds=10)
    assert await child.stop(signal.SIGTERM, 0.2) == -signal.SIGKILL


async def test_stopping_twice_is_harmless():
    child = await spawn("sleeper", SLEEPER)
    await child.stop(signal.SIGTERM, 5)
    assert await child.stop(signal.SIGTERM, 5) == -signal.SIGTERM


async def test_a_ready_child_is_returned():
    child = await spawn_ready("ready", [sys.executable, "-c", READY], timeout_seconds=10)
    assert child.running
    await child.stop(signal.SIGKILL, 5)


async def test_a_child_that_ends_before_it_is_ready_is_an_error():
    # The status itself is for people to read: asyncio reports 255 when somebody else in the process has reaped the child.
    with pytest.raises(UnavailableError, match=r"short did not start \(exit status (3|255)\)"):
        await spawn_ready("short", [sys.executable, "-c", "raise SystemExit(3)"], timeout_seconds=10)


async def test_a_child_that_is_never_ready_is_stopped():
    with pytest.raises(UnavailableError, match="did not start"):
        await spawn_ready("silent", SLEEPER, timeout_seconds=0.3)


async def test_output_goes_to_the_log_file(tmp_path: Path):
    log = tmp_path / "child.log"
    child = await spawn("speaker", [sys.executable, "-c", "print('said')"], log_file=log)
    await child.wait()
    assert log.read_text() == "said\n"
    assert log.stat().st_mode & 0o077 == 0


def test_killing_the_parent_ends_the_child():
    """An orphan would hold the store's files and the sockets of the next start."""
    parent_code = (
        "import asyncio,sys\n"
        "from doorward.runtime.children import spawn\n"
        "async def main():\n"
        f"    child = await spawn('sleeper', {SLEEPER!r})\n"
        "    print(child.process.pid, flush=True)\n"
        "    await child.wait()\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
        _wait_until_armed(child)
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs([child], timeout=10)
    assert alive == []


def _wait_until_armed(child: psutil.Process) -> None:
    """Return once the wrapper has become the program, which it does after asking for its end."""

    async def look() -> None:
        while "doorward.runtime.child" in child.cmdline():
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(look(), 10))
