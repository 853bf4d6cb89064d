"""``doorward serve``: one plane, found by its entry point, so that the command line imports no plane."""

import importlib.metadata
import sys
from pathlib import Path

from doorward.config.endpoints import default_run_folder
from doorward.runtime.folder import private_folder
from doorward.runtime.service import ServeOptions
from doorward.source import suggestion


def serve_plane(plane: str, config: Path, data: Path, run_dir: Path | None, ready_fd: int | None, worker: int) -> int:
    """Run ``plane`` until it is asked to end; its exit status, or 2 when there is no such plane here."""
    services = {entry.name: entry for entry in importlib.metadata.entry_points(group="doorward.services")}
    entry = services.get(plane)
    if entry is None:
        hint = suggestion(plane, services) or f"there are {', '.join(sorted(services))}"
        print(f"error: no plane `{plane}` ({hint})", file=sys.stderr)
        return 2
    try:
        serve = entry.load()
    except ModuleNotFoundError as error:
        print(f"error: `{error.name}` is missing (pip install 'doorward[{plane}]')", file=sys.stderr)
        return 2
    options = ServeOptions(
        plane=plane,
        config_path=config.resolve(),
        data_dir=private_folder(data).resolve(),
        run_dir=private_folder(run_dir or default_run_folder(data)),
        ready_fd=ready_fd,
        worker=worker,
    )
    return int(serve(options))
