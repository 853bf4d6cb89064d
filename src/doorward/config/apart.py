"""Reads a configuration in a process of its own, so that reading ten thousand routes holds nobody up.

    we ──► python -m doorward.config.apart FILE …        reads, checks, and ends
    we ◄── what became of it, then the routes some at a time

Whatever is sent is taken apart in small pieces, with a turn of the event loop between any two. The child runs our own code on the
operator's file with our own rights; what it sends is believed as much as what we read ourselves.
"""

import asyncio
import contextlib
import dataclasses
import pickle
import sys
from pathlib import Path
from typing import Any

from doorward.config.load import Loaded, load
from doorward.config.references import SecretReader, no_secret, read_secret
from doorward.config.settings import RoutePolicy, Settings
from doorward.errors import ConfigurationError

_SLICE = 10
"""Routes in one piece: well under a millisecond to take apart."""
_LENGTH_BYTES = 4
_PIECE_LIMIT = 256 * 1024 * 1024
_SECONDS = 120.0


async def load_settings_apart(
    path: Path, *, secrets: SecretReader = read_secret, store_secrets: SecretReader = no_secret
) -> Settings:
    """As ``load.load_settings``, read in a process of its own.

    Raises:
        ConfigurationError: the file cannot be used; carries every problem.
    """
    loaded = await load_apart(path, secrets=secrets, store_secrets=store_secrets)
    if loaded.settings is None:
        raise ConfigurationError([problem.render() for problem in loaded.problems if problem.severity == "error"])
    return loaded.settings


async def load_apart(
    path: Path, *, secrets: SecretReader = read_secret, store_secrets: SecretReader = no_secret
) -> Loaded:
    """As ``load.load``, read in a process of its own.

    Raises:
        ConfigurationError: it cannot be read, is no YAML at all, or the reader ended without an answer.
    """
    arguments = [str(path), _word(secrets), _word(store_secrets)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "doorward.config.apart", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        limit=_PIECE_LIMIT,
    )
    try:
        if process.stdout is None:
            raise EOFError
        async with asyncio.timeout(_SECONDS):
            return await _receive(process.stdout)
    except (asyncio.IncompleteReadError, TimeoutError, pickle.UnpicklingError, EOFError) as error:
        raise ConfigurationError(
            [f"{path}: error: its reader ended without an answer ({type(error).__name__})"]
        ) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _receive(stream: asyncio.StreamReader) -> Loaded:
    first = await _piece(stream)
    if isinstance(first, list):
        raise ConfigurationError(first)
    loaded: Loaded = first
    if loaded.settings is None:
        return loaded
    routes: list[RoutePolicy] = []
    while piece := await _piece(stream):
        routes += piece
        await asyncio.sleep(0)
    return dataclasses.replace(loaded, settings=dataclasses.replace(loaded.settings, routes=tuple(routes)))


async def _piece(stream: asyncio.StreamReader) -> Any:
    length = int.from_bytes(await stream.readexactly(_LENGTH_BYTES), "big")
    return pickle.loads(await stream.readexactly(length))  # noqa: S301  # our own child wrote it


def _word(reader: SecretReader) -> str:
    return "secrets" if reader is read_secret else "none"


def main() -> None:
    """The child: read, send, end."""
    path, readers = Path(sys.argv[1]), {"secrets": read_secret, "none": no_secret}
    try:
        loaded = load(path, secrets=readers[sys.argv[2]], store_secrets=readers[sys.argv[3]])
    except ConfigurationError as error:
        _send(error.problems)
        return
    settings = loaded.settings
    if settings is None:
        _send(loaded)
        return
    _send(dataclasses.replace(loaded, settings=dataclasses.replace(settings, routes=())))
    for start in range(0, len(settings.routes), _SLICE):
        _send(settings.routes[start : start + _SLICE])
    _send(())


def _send(piece: object) -> None:
    data = pickle.dumps(piece, protocol=pickle.HIGHEST_PROTOCOL)
    sys.stdout.buffer.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)


if __name__ == "__main__":
    main()
