"""What Envoy calls: ``Check``, and its own question whether we are well."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from grpc_health.v1.health_pb2 import HealthCheckResponse

from doorward.rpc.grpc_methods import Methods

CHECK_METHOD = "/envoy.service.auth.v3.Authorization/Check"
HEALTH_METHOD = "/grpc.health.v1.Health/Check"


class CheckHandler(Protocol):
    """Answers checks."""

    def check(self, data: bytes) -> bytes | Awaitable[bytes]:
        """CheckRequest to CheckResponse, both serialized; awaited only when the answer has to wait for something."""
        ...

    def overloaded(self, data: bytes) -> bytes:
        """The answer when there is no time to decide."""
        ...


def check_methods(checker: CheckHandler, is_serving: Callable[[], bool]) -> Methods:
    """The methods on Envoy's socket. Not serving means that Envoy should ask another worker."""
    states = HealthCheckResponse
    serving, not_serving = (
        HealthCheckResponse(status=state).SerializeToString() for state in (states.SERVING, states.NOT_SERVING)
    )
    return Methods(
        unary={
            CHECK_METHOD.encode(): checker.check,
            HEALTH_METHOD.encode(): lambda _: serving if is_serving() else not_serving,
        },
        streams={},
        overloaded=checker.overloaded,
    )
