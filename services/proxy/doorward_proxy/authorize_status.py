"""Asks the authorize plane which configuration it decides by."""

import grpc
import grpc.aio

from doorward.api.authorize.v1.authorize_pb2 import GetStatusRequest
from doorward.api.authorize.v1.authorize_pb2_grpc import AuthorizeServiceStub
from doorward.errors import UnavailableError

_TIMEOUT_SECONDS = 0.5


class GrpcAuthorizeStatus:
    """The authorize plane over its socket."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = AuthorizeServiceStub(channel)

    async def generation(self) -> str:
        """The generation that authorize decides by.

        Raises:
            UnavailableError: it does not answer.
        """
        try:
            status = await self._stub.GetStatus(GetStatusRequest(), timeout=_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise UnavailableError(f"authorize: {error.code().name}") from error
        return status.generation
