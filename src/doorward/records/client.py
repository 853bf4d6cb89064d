"""The databroker's calls, typed; gRPC's errors arrive as ours."""

import asyncio
import functools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, MutableSequence, Sequence
from dataclasses import dataclass
from typing import TypeVar

import grpc.aio
from google.protobuf.duration_pb2 import Duration

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.api.databroker.v1.databroker_pb2_grpc import DatabrokerServiceStub
from doorward.errors import OutcomeUnknownError, UnavailableError
from doorward.records.record import (
    Damaged,
    Fence,
    Record,
    RecordVersion,
    Write,
    damaged_of,
    record_message,
    record_of,
    version_message,
    version_of,
)
from doorward.rpc.client import call

T = TypeVar("T")

DEADLINE_SECONDS = 3.0
REVOKE_SECONDS, REVOKE_MANY_SECONDS = 30.0, 300.0
"""Everything is looked through to end the sessions of a group: a minute for a million people."""
AWAY_SECONDS = 1.2
"""How long it is looked for before it is given up: a databroker that is restarted, or another one, is found within a second."""
_TRIES_WITHOUT_ANSWER = 3
"""Each of which may take the whole deadline."""
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """How far a revoke has come."""

    applied: bool
    """Whether no authorizer can let the ended sessions in any more."""
    revoked: int
    """How many sessions were ended."""
    pending: tuple[str, ...]
    """Authorizers that have not confirmed."""
    version: RecordVersion
    """Version of the last tombstone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How the databroker is."""

    version: RecordVersion
    store_healthy: bool
    watchers: tuple[str, ...]


