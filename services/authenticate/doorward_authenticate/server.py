"""What the proxy plane asks: codes redeemed, sessions ended."""

from typing import Any, TypeAlias

import grpc.aio

from doorward.api.authenticate.v1 import authenticate_pb2 as pb
from doorward.api.authenticate.v1 import authenticate_pb2_grpc
from doorward.clock import Clock
from doorward.keys.handle import HandleSealer
from doorward_authenticate.codes import Codes
from doorward_authenticate.sessions import SessionWriter

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["AuthenticateService"].full_name

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class AuthenticateServicer(authenticate_pb2_grpc.AuthenticateServiceServicer):
    """See ``protos/doorward/api/authenticate/v1/authenticate.proto``."""

    def __init__(self, codes: Codes, handles: HandleSealer, sessions: SessionWriter, clock: Clock) -> None:
        self._codes = codes
        self._handles = handles
        self._sessions = sessions
        self._clock = clock

    async def RedeemCode(self, request: pb.RedeemCodeRequest, context: _Context) -> pb.RedeemCodeResponse:
        """A handle for a code."""
        del context
        handle, expires_at = await self._codes.redeem(request.code, request.host, request.flow_secret)
        response = pb.RedeemCodeResponse(handle=handle)
        response.expires_at.FromSeconds(expires_at)
        return response

    async def EndSession(self, request: pb.EndSessionRequest, context: _Context) -> pb.EndSessionResponse:
        """End the session of a handle; answered once that is stored."""
        del context
        handle = self._handles.open(request.handle, request.host, self._clock.now())
        await self._sessions.end(handle.session_id)
        return pb.EndSessionResponse()
