"""How commands reach a running deployment: over the sockets of its run folder, or with the operator's certificate."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from doorward.clock import SystemClock
from doorward.config.endpoints import LocalEndpoints, Place, PlaneAddresses, default_run_folder
from doorward.errors import ConfigurationError
from doorward.rpc.client import open_channel
from doorward.rpc.credentials import PlaneIdentity
from doorward.rpc.planes import Plane


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where a deployment is, as the command line says it."""

    data: Path
    run_dir: Path | None = None
    config: Path | None = None
    """Only needed for planes at addresses: it names them."""

    @contextlib.asynccontextmanager
    async def records(self) -> AsyncIterator[grpc.aio.Channel]:
        """A channel to the databroker.

        Raises:
            ConfigurationError: nothing runs there, or there is no certificate of an operator.
        """
        addresses = self._addresses()
        place: Place = addresses.databroker or self._there(self._sockets().databroker(Plane.OPERATOR), Plane.DATABROKER)
        async with open_channel(place, Plane.DATABROKER, self._identity(addresses)) as channel:
            yield channel

    @contextlib.asynccontextmanager
    async def authorize(self) -> AsyncIterator[grpc.aio.Channel]:
        """A channel to the authorizers' services.

        Raises:
            ConfigurationError: as for ``records``.
        """
        addresses = self._addresses()
        place: Place = addresses.authorize_services or self._there(self._sockets().authorize, Plane.AUTHORIZE)
        async with open_channel(place, Plane.AUTHORIZE, self._identity(addresses)) as channel:
            yield channel

    @contextlib.asynccontextmanager
    async def authorizers(self) -> AsyncIterator[tuple[grpc.aio.Channel, ...]]:
        """A channel to each authorizer: what one of them holds, the others do not.

        Raises:
            ConfigurationError: as for ``records``.
        """
        addresses = self._addresses()
        places: list[Place] = [(address,) for address in addresses.authorize_services]
        identity = self._identity(addresses)
        async with contextlib.AsyncExitStack() as stack:
            if not places:
                self._there(self._sockets().authorize, Plane.AUTHORIZE)
                places += self._sockets().authorizers()
            yield tuple(
                [await stack.enter_async_context(open_channel(place, Plane.AUTHORIZE, identity)) for place in places]
            )

    @contextlib.asynccontextmanager
    async def directory(self) -> AsyncIterator[grpc.aio.Channel]:
        """A channel to the directory worker.

        Raises:
            ConfigurationError: as for ``records``, or no directories are configured.
        """
        addresses = self._addresses()
        place: Place = addresses.directory or self._sockets().directory
        if isinstance(place, Path) and not place.exists():
            raise ConfigurationError(["error: no directory worker runs (configure `directories` and start again)"])
        async with open_channel(place, Plane.DIRECTORY, self._identity(addresses)) as channel:
            yield channel

    def _addresses(self) -> PlaneAddresses:
        if self.config is None:
            return PlaneAddresses()
        from doorward.config.load import load_plane_addresses  # noqa: PLC0415  # on one machine there is no file to read

        return load_plane_addresses(self.config)

    def _identity(self, addresses: PlaneAddresses) -> PlaneIdentity | None:
        if not addresses.any:
            return None
        return PlaneIdentity(self.data / "planes" / Plane.OPERATOR, Plane.OPERATOR, SystemClock())

    def _sockets(self) -> LocalEndpoints:
        try:
            folder = self.run_dir or default_run_folder(self.data)
        except RuntimeError:  # `Path.resolve`, of links that go round in circles
            raise ConfigurationError([f"error: `{self.data}` is no folder: its links go round in circles"]) from None
        if not folder.is_dir():
            raise self._nothing_runs()
        return LocalEndpoints(folder)

    def _there(self, socket: Path, plane: Plane) -> Path:
        """``socket``, if there is one; a deployment that has ended may leave its folder behind, and one may be only half up."""
        if socket.exists():
            return socket
        raise self._nothing_runs(f"{plane} of ")

    def _nothing_runs(self, part: str = "") -> ConfigurationError:
        where = f"data folder `{self.data}`" if self.run_dir is None else f"run folder `{self.run_dir}`"
        nothing = f"no {part}a deployment" if part else "nothing"
        return ConfigurationError(
            [f"error: {nothing} runs on the {where} (start it, or use --data, --run-dir or --config)"]
        )
