"""Constructors for the messages that every part of the configuration is made of."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from doorward.envoy_api.envoy.config.core.v3.address_pb2 import Address, Pipe, SocketAddress
from doorward.envoy_api.envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from doorward.envoy_api.envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from doorward.envoy_api.envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint

YES = BoolValue(value=True)
NO = BoolValue(value=False)


def packed(message: Message) -> AnyMessage:
    """``message`` as ``Any``, byte for byte the same for equal messages (maps sorted)."""
    return AnyMessage(
        type_url=f"type.googleapis.com/{message.DESCRIPTOR.full_name}",
        value=message.SerializeToString(deterministic=True),
    )


def seconds(value: float) -> Duration:
    """A duration."""
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=value))
    return duration


def count(value: int) -> UInt32Value:
    """An optional number that is given."""
    return UInt32Value(value=value)


def socket_address(host: str, port: int) -> Address:
    """A TCP address."""
    return Address(socket_address=SocketAddress(address=host, port_value=port))


def pipe_address(path: Path, *, mode: int = 0) -> Address:
    """A Unix socket; ``mode`` only where Envoy makes it."""
    return Address(pipe=Pipe(path=str(path), mode=mode))


def endpoint(address: Address, *, hostname: str = "") -> LbEndpoint:
    """An endpoint; ``hostname`` is the authority that requests to it are sent with."""
    return LbEndpoint(endpoint=Endpoint(address=address, hostname=hostname))


def from_discovery() -> ConfigSource:
    """The aggregated discovery stream."""
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def overwritten(headers: Iterable[tuple[str, str]]) -> Sequence[HeaderValueOption]:
    """Headers to set in place of whatever is there.

    Envoy reads ``%`` in a value as the start of a command; an operator's value means itself.
    """
    return [overwriting(name, value.replace("%", "%%")) for name, value in headers]


def overwriting(name: str, value_format: str) -> HeaderValueOption:
    """One header to set in place of whatever is there, its value in Envoy's format language."""
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value_format),
        append_action=HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
