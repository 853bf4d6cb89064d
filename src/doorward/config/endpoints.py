"""Where the planes of one machine meet: Unix sockets in one private folder of mode 0700."""

import os
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from doorward.errors import ConfigurationError

SOCKET_PATH_LIMIT = 107
"""Bytes of a Unix socket's address on Linux (``sun_path`` without its end mark)."""


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

    @property
    def authorize(self) -> Path:
        """The authorize plane's own gRPC services."""
        return self._socket("authorize.sock")

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