class RecordClient:
    """One plane's view of the databroker.

    Reads and writes of a databroker that is away for a moment are tried again, for about a second. Writes carry a request id, so
    an answer that was lost is asked for again without writing twice.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = DatabrokerServiceStub(channel)

    async def get(self, record_type: str, record_id: str) -> Record:
        """The live record.

        Raises:
            NotFoundError: there is none.
        """
        request = pb.GetRequest(type=record_type, id=record_id)
        return record_of((await _asked(lambda: self.stub.Get(request, timeout=DEADLINE_SECONDS))).record)

    async def list(self, record_type: str, damaged: MutableSequence[Damaged] | None = None) -> AsyncIterator[Record]:
        """Every live record of a type, in id order.

        What does not open goes into ``damaged``; without it such a list fails, because it must not look complete.

        Raises:
            DataCorruptedError: a record does not open.
        """
        token = ""
        while True:
            request = pb.ListRequest(type=record_type, page_token=token, with_damaged=damaged is not None)
            page = await _asked(functools.partial(self.stub.List, request, timeout=DEADLINE_SECONDS))
            if damaged is not None:
                damaged.extend(map(damaged_of, page.damaged))
            for message in page.records:
                yield record_of(message)
            token = page.next_page_token
            if not token:
                return

    async def query(
        self, record_type: str, index: str, value: str, damaged: MutableSequence[Damaged] | None = None
    ) -> AsyncIterator[Record]:
        """Every live record of a type whose index has exactly ``value``; for ``damaged`` see ``list``.

        Raises:
            DataCorruptedError: a record that may be one of them does not open.
        """
        token = ""
        while True:
            request = pb.QueryRequest(
                type=record_type, index=index, value=value, page_token=token, with_damaged=damaged is not None
            )
            page = await _asked(functools.partial(self.stub.Query, request, timeout=DEADLINE_SECONDS))
            if damaged is not None:
                damaged.extend(map(damaged_of, page.damaged))
            for message in page.records:
                yield record_of(message)
            token = page.next_page_token
            if not token:
                return

    async def put(self, writes: Sequence[Write], fence: Fence | None = None) -> tuple[RecordVersion, ...]:
        """Write all or nothing and return the versions; with ``fence``, only while its lease was not taken again.

        Raises:
            ConflictError: a precondition failed, or somebody has taken the lease since.
            OutcomeUnknownError: no answer after several tries.
        """
        request = pb.PutRequest(writes=[_write_message(write) for write in writes], request_id=secrets.token_hex(16))
        if fence is not None:
            request.fence.CopyFrom(_fence_message(fence))
        answer = await _written(lambda: self.stub.Put(request, timeout=DEADLINE_SECONDS))
        return tuple(version_of(version) for version in answer.versions)

    async def delete(
        self, record_type: str, record_id: str, expected: RecordVersion | None = None, fence: Fence | None = None
    ) -> RecordVersion:
        """Write a tombstone and return its version; deleting what is not there succeeds.

        Raises:
            ConflictError: the stored version is not ``expected``, or somebody has taken the lease of ``fence`` since.
            OutcomeUnknownError: no answer after several tries.
        """
        request = pb.DeleteRequest(type=record_type, id=record_id, request_id=secrets.token_hex(16))
        if expected is not None:
            request.precondition.version.CopyFrom(version_message(expected))
        if fence is not None:
            request.fence.CopyFrom(_fence_message(fence))
        return version_of((await _written(lambda: self.stub.Delete(request, timeout=DEADLINE_SECONDS))).version)

    async def acquire_lease(self, name: str, holder: str, seconds: float) -> int | None:
        """The fencing number when the lease was taken, ``None`` when somebody else holds it."""
        request = pb.AcquireLeaseRequest(name=name, holder=holder, duration=_duration(seconds))
        answer = await call(self.stub.AcquireLease(request, timeout=DEADLINE_SECONDS))
        return answer.fencing_number if answer.acquired else None

    async def renew_lease(self, name: str, holder: str, seconds: float) -> bool:
        """Whether the lease was still held, and is now extended."""
        request = pb.RenewLeaseRequest(name=name, holder=holder, duration=_duration(seconds))
        return bool((await call(self.stub.RenewLease(request, timeout=DEADLINE_SECONDS))).renewed)

    async def release_lease(self, name: str, holder: str) -> None:
        """Give the lease back; harmless when it is not held."""
        await call(self.stub.ReleaseLease(pb.ReleaseLeaseRequest(name=name, holder=holder), timeout=DEADLINE_SECONDS))

    async def revoke(
        self,
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        identity_provider_id: str | None = None,
        group: str | None = None,
        all_sessions: bool = False,
    ) -> Revoked:
        """End sessions; returns when every authorizer has applied it, or after two seconds with those that have not.

        Name exactly one of a session, a user, an identity provider, a group and all sessions.

        Raises:
            InvalidArgumentError: none was named.
        """
        if session_id is not None:
            request = pb.RevokeRequest(session_id=session_id)
        elif user_id is not None:
            request = pb.RevokeRequest(user_id=user_id)
        elif identity_provider_id is not None:
            request = pb.RevokeRequest(identity_provider_id=identity_provider_id)
        elif group is not None:
            request = pb.RevokeRequest(group=group)
        else:
            request = pb.RevokeRequest(all_sessions=all_sessions)
        few = session_id is not None or user_id is not None
        answer = await call(self.stub.Revoke(request, timeout=REVOKE_SECONDS if few else REVOKE_MANY_SECONDS))
        applied = answer.state == pb.RevokeResponse.STATE_APPLIED
        return Revoked(
            applied=applied,
            revoked=answer.revoked,
            pending=tuple(answer.pending),
            version=version_of(answer.version),
        )

    async def status(self) -> Status:
        """How the databroker is."""
        answer = await _asked(lambda: self.stub.GetStatus(pb.GetStatusRequest(), timeout=DEADLINE_SECONDS))
        return Status(
            version=version_of(answer.version),
            store_healthy=answer.store_healthy,
            watchers=tuple(answer.watchers),
        )


async def _asked(ask: Callable[[], Awaitable[T]], unanswered: int = 1) -> T:
    """What ``ask`` says, asked again while nobody is there, and up to ``unanswered`` times in all while there is no answer."""
    loop = asyncio.get_running_loop()
    given_up_at = loop.time() + AWAY_SECONDS
    unknown: OutcomeUnknownError | None = None
    while True:
        try:
            return await call(ask())
        except UnavailableError as error:
            if loop.time() >= given_up_at:
                # That nothing was done is about this try; an earlier one may have been carried out.
                raise unknown or error from None
        except OutcomeUnknownError as error:
            unanswered -= 1
            if not unanswered:
                raise
            unknown = error
        await asyncio.sleep(_PAUSE_SECONDS)


async def _written(write: Callable[[], Awaitable[T]]) -> T:
    """As ``_asked``, for what carries a request id and is therefore done once however often it is asked for."""
    return await _asked(write, _TRIES_WITHOUT_ANSWER)


def _write_message(write: Write) -> pb.Write:
    message = pb.Write(record=record_message(write.record))
    if write.expected is not None:
        message.precondition.version.CopyFrom(version_message(write.expected))
    elif write.absent:
        message.precondition.absent = True
    return message


def _fence_message(fence: Fence) -> pb.Fence:
    return pb.Fence(lease=fence.lease, holder=fence.holder, number=fence.number)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
