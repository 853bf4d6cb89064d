"""Where the planes meet: Unix sockets in one private folder of mode 0700, or addresses with mutual TLS."""

import ipaddress
import os
import re
import tempfile
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

from doorward.errors import ConfigurationError

SOCKET_PATH_LIMIT = 107
"""Bytes of a Unix socket's address on Linux (``sun_path`` without its end mark)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A TCP address."""

    host: str
    """A name or a numeric address, without brackets."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_numeric(self) -> bool:
        """Whether nothing needs to be resolved."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneAddresses:
    """Where each service of a plane answers; an empty list means the Unix socket in the run folder."""

    databroker: tuple[Address, ...] = ()
    """Records."""
    authorize: tuple[Address, ...] = ()
    """Checks and guard streams, each authorizer's own address."""
    authorize_services: tuple[Address, ...] = ()
    """Explanations and status."""
    authenticate: tuple[Address, ...] = ()
    """Codes and sign-out, for the proxy's pages."""
    authenticate_pages: tuple[Address, ...] = ()
    """The sign-in host's pages, for Envoy."""
    directory: tuple[Address, ...] = ()
    """The directory worker, for operators."""

    @property
    def any(self) -> bool:
        """Whether anything is reached over TCP, so that a certificate is needed."""
        return any(getattr(self, item.name) for item in fields(self))


Place: TypeAlias = Path | tuple[Address, ...]
"""Where a service answers: a Unix socket, or one of several addresses."""


_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})\Z", re.ASCII)


def parse_address(text: str) -> Address | None:
    """``host:port`` or ``[address]:port`` as a value; ``None`` when it is anything else."""
    match = _ADDRESS.match(text)
    if match is None or not 0 < int(match[2]) < 65536:
        return None
    return Address(host=match[1].strip("[]"), port=int(match[2]))


@dataclass(frozen=True, slots=True)
class LocalEndpoints:
    """The sockets of one deployment. Making this value creates nothing."""

    folder: Path

    def databroker(self, caller: str) -> Path:
        """The databroker's socket for the plane ``caller``; which socket a call comes in on is who calls."""
        return self._socket(f"databroker.{caller}.sock")

    def check(self, worker: int) -> Path:
        """Envoy's checks, one socket for each authorizer worker."""
        return self._socket(f"check.{worker}.sock")

    def probes(self, plane: str, worker: int) -> Path:
        """Metrics and probes of one process, where no address is given for them."""
        return self._socket(f"{plane}.{worker}.probes.sock")

    @property
    def authorize(self) -> Path:
        """The authorize plane's own gRPC services, those of its first worker."""
        return self.authorize_of(0)

    def authorize_of(self, worker: int) -> Path:
        """The own gRPC services of one worker of the authorize plane."""
        return self._socket(f"authorize.{worker}.sock" if worker else "authorize.sock")

    def gateway(self, name: str, worker: int) -> Path:
        """All that one authorize worker serves to another gateway; which socket a call comes in on is who calls."""
        return self._socket(f"gateway.{name}.{worker}.sock")

    def authorizers(self) -> tuple[Path, ...]:
        """The services of every authorize worker that has begun here, the first one first."""
        others = sorted(self.folder.glob("authorize.*.sock"), key=lambda path: (len(path.name), path.name))
        return (self.authorize, *others)

    @property
    def authenticate(self) -> Path:
        """The authenticate plane's gRPC service, for the proxy."""
        return self._socket("authenticate.sock")

    @property
    def authenticate_pages(self) -> Path:
        """The sign-in host's pages, for Envoy."""
        return self._socket("authenticate.http.sock")

    @property
    def proxy_pages(self) -> Path:
        """The pages under ``/.doorward/`` on protected hosts, for Envoy."""
        return self._socket("proxy.http.sock")

    @property
    def discovery(self) -> Path:
        """The proxy plane's discovery service, for Envoy."""
        return self._socket("discovery.sock")

    @property
    def guard(self) -> Path:
        """The guard beside Envoy, for Envoy alone."""
        return self._socket("guard.sock")

    @property
    def guard_authorizers(self) -> Path:
        """A file: where the guard finds the authorizers."""
        return self.folder / "guard.authorizers"

    @property
    def envoy_admin(self) -> Path:
        """Envoy's admin interface, for its supervisor alone."""
        return self._socket("envoy.admin.sock")

    @property
    def directory(self) -> Path:
        """The directory worker's gRPC service."""
        return self._socket("directory.sock")

    @property
    def redis(self) -> Path:
        """The embedded Valkey."""
        return self._socket("redis.sock")

    def _socket(self, name: str) -> Path:
        path = self.folder / name
        if len(os.fsencode(path)) > SOCKET_PATH_LIMIT:
            raise ConfigurationError(
                [f"{path}: error: longer than {SOCKET_PATH_LIMIT} bytes, the most that a socket's path may have"]
            )
        return path


def default_run_folder(data_folder: Path) -> Path:
    """A short private folder for the sockets of the deployment whose data lie in ``data_folder``.

    The data folder may be deep; socket paths may not be long. The same data folder always gives the same answer.
    """
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    name = sha256(os.fsencode(data_folder.resolve())).hexdigest()[:12]
    return Path(base) / f"doorward-{os.getuid()}-{name}"
