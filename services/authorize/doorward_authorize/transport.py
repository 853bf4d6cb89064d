"""What Envoy calls: ``Check``, and its own question whether we are well."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from grpc_health.v1.health_pb2 import HealthCheckResponse

from doorward.rpc.grpc_methods import Methods

CHECK_METHOD = "/envoy.service.auth.v3.Authorization/Check"
HEALTH_METHOD = "/grpc.health.v1.Health/Check"
_YES = b"\x0a\x00\x1a"
"""How a serialized CheckResponse begins that allows: a status of 0, written out, and `ok_response`."""
_NO = b"\x0a\x02\x08\x07\x12"
"""And one that refuses: PERMISSION_DENIED and `denied_response`."""


class CheckHandler(Protocol):
    """Answers checks."""

    def check(self, data: bytes, *, traceparent: bytes = b"") -> bytes | Awaitable[bytes]:
        """CheckRequest to CheckResponse, both serialized; awaited only when the answer has to wait for something.

        ``traceparent`` is Envoy's (``CallHeaders.traceparent``).
        """
        ...

    def overloaded(self, data: bytes) -> bytes:
        """The answer when there is no time to decide."""
        ...


def check_methods(checker: CheckHandler, is_serving: Callable[[], bool]) -> Methods:
    """The methods on Envoy's socket. Not serving means that Envoy should ask another worker.

    INVARIANT: nothing leaves as an answer that does not say which one it is; to Envoy a CheckResponse without a status is a yes.
    """

    def check(data: bytes, traceparent: bytes = b"") -> bytes | Awaitable[bytes]:
        answer = checker.check(data, traceparent=traceparent)
        return _said(answer) if isinstance(answer, bytes) else later(answer)

    async def later(answer: Awaitable[bytes]) -> bytes:
        return _said(await answer)

    states = HealthCheckResponse
    serving, not_serving = (
        HealthCheckResponse(status=state).SerializeToString() for state in (states.SERVING, states.NOT_SERVING)
    )
    return Methods(
        unary={
            CHECK_METHOD.encode(): check,
            HEALTH_METHOD.encode(): lambda _: serving if is_serving() else not_serving,
        },
        joined={CHECK_METHOD.encode(): check},
        streams={},
        overloaded=lambda data: _said(checker.overloaded(data)),
    )


def _said(answer: bytes) -> bytes:
    """``answer``, if it is one of the two that there are.

    Raises:
        ValueError: it is another, and would be taken for something that nobody has decided.
    """
    if not answer.startswith((_YES, _NO)):
        raise ValueError("an answer that says neither yes nor no")
    return answer
