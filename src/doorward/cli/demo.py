"""``doorward demo``: identity provider, sample upstreams and all planes on loopback, ready to be looked at."""

import asyncio
import json
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.table import Table

from doorward.cli.run import Progress, until_signal
from doorward.clock import SystemClock
from doorward.config.load import load_settings
from doorward.demo.configuration import CLIENT_ID, SECRET_FILE, DemoPorts, demo_configuration
from doorward.demo.users import DEMO_USERS
from doorward.errors import ConfigurationError, UnavailableError
from doorward.keys.local_authority import LocalAuthority
from doorward.runtime.children import Child, spawn
from doorward.runtime.deployment import Deployment
from doorward.runtime.folder import HeldFolder, private_folder
from doorward.telemetry.logging import configure_logging

_PORTS_FILE = "demo-ports.json"
_START_SECONDS = 15.0
_PORT_NAMES = ("identity_provider", "verify", "admin", "public")


def run_demo(data: Path, port: int) -> int:
    """Run until a signal; 0 after an orderly end."""
    configure_logging("demo")
    with HeldFolder(data):
        logs = private_folder(data / "logs")
        ports = _choose_ports(data, port)
        secret_file = data / SECRET_FILE
        if not secret_file.exists():
            secret_file.touch(mode=0o600)
            secret_file.write_text(secrets.token_urlsafe(32) + "\n")
        config = data / "demo.yaml"
        config.write_text(demo_configuration(ports))
        ca_file = LocalAuthority(data / "certificates", SystemClock()).ca_file.resolve()
        surroundings = _Surroundings(data, ports, logs, ca_file)
        deployment = Deployment(config, load_settings(config), data, log_dir=logs)

        async def announce() -> None:
            _announce(ports, ca_file)

        return asyncio.run(until_signal(deployment, announce, before=surroundings.start, after=surroundings.stop))


class _Surroundings:
    """What a real deployment finds there already: an identity provider and upstreams."""

    def __init__(self, data: Path, ports: DemoPorts, logs: Path, ca_file: Path) -> None:
        self._data = data
        self._ports = ports
        self._logs = logs
        self._ca_file = ca_file
        self._children: list[Child] = []

    async def start(self, progress: Progress) -> None:
        """Start both and return when they listen."""
        ports = self._ports
        folder = private_folder(self._data / "identity-provider")
        await self._spawn(
            "identity-provider",
            [
                "doorward.demo.identity_provider",
                "--port", str(ports.identity_provider),
                "--data", str(folder.resolve()),
                "--client-id", CLIENT_ID,
                "--client-secret-file", str((self._data / SECRET_FILE).resolve()),
                "--redirect-uri", ports.redirect_uri,
            ],
        )  # fmt: skip
        await self._spawn(
            "upstreams",
            [
                "doorward.demo.upstreams",
                "--verify-port", str(ports.verify),
                "--admin-port", str(ports.admin),
                "--public-port", str(ports.public),
                "--verify-url", ports.url("verify"),
                "--admin-url", ports.url("admin"),
                "--public-url", ports.url("public"),
                "--issuer", ports.url("authenticate"),
                "--ca-file", str(self._ca_file),
            ],
        )  # fmt: skip
        await self._listening(ports.identity_provider)
        progress("identity provider")
        await asyncio.gather(*(self._listening(port) for port in (ports.verify, ports.admin, ports.public)))
        progress("sample applications")

    async def stop(self) -> None:
        """End both."""
        await asyncio.gather(*(child.stop(15, 2.0) for child in self._children))

    async def _spawn(self, name: str, module: Sequence[str]) -> None:
        command = [sys.executable, "-m", *module]
        self._children.append(await spawn(name, command, log_file=self._logs / f"{name}.log"))

    async def _listening(self, port: int) -> None:
        deadline = asyncio.get_running_loop().time() + _START_SECONDS
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                if asyncio.get_running_loop().time() > deadline or not all(c.running for c in self._children):
                    raise UnavailableError(f"nothing listens on port {port}; see {self._logs}") from None
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


def _choose_ports(data: Path, https: int) -> DemoPorts:
    """The ports of the last start where they are free, else new ones: the issuer's address is part of who users are."""
    path = data / _PORTS_FILE
    try:
        remembered = {name: int(value) for name, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        remembered = {}
    with _Reservations() as reservations:
        if https and not reservations.take(https):
            raise ConfigurationError([f"error: port {https} is taken (doorward demo --port N)"])
        public = https or reservations.remembered_or_free(remembered.get("https"))
        others = {name: reservations.remembered_or_free(remembered.get(name)) for name in _PORT_NAMES}
    ports = DemoPorts(https=public, **others)
    path.write_text(json.dumps({"https": public, **others}) + "\n")
    return ports


class _Reservations:
    """Holds ports while the others are chosen, so that none is chosen twice."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for held in self._held:
            held.close()

    def take(self, port: int) -> int | None:
        """``port`` if it is free on loopback (0: any), else ``None``."""
        reservation = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            reservation.bind(("127.0.0.1", port))
        except OSError:
            reservation.close()
            return None
        self._held.append(reservation)
        return int(reservation.getsockname()[1])

    def remembered_or_free(self, port: int | None) -> int:
        """``port`` if it is free, else any free one."""
        chosen = self.take(port) if port else None
        chosen = chosen or self.take(0)
        if chosen is None:
            raise UnavailableError("no free port on loopback")
        return chosen


def _announce(ports: DemoPorts, ca_file: Path) -> None:
    """The table for people, then one line of JSON for programs."""
    urls = {name: ports.url(name) for name in ("verify", "admin", "public", "authenticate")}
    console = Console()
    table = Table(title="Doorward demo", title_justify="left")
    table.add_column("address")
    table.add_column("who gets in")
    for name, who in (
        ("verify", "anyone signed in"),
        ("admin", "group admins"),
        ("public", "everyone"),
        ("authenticate", "the sign-in host"),
    ):
        table.add_row(urls[name], who)
    people = Table()
    for column in ("e-mail", "password", "groups"):
        people.add_column(column)
    for user in DEMO_USERS:
        people.add_row(user.email, user.password, ", ".join(user.groups) or "none")
    console.print(table)
    console.print(people)
    # Never wrapped or coloured: people copy it.
    console.print(f"certificate authority: {ca_file}", soft_wrap=True, highlight=False)
    console.print("Ctrl-C ends everything.")
    ready = {
        "ready": True,
        "urls": urls,
        "users": [{"email": user.email, "password": user.password} for user in DEMO_USERS],
        "ca_file": str(ca_file),
        "pid": os.getpid(),
    }
    print(json.dumps(ready), flush=True)
