"""What the pages ask of the authenticate plane, as a port and over gRPC."""

from dataclasses import dataclass
from typing import Protocol

import grpc
import grpc.aio

from doorward.api.authenticate.v1.authenticate_pb2 import EndSessionRequest, RedeemCodeRequest
from doorward.api.authenticate.v1.authenticate_pb2_grpc import AuthenticateServiceStub
from doorward.errors import InvalidTokenError, UnavailableError

_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Redeemed:
    """What a one-time code was exchanged for."""

    handle: str
    """Sealed; worth a session on one host. Never logged."""
    expires_at: float
    """Seconds since the Unix epoch."""


class Sessions(Protocol):
    """The authenticate plane, as the pages see it."""

    async def redeem(self, code: str, host: str, flow_secret: bytes) -> Redeemed:
        """Exchange a one-time code; the attempt spends it.

        Raises:
            InvalidTokenError: the code is worth nothing here.
            UnavailableError: it could not be exchanged now.
        """
        ...

    async def end(self, handle: str, host: str) -> None:
        """End the session of ``handle``; returns once its end is stored.

        Raises:
            InvalidTokenError: there is no such session to end.
            UnavailableError: it was not ended.
        """
        ...


class GrpcSessions:
    """The authenticate plane over its socket."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = AuthenticateServiceStub(channel)

    async def redeem(self, code: str, host: str, flow_secret: bytes) -> Redeemed:
        """See ``Sessions.redeem``."""
        request = RedeemCodeRequest(code=code, host=host, flow_secret=flow_secret)
        try:
            answer = await self._stub.RedeemCode(request, timeout=_TIMEOUT_SECONDS, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error
        if not answer.handle:
            raise UnavailableError("authenticate answered without a handle")
        return Redeemed(answer.handle, answer.expires_at.seconds + answer.expires_at.nanos / 1e9)

    async def end(self, handle: str, host: str) -> None:
        """See ``Sessions.end``."""
        try:
            await self._stub.EndSession(
                EndSessionRequest(handle=handle, host=host), timeout=_TIMEOUT_SECONDS, wait_for_ready=True
            )
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error


def _translated(error: grpc.aio.AioRpcError) -> InvalidTokenError | UnavailableError:
    """Only a clear refusal counts as one; everything else may be better in a moment."""
    if error.code() in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT}:
        return InvalidTokenError("authenticate refuses it")
    return UnavailableError(f"authenticate: {error.code().name}")
