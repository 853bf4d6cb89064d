"""How a plane is reached and how it reaches the others: on Unix sockets, or at addresses with certificates."""

import asyncio
import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import grpc.aio
import structlog

from doorward.api.process.v1.process_pb2 import Process
from doorward.clock import Clock
from doorward.config.endpoints import Address, LocalEndpoints, Place, PlaneAddresses
from doorward.config.settings import Settings
from doorward.errors import ConfigurationError, DoorwardError
from doorward.keys.plane_authority import PLANE_AUTHORITY
from doorward.keys.store import KeyStore
from doorward.rpc.client import open_channel
from doorward.rpc.credentials import PlaneIdentity
from doorward.rpc.grpc_methods import Methods
from doorward.rpc.planes import Gateway, Plane
from doorward.rpc.server import PlaneServer, Register
from doorward.runtime.service import ServeOptions

PUBLIC = "public"
"""The listener for everybody, of the proxy plane."""
_LOOK_SECONDS = 1.0
_log = structlog.stdlib.get_logger(__name__)
_EVERYWHERE = "0.0.0.0"  # noqa: S104  # nobody gets past the handshake without a certificate of ours


class Neighbours:
    """The surroundings of one plane's process. Making it starts and opens nothing.

    Raises:
        ConfigurationError: addresses are configured, and the plane's certificate cannot be used.
    """

    def __init__(self, plane: Plane, options: ServeOptions, addresses: PlaneAddresses, clock: Clock) -> None:
        self.plane = plane
        self.local = LocalEndpoints(options.run_dir)
        self._listen = options.listen
        self._keys: KeyStore | None = None
        self._addresses = addresses
        unknown = sorted(set(options.listen) - set(_SERVICES[self.plane]))
        if unknown:
            there_are = ", ".join(f"`{name}`" for name in _SERVICES[self.plane]) or "none"
            raise ConfigurationError([f"--listen: error: no service `{unknown[0]}` of this plane ({there_are})"])
        self.identity: PlaneIdentity | None = None
        if addresses.any or set(options.listen) - {PUBLIC}:
            self.identity = PlaneIdentity(options.data_dir / "planes" / plane, plane, clock)

    def databroker(self) -> grpc.aio.Channel:
        """A channel to the records."""
        place = self._addresses.databroker or self.local.databroker(self.plane)
        return open_channel(place, Plane.DATABROKER, self.identity)

    def authorize(self) -> grpc.aio.Channel:
        """A channel to the authorizers' services."""
        return open_channel(self._addresses.authorize_services or self.local.authorize, Plane.AUTHORIZE, self.identity)

    def authorizer(self, where: Address | Path) -> grpc.aio.Channel:
        """A channel to the services of the one authorizer at an address, or on a socket beside us.

        Raises:
            ConfigurationError: an address, and this process began without a certificate.
        """
        place: Place = where if isinstance(where, Path) else (where,)
        return open_channel(place, Plane.AUTHORIZE, self.identity)

    def authenticate(self) -> grpc.aio.Channel:
        """A channel to the authenticate plane's services."""
        return open_channel(self._addresses.authenticate or self.local.authenticate, Plane.AUTHENTICATE, self.identity)

    def place(self, service: str, socket: Path) -> Path | Address:
        """Where ``service`` of this plane listens: as the command line says, at its configured port, or on ``socket``."""
        given = self._listen.get(service)
        if given is not None:
            return given
        configured: tuple[Address, ...] = getattr(self._addresses, service)
        return Address(host=_EVERYWHERE, port=configured[0].port) if configured else socket

    def with_public(self, settings: Settings) -> Settings:
        """``settings`` with the public listener where the command line wants it."""
        given = self._listen.get(PUBLIC)
        return settings if given is None else dataclasses.replace(settings, listen=given)

    def servers(
        self,
        service: str,
        sockets: Sequence[tuple[Plane, Path]],
        callers: Collection[Plane],
        register: Register,
        names: Sequence[str],
        for_gateways: Callable[[Gateway], Methods] | None = None,
    ) -> list[PlaneServer]:
        """The gRPC servers of ``service``: one at an address, or one for each of ``sockets`` and the plane that calls there.

        ``for_gateways`` as in ``PlaneServer``: at an address, where a certificate can say that a gateway calls.
        """
        place = self.place(service, sockets[0][1])
        if isinstance(place, Address):
            return [PlaneServer(place, callers, register, names, self.identity, for_gateways)]
        return [PlaneServer(path, [plane], register, names) for plane, path in sockets]

    def describe(self, process: Process) -> None:
        """Fill in what a report says about our certificate."""
        if self.identity is not None:
            current = self.identity.current
            process.certificate_expires_at = int(current.expires_at)
            process.keys[PLANE_AUTHORITY] = " ".join(current.authority_ids)
        if self._keys is not None:
            for purpose, ids in self._keys.ids.items():
                process.keys[purpose] = " ".join(ids)

    def watch_keys(self, keys: KeyStore) -> None:
        """Keep up with the files of ``keys`` too, and report which keys are held."""
        self._keys = keys

    async def run(self) -> None:
        """Keep up with the files of certificate and keys until cancelled."""
        tasks = [asyncio.ensure_future(self._look_at_keys())]
        if self.identity is not None:
            tasks.append(asyncio.ensure_future(self.identity.run()))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_at_keys(self) -> None:
        reported = ""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                changed = self._keys.look() if self._keys is not None else []
                reported = ""
            except DoorwardError as error:
                if str(error) != reported:
                    _log.error("the keys cannot be read again; those that are held stay", problem=str(error))
                reported = str(error)
                continue
            if changed:
                _log.info("keys are replaced", purposes=changed)


_SERVICES: dict[Plane, tuple[str, ...]] = {
    Plane.DATABROKER: ("databroker",),
    Plane.AUTHORIZE: ("authorize", "authorize_services"),
    Plane.AUTHENTICATE: ("authenticate", "authenticate_pages"),
    Plane.PROXY: (PUBLIC,),
    Plane.DIRECTORY: ("directory",),
    Plane.OPERATOR: (),
}
"""What can listen at an address, by plane."""
