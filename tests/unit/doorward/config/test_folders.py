"""What happens in a watched folder is heard of, and what others write beside the configuration is not."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from asyncinotify import Inotify

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
        append(folder / "doorward.yaml")
        async with asyncio.timeout(10):
            heard = await watch._next()
    assert heard.name == Path("doorward.yaml")


async def test_who_writes_all_the_time_is_not_waited_for(folder: Path):
    async with FolderWatch([folder], ["doorward.yaml"]) as watch:
        writing = asyncio.create_task(keeps_writing(folder / "doorward.yaml"))
        try:
            async with asyncio.timeout(10):
                await watch.changed()
        finally:
            writing.cancel()


async def keeps_writing(path: Path) -> None:
    while True:
        append(path)
        await asyncio.sleep(0)


async def test_nobody_waits_while_the_kernel_takes_a_watch_away(folder: Path, monkeypatch: pytest.MonkeyPatch):
    closed_by = []
    close = Inotify.close

    def noted(inotify: Inotify) -> None:
        closed_by.append(threading.get_ident())
        close(inotify)

    monkeypatch.setattr(Inotify, "close", noted)
    async with FolderWatch([folder], []):
        pass
    assert closed_by
    assert threading.get_ident() not in closed_by


def test_a_folder_that_is_not_there_is_not_watched_silently(folder: Path):
    with pytest.raises(FileNotFoundError):
        FolderWatch([folder, folder / "none"], [])
