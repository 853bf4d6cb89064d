"""Our errors and gRPC's codes: one table, both directions."""

import grpc
import grpc.aio

from doorward.errors import (
    ConfigurationError,
    ConflictError,
    DataCorruptedError,
    DoorwardError,
    InvalidArgumentError,
    InvalidTokenError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    UnavailableError,
    WatchExpiredError,
)

_CODES: tuple[tuple[type[DoorwardError], grpc.StatusCode], ...] = (
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (ConflictError, grpc.StatusCode.ABORTED),
    (WatchExpiredError, grpc.StatusCode.OUT_OF_RANGE),
    (PermissionDeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (InvalidTokenError, grpc.StatusCode.PERMISSION_DENIED),
    (InvalidArgumentError, grpc.StatusCode.INVALID_ARGUMENT),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (OutcomeUnknownError, grpc.StatusCode.UNKNOWN),
    (DataCorruptedError, grpc.StatusCode.DATA_LOSS),
    (ConfigurationError, grpc.StatusCode.FAILED_PRECONDITION),
)
_ERRORS: dict[grpc.StatusCode, type[DoorwardError]] = {
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.OUT_OF_RANGE: WatchExpiredError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: InvalidArgumentError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.UNIMPLEMENTED: InvalidArgumentError,
    grpc.StatusCode.DATA_LOSS: DataCorruptedError,
}


def code_of(error: BaseException) -> grpc.StatusCode:
    """The code that tells a caller about ``error``; ``INTERNAL`` for what is not ours."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return grpc.StatusCode.INTERNAL


def error_of(error: grpc.aio.AioRpcError) -> DoorwardError:
    """Our error for a failed call; whatever is not in the table leaves the outcome unknown."""
    return error_for(error.code(), error.details())


def error_for(code: grpc.StatusCode, details: str | None) -> DoorwardError:
    """Our error for a call that ended with ``code``."""
    kind = _ERRORS.get(code, OutcomeUnknownError)
    return kind(f"{code.name}: {details or 'no details'}")
