"""A changed file becomes the next settings, or a reported rejection; the last good settings stay in force.

The folders of all files read are watched, not the files themselves: editors and volume mounts replace files, and a
watch on the old one would never hear of it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from doorward.config.apart import ConfigurationReader, ReaderEndedError
from doorward.config.folders import FolderWatch
from doorward.config.settings import Loaded, Settings, Source
from doorward.config.sources import ROUTES_FOLDER, main_file, sources_of
from doorward.errors import ConfigurationError

_POLL_SECONDS = 2.0
"""Also look this often: some mounts deliver no events."""

_log = structlog.stdlib.get_logger(__name__)


async def watch_settings(
    reader: ConfigurationReader,
    current: Settings,
    on_change: Callable[[Settings], Awaitable[None]],
    on_reject: Callable[[ConfigurationError], Awaitable[None]] | None = None,
) -> None:
    """Call ``on_change`` with each next settings until cancelled; ``reader`` is closed then.

    A file that cannot be used is logged, handed to ``on_reject`` and otherwise ignored. Reading is done by a process of its
    own, and only when a file has changed. An exception from ``on_change`` is logged; the watch goes on.
    """
    try:
        await _watch(reader, current, on_change, on_reject)
    finally:
        await reader.close()


async def _watch(
    reader: ConfigurationReader,
    current: Settings,
    on_change: Callable[[Settings], Awaitable[None]],
    on_reject: Callable[[ConfigurationError], Awaitable[None]] | None,
) -> None:
    path = reader.path
    sources = current.sources
    generation = (current.generation, current.secrets_digest)
    rejected: tuple[str, ...] = ()
    while True:
        looked = sources_of([name for name, *_ in sources] or [main_file(path)], None)
        if sources and sources == looked:
            one_of_each = {name.rpartition("/")[0]: name for name, *_ in sources}.values()
            await _changed({Path(name).parent for name in one_of_each} | _folders(path), sources)
            continue
        # A file changed while it was read: what was read and the hashes of it may belong to different texts.
        is_torn = any(was != now and not any(was[1:]) for was, now in zip(sources, looked, strict=False))
        settings, is_read = None, True
        try:
            loaded = await reader.load()
        except ReaderEndedError as error:
            # The files are still to be read, though they may never change again; killed for want of memory, for example.
            problems, is_read = tuple(error.problems), False
        except ConfigurationError as error:
            problems = tuple(error.problems)
            sources = looked
        else:
            settings = loaded.settings
            sources = loaded.sources
            problems = _errors(loaded) if settings is None else ()
        if problems and problems != rejected:
            _log.error("the changed configuration is rejected; the last good one stays in force", problems=problems)
            if on_reject is not None:
                await on_reject(ConfigurationError(list(problems)))
        rejected = problems
        if not is_read:
            await asyncio.sleep(_POLL_SECONDS)
            continue
        if settings is not None and (is_torn or (settings.generation, settings.secrets_digest) != generation):
            generation = (settings.generation, settings.secrets_digest)
            try:
                await on_change(settings)
                _log.info("configuration changed", generation=settings.generation)
            except Exception as error:
                # The plane keeps what it had; the watch must outlive the mistake to see its mend.
                _log.error("the changed configuration could not be applied", error=str(error), exc_info=True)


def _folders(path: Path) -> set[Path]:
    """Folders in which files may appear."""
    return {path, path / ROUTES_FOLDER} if path.is_dir() else set()


def _errors(loaded: Loaded) -> tuple[str, ...]:
    return tuple(problem.render() for problem in loaded.problems if problem.severity == "error")


async def _changed(folders: set[Path], sources: tuple[Source, ...]) -> None:
    """Return when something in ``folders`` may have changed since it looked like ``sources``."""
    names = {name.rpartition("/")[2] for name, *_ in sources}
    try:
        async with FolderWatch([folder for folder in folders if folder.is_dir()], names) as watch:
            # Now the folders are watched; what has changed just before would not be heard of.
            if sources_of([name for name, *_ in sources], None) == sources:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_SECONDS):
                        await watch.changed()
    except OSError:
        await asyncio.sleep(_POLL_SECONDS)  # nobody tells us, so we look
