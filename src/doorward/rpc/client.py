"""The one channel factory."""

from collections.abc import Awaitable
from typing import TypeVar

import grpc
import grpc.aio

from doorward import __version__
from doorward.config.endpoints import Address, Place
from doorward.errors import ConfigurationError
from doorward.keys.plane_authority import plane_host
from doorward.rpc.credentials import PlaneCertificate, PlaneIdentity
from doorward.rpc.planes import CONTRACT, Plane
from doorward.rpc.replaceable_channel import ReplaceableChannel
from doorward.rpc.status import error_of

T = TypeVar("T")

MESSAGE_LIMIT_BYTES = 64 * 1024 * 1024
_OPTIONS = [
    # A service config could turn on retries; a write is repeated only by whoever knows its request id.
    ("grpc.enable_retries", 0),
    # A plane that was restarted must be found again at once, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    # How long one attempt may take, whatever its name says. A busy peer needs more than a moment for a handshake, and whoever hangs up
    # and begins again gives it one handshake more to do.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    # Each channel its own connection: a watch must not share fate or flow control with short calls elsewhere.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.primary_user_agent", f"doorward/{__version__} contract/{CONTRACT}"),
]
_REMOTE_OPTIONS = [
    *_OPTIONS,
    # Calls go round the replicas, and past those that are away.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    # A peer behind a partition sends no reset: without these, it would be taken for slow.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Names are looked up again soon after a replica has moved.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
]


def open_channel(place: Place, plane: Plane, identity: PlaneIdentity | None = None) -> grpc.aio.Channel:
    """A channel to the services of ``plane`` at ``place``; connects on first use, and again after every loss.

    Over TCP both sides show certificates, and whoever answers must be ``plane``.

    Raises:
        ConfigurationError: addresses, but no certificate of our own.
    """
    if not isinstance(place, tuple):
        return grpc.aio.insecure_channel(f"unix:{place}", options=[*_OPTIONS, ("grpc.default_authority", "localhost")])
    if identity is None:
        raise ConfigurationError([f"error: `{plane}` is at an address, and there is no certificate to show it"])
    known = identity
    target = target_of(place)
    host = plane_host(plane)
    # gRPC compares the peer's certificate with this name instead of the address.
    options = [*_REMOTE_OPTIONS, ("grpc.ssl_target_name_override", host), ("grpc.default_authority", host)]

    def make() -> grpc.aio.Channel:
        return grpc.aio.secure_channel(target, known.current.channel_credentials(), options=options)

    channel = ReplaceableChannel(make)

    def replaced(_: PlaneCertificate) -> None:
        channel.replace()

    known.subscribe(replaced)
    return channel


def target_of(addresses: tuple[Address, ...]) -> str:
    """The name that gRPC has for ``addresses``: numeric ones of one family, or a single name.

    Raises:
        ConfigurationError: several names, or families; gRPC has no name for those.
    """
    if len(addresses) == 1 and not addresses[0].is_numeric:
        return f"dns:///{addresses[0]}"
    families = {"ipv6" if ":" in address.host else "ipv4" for address in addresses if address.is_numeric}
    if len(families) != 1 or not all(address.is_numeric for address in addresses):
        listed = ", ".join(map(str, addresses))
        raise ConfigurationError([f"error: `{listed}`: expected numeric addresses of one family, or one name"])
    return f"{families.pop()}:{','.join(map(str, addresses))}"


async def call(awaitable: Awaitable[T]) -> T:
    """The answer of a unary call, with gRPC's errors as ours.

    Raises:
        DoorwardError: as ``status.error_of`` says.
    """
    try:
        return await awaitable
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from error
