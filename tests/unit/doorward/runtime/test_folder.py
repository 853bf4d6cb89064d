"""One process holds a folder or a part of it, and nobody else can read it."""

import os
from pathlib import Path

import pytest

from doorward.errors import ConfigurationError
from doorward.runtime.folder import HeldFolder, private_folder


def test_a_second_holder_is_told_who_holds_it(tmp_path: Path):
    with HeldFolder(tmp_path / "data"), pytest.raises(ConfigurationError, match=f"in use by process {os.getpid()}"):
        HeldFolder(tmp_path / "data").__enter__()


def test_the_folder_can_be_held_again_after_an_orderly_end(tmp_path: Path):
    for _ in range(2):
        with HeldFolder(tmp_path):
            assert (tmp_path / "lock").read_text().strip() == str(os.getpid())
    assert (tmp_path / "lock").read_text() == ""


def test_a_folder_is_made_private(tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    assert private_folder(folder).stat().st_mode & 0o777 == 0o700


def test_a_file_or_a_link_in_its_place_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(ConfigurationError):
            private_folder(tmp_path / name)


def test_one_that_is_about_to_end_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After `kill -9` of a deployment its planes drain, and another one may have been started already."""
    ending = HeldFolder(tmp_path, "proxy-0")
    ending.__enter__()
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            ending.__exit__(None, None, None)

    monkeypatch.setattr("doorward.runtime.folder.time.sleep", sleep)
    with HeldFolder(tmp_path, "proxy-0", patience_seconds=1.0):
        assert len(waited) == 3
        with pytest.raises(ConfigurationError, match=f"in use by process {os.getpid()} "):
            HeldFolder(tmp_path, "proxy-0", patience_seconds=1.0).__enter__()
        assert sum(waited[3:]) == pytest.approx(1.0)


def test_parts_of_a_folder_are_held_apart(tmp_path: Path):
    with HeldFolder(tmp_path, "authorize-0", "use --run-dir"), HeldFolder(tmp_path, "authorize-1"):
        message = rf"`authorize-0` is in use by process {os.getpid()} \(stop it, or use --run-dir\)"
        with pytest.raises(ConfigurationError, match=message):
            HeldFolder(tmp_path, "authorize-0", "use --run-dir").__enter__()
