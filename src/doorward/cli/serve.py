"""``doorward serve``: one plane, found by its entry point, so that the command line imports no plane."""

import gc
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from doorward.config.endpoints import Address, default_run_folder, parse_address
from doorward.errors import ConfigurationError
from doorward.runtime.folder import HeldFolder, private_folder
from doorward.runtime.service import GRACE_SECONDS, ServeOptions
from doorward.source import suggestion

_PATIENCE_SECONDS = GRACE_SECONDS + 4.0
"""A plane whose parent was killed has been asked to end, and takes its time to: whoever is started at once comes after it."""


def serve_plane(
    plane: str,
    config: Path,
    data: Path,
    run_dir: Path | None,
    ready_fd: int | None,
    worker: int,
    listen: Sequence[str],
    health: str | None,
) -> int:
    """Run ``plane`` until it is asked to end; its exit status, or 2 when there is no such plane here.

    Raises:
        ConfigurationError: ``listen`` or ``health`` is not an address, or another process is this plane in the same run folder: its
            sockets would be taken from it.
    """
    # Our own alone: to ask for everybody's opens a file of every distribution there is.
    declared = importlib.metadata.distribution("doorward").entry_points.select(group="doorward.services")
    services = {entry.name: entry for entry in declared}
    entry = services.get(plane)
    if entry is None:
        hint = suggestion(plane, services) or f"there are {', '.join(sorted(services))}"
        print(f"error: no plane `{plane}` ({hint})", file=sys.stderr)
        return 2
    gc.disable()  # what is loaded stays; looking for garbage among it takes a tenth of a start
    try:
        serve = entry.load()
    except ModuleNotFoundError as error:
        print(f"error: `{error.name}` is missing (pip install 'doorward[{plane}]')", file=sys.stderr)
        return 2
    finally:
        gc.enable()
    options = ServeOptions(
        plane=plane,
        config_path=config.resolve(),
        data_dir=_data_folder(data),
        run_dir=private_folder(run_dir or default_run_folder(data)),
        ready_fd=ready_fd,
        worker=worker,
        listen=dict(_listen(text) for text in listen),
        health=_address("--health", health) if health is not None else None,
    )
    with HeldFolder(options.run_dir, f"{plane}-{worker}", "use --run-dir", _PATIENCE_SECONDS):
        return int(serve(options))


def _data_folder(path: Path) -> Path:
    """The data folder, private if it is ours. A container's is mounted by root; what lies in it is looked at file by file."""
    if path.is_dir() and path.stat().st_uid != os.getuid():
        return path.resolve()
    return private_folder(path).resolve()


def _listen(text: str) -> tuple[str, Address]:
    """``SERVICE=HOST:PORT`` as a pair."""
    service, _, address = text.partition("=")
    return service.replace("-", "_"), _address("--listen", address)


def _address(option: str, text: str) -> Address:
    address = parse_address(text)
    if address is None:
        raise ConfigurationError([f"{option}: error: `{text}` is no address (expected `host:port`)"])
    return address
