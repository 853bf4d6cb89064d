"""A changed file is applied; a file that cannot be used is reported and the last good one stays."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from doorward.config import load as loading
from doorward.config import reload
from doorward.config.apart import ConfigurationReader, ReaderEndedError
from doorward.config.folders import FolderWatch
from doorward.config.load import load_settings
from doorward.config.reload import watch_settings
from doorward.config.settings import Loaded, Settings
from doorward.errors import ConfigurationError

TEXT = """\
version: 1
authenticate_url: https://sign-in.example.com
routes:
  - {{name: app, from: "https://app.example.com", to: "http://127.0.0.1:{port}", policy: [{{allow: {{or: [accept: true]}}}}]}}
"""


@asynccontextmanager
async def watched(
    path: Path, *, fail_first: bool = False
) -> AsyncIterator[tuple[asyncio.Queue[Settings], asyncio.Queue[ConfigurationError], asyncio.Event]]:
    changes: asyncio.Queue[Settings] = asyncio.Queue()
    rejections: asyncio.Queue[ConfigurationError] = asyncio.Queue()
    failures = [RuntimeError("planted")] if fail_first else []
    failed = asyncio.Event()

    async def on_change(settings: Settings) -> None:
        if failures:
            failed.set()
            raise failures.pop()
        changes.put_nowait(settings)

    async def on_reject(error: ConfigurationError) -> None:
        rejections.put_nowait(error)

    task = asyncio.create_task(watch_settings(ConfigurationReader(path), load_settings(path), on_change, on_reject))
    try:
        yield changes, rejections, failed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def replace(path: Path, text: str) -> None:
    scratch = path.with_suffix(".new")
    scratch.write_text(text)
    scratch.replace(path)


async def test_a_replaced_file_is_applied(tmp_path: Path):
    path = tmp_path / "doorward.yaml"
    path.write_text(TEXT.format(port=1))
    async with watched(path) as (changes, _, _):
        replace(path, TEXT.format(port=2))
        settings = await asyncio.wait_for(changes.get(), 10)
        assert settings.routes[0].route.upstreams[0].port == 2


async def test_a_bad_file_is_rejected_and_its_mend_is_applied(tmp_path: Path):
    path = tmp_path / "doorward.yaml"
    path.write_text(TEXT.format(port=1))
    async with watched(path) as (changes, rejections, _):
        replace(path, "version: 7\n")
        assert (await asyncio.wait_for(rejections.get(), 10)).problems
        assert changes.empty()
        replace(path, TEXT.format(port=3))
        assert (await asyncio.wait_for(changes.get(), 10)).routes[0].route.upstreams[0].port == 3


async def test_a_change_whose_reader_ended_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nobody writes the file a second time only because our reader was killed."""
    path = tmp_path / "doorward.yaml"
    path.write_text(TEXT.format(port=1))
    load = ConfigurationReader.load
    ends = ["killed", "killed again"]

    async def load_later(self: ConfigurationReader) -> Loaded:
        if ends:
            raise ReaderEndedError([ends.pop(0)])
        return await load(self)

    monkeypatch.setattr(ConfigurationReader, "load", load_later)
    monkeypatch.setattr(reload, "_POLL_SECONDS", 0.05)
    async with watched(path) as (changes, rejections, _):
        replace(path, TEXT.format(port=2))
        assert (await asyncio.wait_for(changes.get(), 10)).routes[0].route.upstreams[0].port == 2
        assert rejections.get_nowait().problems == ["killed"]


async def test_a_failure_to_apply_does_not_end_the_watch(tmp_path: Path):
    path = tmp_path / "doorward.yaml"
    path.write_text(TEXT.format(port=1))
    async with watched(path, fail_first=True) as (changes, _, failed):
        replace(path, TEXT.format(port=2))
        await asyncio.wait_for(failed.wait(), 10)
        replace(path, TEXT.format(port=3))
        assert (await asyncio.wait_for(changes.get(), 10)).routes[0].route.upstreams[0].port == 3


async def test_a_file_that_changes_while_it_is_read_is_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The hash was taken after the text: it is the new file's, and the routes are the old one's."""
    head, _, routes = TEXT.partition("routes:\n")
    (tmp_path / "doorward.yaml").write_text(head + "routes: []\n")
    (tmp_path / "routes.d").mkdir()
    path = tmp_path / "routes.d" / "app.yaml"
    path.write_text("routes:\n" + routes.format(port=1))
    read = loading._text_of

    def read_and_change(file: Path) -> Any:
        found = read(file)
        if file == path:
            path.write_text("routes:\n" + routes.format(port=2))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(loading, "_text_of", read_and_change)
        current = load_settings(tmp_path)
    assert current.routes[0].route.upstreams[0].port == 1
    changes: asyncio.Queue[Settings] = asyncio.Queue()
    task = asyncio.create_task(watch_settings(ConfigurationReader(tmp_path), current, changes.put))
    try:
        assert (await asyncio.wait_for(changes.get(), 10)).routes[0].route.upstreams[0].port == 2
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_system_that_tells_of_no_changes_is_asked_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Out of watches, perhaps: neither may a change be missed, nor the files be read all the time."""
    looks = 0

    def no_more_watches(*_: object) -> FolderWatch:
        nonlocal looks
        looks += 1
        raise OSError("no more watches")

    monkeypatch.setattr(reload, "FolderWatch", no_more_watches)
    monkeypatch.setattr(reload, "_POLL_SECONDS", 0.2)
    path = tmp_path / "doorward.yaml"
    path.write_text(TEXT.format(port=1))
    async with watched(path) as (changes, _, _):
        await asyncio.sleep(0.5)
        assert 1 <= looks <= 4
        replace(path, TEXT.format(port=2))
        assert (await asyncio.wait_for(changes.get(), 10)).routes[0].route.upstreams[0].port == 2
