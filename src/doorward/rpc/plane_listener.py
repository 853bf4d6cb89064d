"""Where our own gRPC server listens: on a Unix socket, or over TCP for planes that show their certificate."""

import asyncio
import ssl
from collections.abc import Callable, Collection
from pathlib import Path

import structlog

from doorward.config.endpoints import Address
from doorward.errors import ConfigurationError
from doorward.keys.plane_authority import plane_of_uris
from doorward.rpc.credentials import PlaneCertificate, PlaneIdentity
from doorward.rpc.grpc_server import GrpcServer
from doorward.rpc.planes import Plane, gateway_named

_log = structlog.stdlib.get_logger(__name__)


def admitted(callers: Collection[Plane], *, gateways: bool = False) -> Callable[[asyncio.BaseTransport], bool]:
    """Lets connections of ``callers`` in: by their verified certificate, or any on a Unix socket, which only they can open.

    With ``gateways``, those of other gateways too; what each may ask is for whoever serves them.
    """
    allowed = frozenset(callers)

    def admits(transport: asyncio.BaseTransport) -> bool:
        if transport.get_extra_info("ssl_object") is None:
            return True
        named = plane_behind(transport)
        admits = named in allowed or (gateways and gateway_named(named) is not None)
        if not admits:
            _log.warning("refused a caller", peer=transport.get_extra_info("peername"), plane=named)
        return admits

    return admits


def plane_behind(transport: asyncio.BaseTransport) -> str | None:
    """The plane or gateway that the verified certificate behind a connection names, if it is exactly one; ``None`` without TLS."""
    connection = transport.get_extra_info("ssl_object")
    if connection is None:
        return None
    shown = (connection.getpeercert() or {}).get("subjectAltName", ())
    return plane_of_uris([value for kind, value in shown if kind == "URI"])


async def listen(server: GrpcServer, place: Path | Address, identity: PlaneIdentity | None) -> None:
    """Serve at ``place``; over TCP with the newest certificate of ``identity`` for each new connection.

    Raises:
        ConfigurationError: the address is taken, or there is no certificate to listen with.
    """
    if not isinstance(place, Address):
        await server.listen_unix(place)
        return
    if identity is None:
        raise ConfigurationError([f"{place}: error: no certificate to listen with"])
    try:
        await server.listen_tcp(place.host, place.port, following_context(identity))
    except OSError as error:
        raise ConfigurationError([f"{place}: error: cannot listen there: {error.strerror}"]) from error


def following_context(identity: PlaneIdentity) -> ssl.SSLContext:
    """A server's context that serves each new connection with the newest certificate and authorities of ``identity``.

    A handshake begins with the returned context and goes on with the newest one as soon as the client has said hello, before any
    certificate is shown or looked at.
    """
    first = newest = identity.current.server_context()

    def switch(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = newest

    def replaced(certificate: PlaneCertificate) -> None:
        nonlocal newest
        newest = certificate.server_context()
        _log.info("serving with the new certificate", plane=str(certificate.plane))

    first.sni_callback = switch
    identity.subscribe(replaced)
    return first
