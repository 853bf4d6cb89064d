"""What happens in a watched folder is heard of, and what others write beside the configuration is not."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from doorward.config import folders
from doorward.config.folders import FolderWatch


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("more\n")


HAPPENS: dict[str, Callable[[Path], object]] = {
    "a file is written to": lambda folder: append(folder / "doorward.yaml"),
    "a file is replaced": lambda folder: (folder / "other").replace(folder / "doorward.yaml"),
    "a file appears": lambda folder: (folder / "new.yaml").touch(),
    "a file goes": lambda folder: (folder / "doorward.yaml").unlink(),
    "a volume is mounted anew": lambda folder: (folder / "..data").symlink_to("elsewhere"),
    "the folder goes": lambda folder: folder.rename(folder.with_name("gone")),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "configuration"
    folder.mkdir()
    for name in ("doorward.yaml", "other"):
        append(folder / name)
    return folder


@pytest.mark.parametrize("happening", HAPPENS)
async def test_what_may_be_a_change_is_heard_of(folder: Path, happening: str):
    async with FolderWatch([folder], ["doorward.yaml"]) as watch:
        HAPPENS[happening](folder)  # before anybody listens
        async with asyncio.timeout(10):
            await watch.changed()


async def test_what_is_written_to_another_file_is_not(folder: Path):
    async with FolderWatch([folder], ["doorward.yaml"]) as watch:
        append(folder / "other")
        assert not watch._heard()
        append(folder / "doorward.yaml")
        append(folder / "other")
        assert watch._heard()


async def test_nobody_waits_while_the_kernel_takes_a_watch_away(folder: Path, monkeypatch: pytest.MonkeyPatch):
    closed_by = []

    def close(descriptor: int) -> None:
        closed_by.append(threading.get_ident())
        os.close(descriptor)

    monkeypatch.setattr(folders, "os", SimpleNamespace(**{**vars(os), "close": close}))
    async with FolderWatch([folder], []):
        pass
    assert closed_by
    assert threading.get_ident() not in closed_by


def test_a_folder_that_is_not_there_is_not_watched_silently(folder: Path):
    with pytest.raises(FileNotFoundError):
        FolderWatch([folder, folder / "none"], [])
