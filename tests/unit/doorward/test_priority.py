"""A process in the background gives way as a session of its own, and never makes somebody else's session nicer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import os, sys
from pathlib import Path
from doorward.priority import Priority

priority = Priority(Path(sys.argv[1]))
before = os.getpriority(os.PRIO_PROCESS, 0)
for _ in range(2):
    priority.lower()
priority.become(7)
print(os.getpriority(os.PRIO_PROCESS, 0) - before)
"""


def run(group: Path, *, own_session: bool) -> int:
    """By how much the process has become nicer."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(group)],
        capture_output=True,
        text=True,
        check=True,
        start_new_session=own_session,
    )
    return int(done.stdout)


def test_process_and_session_become_nicer(tmp_path: Path):
    group = tmp_path / "autogroup"
    assert run(group, own_session=True) == min(5, 19 - os.getpriority(os.PRIO_PROCESS, 0))
    assert group.read_text() == "7"


def test_the_session_of_somebody_else_stays_as_it_is(tmp_path: Path):
    group = tmp_path / "autogroup"
    run(group, own_session=False)
    assert not group.exists()


def test_a_kernel_without_groups_of_sessions_is_no_problem(tmp_path: Path):
    assert run(tmp_path / "no" / "autogroup", own_session=True) >= 0


def test_the_kernel_takes_it():
    group = Path("/proc/self/autogroup")
    if not group.exists():
        pytest.skip("this kernel has no groups of sessions (CONFIG_SCHED_AUTOGROUP)")
    program = f"from doorward.priority import Priority\nPriority().become(7)\nprint(open({str(group)!r}).read())"
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, start_new_session=True
    )
    assert shown.stdout.strip().endswith("nice 7")
