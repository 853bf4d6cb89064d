"""A command that cannot do its work says what is wrong and what to do, and leaves nothing half done."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from doorward.cli.app import main
from doorward.cli.failures import report_failure
from doorward.cli.run import until_signal
from doorward.config.endpoints import LocalEndpoints
from doorward.config.words import parse_duration
from doorward.errors import ConfigurationError, UnavailableError
from doorward.keys.private_file import written_whole
from doorward.rpc.planes import Plane
from doorward.runtime.deployment import Deployment

Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command that has to fail with 1; what it says on standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["doorward", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert "Traceback" not in said.err
        return said.err

    return run


ONLINE = [
    ("status",), ("session", "list"), ("session", "revoke", "--all"), ("databroker", "status"), ("explain", "x"),
    ("databroker", "backup", "b"), ("databroker", "rekey"), ("service-account", "list"), ("grant", "list"), ("records", "list"),
]  # fmt: skip


@pytest.mark.parametrize("command", ONLINE, ids=" ".join)
def test_where_nothing_runs_a_command_says_so_and_where_it_has_looked(
    run: Run, tmp_path: Path, command: tuple[str, ...]
):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("x")
    (tmp_path / "left").mkdir()
    for data in ("nowhere", "file", "file/x"):
        assert f"nothing runs on the data folder `{data}` (start it" in run(*command, "--data", data)
    assert "links go round in circles" in run(*command, "--data", "loop")
    assert "nothing runs on the run folder `nowhere`" in run(*command, "--run-dir", "nowhere")
    # A folder that a deployment has left behind.
    assert "a deployment runs on the run folder `left`" in run(*command, "--run-dir", "left")
    assert not (tmp_path / "b").exists()


def test_a_socket_behind_which_nobody_is(run: Run, tmp_path: Path):
    place = LocalEndpoints(tmp_path).databroker(Plane.OPERATOR)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place))
    said = run("session", "list", "--run-dir", str(tmp_path))
    assert said.startswith("error: UNAVAILABLE")
    assert "does all of it run? (start it" in said


def test_arguments_that_are_no_text_and_names_that_are_too_long(run: Run):
    assert "error: File name too long" in run("check", "x" * 5000)
    assert run("check", "\udcff")


def test_an_argument_that_is_no_text_is_said_to_be_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["doorward", "session", "show", "\udcff"])
    assert report_failure(UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed")) == 1
    assert capsys.readouterr().err == "error: an argument is not UTF-8 text\n"


def test_the_machines_errors_are_said_and_mistakes_of_ours_keep_their_traceback(capsys: pytest.CaptureFixture[str]):
    assert report_failure(PermissionError(13, "Permission denied", "data\x1b[2J")) == 1
    assert capsys.readouterr().err == "data\\x1b[2J: error: Permission denied\n"
    assert report_failure(ConnectionResetError(104, "reset")) is None
    assert report_failure(KeyError("x")) is None
    assert report_failure(UnicodeEncodeError("ascii", "é", 0, 1, "no argument's fault")) is None


def test_who_has_read_enough_gets_no_traceback(tmp_path: Path):
    script = "import sys; from doorward.cli import app; app.app = lambda: [print('x' * 100) for _ in range(100_000)]; app.main()"
    reading, writing = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", script], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    os.read(reading, 10)
    os.close(reading)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (1, b"")


@pytest.mark.parametrize("life", ["99999999999999d", "36601d"])
def test_nothing_lives_for_more_than_a_hundred_years(run: Run, life: str):
    assert "longer than a hundred years" in run("keys", "init", "--planes", "--life", life, "--data", "d")
    assert not Path("d").exists(), "nothing is half done"
    with pytest.raises(ValueError, match="hundred years"):
        parse_duration(life)


def test_what_is_written_takes_the_place_of_a_file_and_of_nothing_else(tmp_path: Path):
    """As root, a backup to `/dev/full` was a regular file there afterwards."""
    file, link, folder, pipe = (tmp_path / name for name in ("file", "link", "folder", "pipe"))
    link.symlink_to(file)
    folder.mkdir()
    os.mkfifo(pipe)
    for taken in (link, folder, pipe):
        with pytest.raises(ConfigurationError, match="not a regular file"), written_whole(taken):
            pass
    assert (link.is_symlink(), folder.is_dir(), pipe.is_fifo()) == (True, True, True)
    with written_whole(file) as writing:
        writing.write("new")
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("new", 0o600)


def test_a_file_that_could_not_be_written_whole_leaves_the_old_one_and_nothing_beside_it(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("old")
    scratch = tmp_path / "file.tmp"
    scratch.write_text("left by a crash")
    scratch.chmod(0o666)
    with pytest.raises(OSError, match="full"), written_whole(file) as writing:
        writing.write("secret")
        writing.flush()
        assert stat.S_IMODE(scratch.stat().st_mode) == 0o600
        raise OSError("full")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "old"
    (tmp_path / "elsewhere").write_text("x")
    scratch.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), written_whole(file):
        pass
    assert (tmp_path / "elsewhere").read_text() == "x"


async def test_a_deployment_that_does_not_start_is_not_told_to_be_started(capsys: pytest.CaptureFixture[str]):
    class Broken:
        def __init__(self) -> None:
            self.processes: dict[str, int] = {}

        async def start(self, progress: Callable[[str], None]) -> None:
            raise UnavailableError("proxy did not start (exit status 1)")

        async def stop(self) -> None:
            pass

    async def announce() -> None:
        raise AssertionError

    assert await until_signal(cast(Deployment, Broken()), announce) == 1
    said = capsys.readouterr().err
    assert "error: proxy did not start (exit status 1)" in said
    assert "start it" not in said
