"""The databroker's service: checks rights, translates, and leaves the rest to its parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
import grpc.aio

from doorward.api.databroker.v1 import databroker_pb2 as pb
from doorward.api.databroker.v1 import databroker_pb2_grpc
from doorward.clock import Clock
from doorward.errors import DataCorruptedError, InvalidArgumentError, UnavailableError, WatchExpiredError
from doorward.identity import sign_in_stop
from doorward.records.record import (
    NO_VERSION,
    Damaged,
    Fence,
    Record,
    Write,
    damaged_message,
    record_message,
    record_of,
    version_message,
    version_of,
)
from doorward.rpc.planes import Plane
from doorward.rpc.server import caller
from doorward.telemetry.background import watched
from doorward_databroker.group_sessions import users_of_group
from doorward_databroker.heartbeat import Heartbeat
from doorward_databroker.metrics import DatabrokerMetrics
from doorward_databroker.peers import Peers
from doorward_databroker.revoke import Revoker
from doorward_databroker.rights import Verb, require, require_lease, require_revoke, shown_to
from doorward_databroker.store.port import Page, Position, RecordStore
from doorward_databroker.store.types import RECORD_TYPES, check_id, type_of
from doorward_databroker.watch import WatchHub
from doorward_databroker.watcher import Watcher, never

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["DatabrokerService"].full_name
BATCH_LIMIT = 500
_PAGE = 500
_PAGE_LIMIT = 1000
_LEASE_LIMIT_SECONDS = 3600.0
_MEND_SECONDS = 2.0

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class DatabrokerServicer(databroker_pb2_grpc.DatabrokerServiceServicer):
    """See ``protos/doorward/api/databroker/v1/databroker.proto``."""

    def __init__(
        self,
        store: RecordStore,
        hub: WatchHub,
        heartbeat: Heartbeat,
        revoker: Revoker,
        peers: Peers,
        clock: Clock,
        metrics: DatabrokerMetrics,
    ) -> None:
        self._store = store
        self._hub = hub
        self._heartbeat = heartbeat
        self._revoker = revoker
        self._peers = peers
        self._clock = clock
        self._metrics = metrics

    async def _mended(self) -> RecordStore:
        """The store, once it holds again what it is known to have lost.

        Raises:
            UnavailableError: that takes too long.
        """
        if not self._hub.mended.is_set():
            try:
                await asyncio.wait_for(self._hub.mended.wait(), _MEND_SECONDS)
            except TimeoutError:
                raise UnavailableError("the store has lost history and is being mended") from None
        return self._store

    async def Get(self, request: pb.GetRequest, context: _Context) -> pb.GetResponse:
        """One live record."""
        del context
        require(caller.get(), Verb.GET, request.type)
        check_id(request.id)
        store = await self._mended()
        try:
            record = await store.get(request.type, request.id)
        except DataCorruptedError as error:
            stored = await store.stored_version(request.type, request.id)
            version = NO_VERSION if stored is None else stored[0]  # none where it has vanished
            self._hub.report([Damaged(request.type, request.id, version, str(error))])
            raise
        return pb.GetResponse(record=shown_to(caller.get(), record_message(record)))

    async def List(self, request: pb.ListRequest, context: _Context) -> pb.ListResponse:
        """A page of a type."""
        del context
        require(caller.get(), Verb.LIST, request.type)
        store = await self._mended()
        page = await store.page(request.type, _token(request.page_token), _size(request.page_size))
        damaged = self._told(page, with_damaged=request.with_damaged)
        return pb.ListResponse(records=_shown(page), next_page_token=page.next_id, damaged=damaged)

    async def Query(self, request: pb.QueryRequest, context: _Context) -> pb.QueryResponse:
        """A page of an index."""
        del context
        require(caller.get(), Verb.QUERY, request.type)
        store = await self._mended()
        page = await store.query(
            request.type, request.index, request.value, _token(request.page_token), _size(request.page_size)
        )
        damaged = self._told(page, with_damaged=request.with_damaged)
        return pb.QueryResponse(records=_shown(page), next_page_token=page.next_id, damaged=damaged)

    def _told(self, page: Page, *, with_damaged: bool) -> list[pb.DamagedRecord]:
        """What of the page does not open; also told to whoever asks for the state.

        Raises:
            DataCorruptedError: something, and the caller has not asked for it; a page must not look complete without it.
        """
        self._hub.report(page.damaged)
        if page.damaged and not with_damaged:
            first = page.damaged[0]
            raise DataCorruptedError(f"`{first.type}` `{first.id}`: {first.reason}")
        return [damaged_message(one) for one in page.damaged]

    async def Put(self, request: pb.PutRequest, context: _Context) -> pb.PutResponse:
        """A batch, all or none."""
        del context
        plane = caller.get()
        if not 0 < len(request.writes) <= BATCH_LIMIT:
            raise InvalidArgumentError(f"a batch holds 1 to {BATCH_LIMIT} writes")
        writes = [_write(message) for message in request.writes]
        for write in writes:
            verb = Verb.DELETE if write.record.deleted else Verb.CREATE if write.absent else Verb.PUT
            require(plane, verb, write.record.type)
        store = await self._mended()
        versions = await store.put(writes, _request_id(plane, request.request_id), _fence(plane, request))
        for write in writes:
            self._metrics.records_written.labels(write.record.type).inc()
        return pb.PutResponse(versions=[version_message(version) for version in versions])

    async def Delete(self, request: pb.DeleteRequest, context: _Context) -> pb.DeleteResponse:
        """A tombstone."""
        del context
        plane = caller.get()
        require(plane, Verb.DELETE, request.type)
        expected = request.precondition.version if request.precondition.HasField("version") else None
        write = Write(
            record=Record(type=request.type, id=request.id, deleted=True),
            expected=None if expected is None else version_of(expected),
        )
        store = await self._mended()
        versions = await store.put([write], _request_id(plane, request.request_id), _fence(plane, request))
        return pb.DeleteResponse(version=version_message(versions[0]))

    async def Watch(  # type: ignore[override]  # bytes: see `register`
        self, requests: AsyncIterator[pb.WatchRequest], context: _Context
    ) -> AsyncIterator[bytes]:
        """A snapshot unless resumed, then every change; encoded already, since all watchers get the same bytes."""
        plane = caller.get()
        first = await anext(requests, None)
        if first is None or first.WhichOneof("message") != "start":
            raise InvalidArgumentError("a watch begins with `start`")
        start = first.start
        if not start.types:
            raise InvalidArgumentError("a watch names at least one record type")
        check_id(start.watcher_id)
        # A newer plane asks for types that did not exist when this was written; it learns which ones it is not going to get.
        if_known = tuple(sorted(set(start.types_if_known) & RECORD_TYPES.keys()))
        for name in (*start.types, *if_known):
            require(plane, Verb.WATCH, name)
            if not type_of(name).in_feed:
                raise InvalidArgumentError(f"`{name}` is not in the feed")
        await self._mended()
        watcher = Watcher(
            id=f"{plane}/{start.watcher_id}",
            types=frozenset((*start.types, *if_known)),
            if_known=if_known,
            at_once=getattr(context, "at_once", never),  # libraries' contexts have none
        )
        # One that is not listened to any more gets no leases, and would be stale for ever.
        listening = watched(
            asyncio.create_task(self._listen(requests, watcher)),
            "listening to a watcher",
            lambda: watcher.end("what it says cannot be read"),
        )
        after = Position(version_of(start.after), start.after_tag) if start.HasField("after") else None
        self._metrics.watchers.inc()
        try:
            async for response in self._hub.watch(watcher, after):
                yield response
        except WatchExpiredError:
            if after is not None and after.tag:
                await self._hub.report_loss(after)
            raise
        finally:
            listening.cancel()
            self._metrics.watchers.dec()
            self._peers.watcher_gone(watcher)

    async def _listen(self, requests: AsyncIterator[pb.WatchRequest], watcher: Watcher) -> None:
        async for request in requests:
            match request.WhichOneof("message"):
                case "ping":
                    watcher.stamp = request.ping.stamp
                    watcher.stamped_at = self._clock.monotonic()
                case "acknowledge":
                    watcher.acknowledged = version_of(request.acknowledge.version)
                    async with self._hub.acknowledged:
                        self._hub.acknowledged.notify_all()
                case _:
                    return

    async def AcquireLease(self, request: pb.AcquireLeaseRequest, context: _Context) -> pb.AcquireLeaseResponse:
        """Take a lease."""
        del context
        number = await self._store.acquire_lease(*_lease(caller.get(), request))
        return pb.AcquireLeaseResponse(acquired=number is not None, fencing_number=number or 0)

    async def RenewLease(self, request: pb.RenewLeaseRequest, context: _Context) -> pb.RenewLeaseResponse:
        """Extend a lease."""
        del context
        return pb.RenewLeaseResponse(renewed=await self._store.renew_lease(*_lease(caller.get(), request)))

    async def ReleaseLease(self, request: pb.ReleaseLeaseRequest, context: _Context) -> pb.ReleaseLeaseResponse:
        """Give a lease back."""
        del context
        check_id(request.holder)
        await self._store.release_lease(_lease_name(caller.get(), request.name), request.holder)
        return pb.ReleaseLeaseResponse()

    async def Revoke(self, request: pb.RevokeRequest, context: _Context) -> pb.RevokeResponse:
        """End sessions."""
        del context
        target = request.WhichOneof("target")
        require_revoke(caller.get(), target or "")
        await self._mended()
        match target:
            case "session_id":
                check_id(request.session_id)
                session_ids = [request.session_id]
            case "user_id":
                check_id(request.user_id)
                await self._revoker.stop_sign_ins(sign_in_stop.of_user(request.user_id))
                session_ids = await self._revoker.sessions_by("user_id", request.user_id)
            case "identity_provider_id":
                check_id(request.identity_provider_id)
                await self._revoker.stop_sign_ins(sign_in_stop.of_provider(request.identity_provider_id))
                session_ids = await self._revoker.sessions_by("identity_provider_id", request.identity_provider_id)
            case "group":
                members = await users_of_group(self._store, request.group)
                await self._revoker.stop_sign_ins(*map(sign_in_stop.of_user, members))
                session_ids = await self._revoker.sessions_of(members)
            case "all_sessions" if request.all_sessions:
                await self._revoker.stop_sign_ins(sign_in_stop.ALL)
                session_ids = await self._revoker.every_session()
            case _:
                raise InvalidArgumentError("name what is to be ended")
        outcome = await self._revoker.revoke(session_ids)
        state = pb.RevokeResponse.STATE_PENDING if outcome.pending else pb.RevokeResponse.STATE_APPLIED
        return pb.RevokeResponse(
            state=state, revoked=outcome.revoked, pending=outcome.pending, version=version_message(outcome.version)
        )

    async def GetStatus(self, request: pb.GetStatusRequest, context: _Context) -> pb.GetStatusResponse:
        """Health, head and watchers."""
        del request, context
        position = self._hub.position
        return pb.GetStatusResponse(
            version=version_message(position) if position is not None else None,
            store_healthy=self._heartbeat.healthy,
            watchers=sorted(watcher.id for watcher in self._hub.watchers),
        )


def register(servicer: DatabrokerServicer, server: grpc.aio.Server) -> None:
    """Serve on ``server``. Watch's responses leave as the bytes that they are; the newest handler of a name counts."""
    watch = grpc.stream_stream_rpc_method_handler(
        servicer.Watch, request_deserializer=pb.WatchRequest.FromString, response_serializer=bytes
    )
    databroker_pb2_grpc.add_DatabrokerServiceServicer_to_server(servicer, server)
    server.add_registered_method_handlers(SERVICE_NAME, {"Watch": watch})  # type: ignore[attr-defined]  # missing in the stubs


