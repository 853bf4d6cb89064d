"""``doorward run``: a whole deployment on this machine."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from rich.console import Console

from doorward.cli.failures import FAILED
from doorward.cli.policy_files import read_node
from doorward.config.load import load_settings
from doorward.config.settings import Settings
from doorward.config.sources import main_file
from doorward.config.validation import position_of
from doorward.errors import ConfigurationError, UnavailableError
from doorward.runtime.deployment import Deployment
from doorward.runtime.folder import HeldFolder
from doorward.source import Problem
from doorward.telemetry.logging import configure_logging

STOP_SECONDS = 15.0
Progress: TypeAlias = Callable[[str], None]
"""Hears the name of each part that has become ready."""


def run_deployment(config: Path, data: Path) -> int:
    """Run until a signal; 0 after an orderly end."""
    configure_logging("run")
    settings = load_settings(config)
    if settings.planes.any:
        refuse_apart(config)
    report_warnings(settings)
    with HeldFolder(data):
        deployment = Deployment(config, settings, data, log_dir=None)
        return asyncio.run(until_signal(deployment, _announce(settings)))


def refuse_apart(config: Path) -> None:
    """Refuse a configuration for planes apart: here they would look for each other at addresses where nobody is.

    Raises:
        ConfigurationError: always.
    """
    problem = Problem(
        position_of(read_node(main_file(config)), ("planes",)),
        "`planes` is for planes apart, and `doorward run` runs all of them here",
        "remove `planes`, or start each plane with `doorward serve`",
    )
    raise ConfigurationError([problem.render()])


def report_warnings(settings: Settings) -> None:
    """Print what the configuration's reader had to say."""
    for problem in settings.warnings:
        print(problem.render(), file=sys.stderr)


def _announce(settings: Settings) -> Callable[[], Awaitable[None]]:
    async def announce() -> None:
        listen = f"{settings.listen.host}:{settings.listen.port}"
        ready = {"ready": True, "listen": listen, "hosts": settings.hosts, "generation": settings.generation}
        print(json.dumps(ready), flush=True)

    return announce


async def until_signal(
    deployment: Deployment,
    announce: Callable[[], Awaitable[None]],
    *,
    before: Callable[[Progress], Awaitable[None]] | None = None,
    after: Callable[[], Awaitable[None]] | None = None,
) -> int:
    """Start, announce, wait for SIGINT or SIGTERM, stop in order; a second signal kills what is left. The exit status.

    ``before`` and ``after`` start and stop what the deployment depends on.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    console = Console(stderr=True)

    def on_signal() -> None:
        if stop.is_set():
            _kill(deployment)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    starting = asyncio.create_task(_start(deployment, console, before))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if starting.done():
            try:
                starting.result()
            except UnavailableError as error:
                # Elsewhere this means that what was asked is not there, and that it can be started.
                print(f"error: {error}", file=sys.stderr)
                return FAILED
            await announce()
            await stopped
        else:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
    finally:
        stopped.cancel()
        console.print("stopping")
        try:
            await asyncio.wait_for(deployment.stop(), STOP_SECONDS)
        except TimeoutError:
            _kill(deployment)
        if after is not None:
            await after()
    return 0


async def _start(
    deployment: Deployment, console: Console, before: Callable[[Progress], Awaitable[None]] | None
) -> None:
    def progress(name: str) -> None:
        console.print(f"  {name} is ready")

    with console.status("starting"):
        if before is not None:
            await before(progress)
        await deployment.start(progress)


def _kill(deployment: Deployment) -> None:
    for process in deployment.processes.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