def _shown(page: Page) -> list[pb.Record]:
    """A page's records, as the caller may see them."""
    return [shown_to(caller.get(), record_message(record)) for record in page.records]


def _fence(plane: Plane, request: pb.PutRequest | pb.DeleteRequest) -> Fence | None:
    if not request.HasField("fence"):
        return None
    fence = request.fence
    check_id(fence.holder)
    return Fence(_lease_name(plane, fence.lease), fence.holder, fence.number)


def _write(message: pb.Write) -> Write:
    record = record_of(message.record)
    match message.precondition.WhichOneof("expected"):
        case "version":
            return Write(record=record, expected=version_of(message.precondition.version))
        case "absent" if message.precondition.absent:
            return Write(record=record, absent=True)
        case _:
            return Write(record=record)


def _request_id(plane: Plane, request_id: str) -> str:
    """A request's id within the store; planes cannot ask for each other's outcomes."""
    check_id(request_id)
    return f"{plane}:{request_id}"


def _token(token: str) -> str:
    if token:
        check_id(token)
    return token


def _size(size: int) -> int:
    if size < 0 or size > _PAGE_LIMIT:
        raise InvalidArgumentError(f"a page holds 1 to {_PAGE_LIMIT} records")
    return size or _PAGE


def _lease(plane: Plane, request: pb.AcquireLeaseRequest | pb.RenewLeaseRequest) -> tuple[str, str, float]:
    name = _lease_name(plane, request.name)
    check_id(request.holder)
    seconds = request.duration.seconds + request.duration.nanos * 1e-9
    if not 0 < seconds <= _LEASE_LIMIT_SECONDS:
        raise InvalidArgumentError(f"a lease lasts up to {_LEASE_LIMIT_SECONDS:.0f} seconds")
    return name, request.holder, seconds


def _lease_name(plane: Plane, name: str) -> str:
    """A lease's name within the store: each plane has its own, and none can take the databrokers'.

    Raises:
        PermissionDeniedError: the plane may take no leases.
    """
    require_lease(plane)
    check_id(name)
    return f"{plane}/{name}"
