"""The operator's service: look at the store, copy it, bring it back, seal it anew."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import grpc.aio

from doorward.api.databroker.v1 import operations_pb2 as pb
from doorward.api.databroker.v1 import operations_pb2_grpc
from doorward.clock import Clock
from doorward.errors import ConflictError, DataCorruptedError, InvalidArgumentError, NotFoundError
from doorward.keys.keyring import Keyring
from doorward.records.record import NO_VERSION, Record, RecordVersion, Write, record_of, version_message, version_of
from doorward.rpc.server import caller
from doorward_databroker.damage import reread
from doorward_databroker.heartbeat import Heartbeat
from doorward_databroker.peers import Peers
from doorward_databroker.rights import require_operate
from doorward_databroker.store.codec import Codec
from doorward_databroker.store.maintenance import Maintenance
from doorward_databroker.store.port import OlderStateError, RecordStore
from doorward_databroker.store.types import check_id, type_of
from doorward_databroker.watch import WatchHub

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["OperationsService"].full_name
RESTORE_LIMIT = 500
_AT_ONCE = 16
"""Entries that are brought back side by side; what people wait for needs connections to the store too."""

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class OperationsServicer(operations_pb2_grpc.OperationsServiceServicer):
    """See ``protos/doorward/api/databroker/v1/operations.proto``."""

    def __init__(
        self,
        store: RecordStore,
        maintenance: Maintenance,
        codec: Codec,
        keyring: Keyring,
        hub: WatchHub,
        heartbeat: Heartbeat,
        peers: Peers,
        clock: Clock,
    ) -> None:
        self._store = store
        self._maintenance = maintenance
        self._codec = codec
        self._keyring = keyring
        self._hub = hub
        self._heartbeat = heartbeat
        self._peers = peers
        self._clock = clock

    async def GetStoreStatus(self, request: pb.GetStoreStatusRequest, context: _Context) -> pb.GetStoreStatusResponse:
        """The state."""
        del request, context
        require_operate(caller.get())
        answer = pb.GetStoreStatusResponse(
            address=self._maintenance.address,
            problem=self._heartbeat.problem or (reread(self._hub.unreadable) if self._hub.unreadable else ""),
            keys=[key.id.hex() for key in self._keyring.keys],
            damaged=[
                pb.GetStoreStatusResponse.Damage(type=one.type, id=one.id, reason=one.reason)
                for one in self._hub.damaged.values()
            ],
            databrokers=self._peers.databrokers,
            watchers=sorted(watcher.id for watcher in self._hub.watchers),
        )
        if self._heartbeat.healthy:
            answer.version.CopyFrom(version_message((await self._store.head()).version))
            answer.history_entries = await self._maintenance.history_entries()
            answer.records.update(await self._maintenance.counts())
            answer.warnings.extend(await self._maintenance.warnings())
        return answer

    async def ReadBackup(self, request: pb.ReadBackupRequest, context: _Context) -> pb.ReadBackupResponse:
        """A page, sealed."""
        del context
        require_operate(caller.get())
        found, following = await self._maintenance.page(request.page_token)
        entries = [
            pb.StoredEntry(type=one.type, id=one.id, version=version_message(one.version), sealed=one.sealed)
            for one in found
            if type_of(one.type).in_feed and one.sealed
        ]
        return pb.ReadBackupResponse(entries=entries, next_page_token=following)

    async def Restore(self, request: pb.RestoreRequest, context: _Context) -> pb.RestoreResponse:
        """Bring back what the store does not have, and what it has older."""
        del context
        require_operate(caller.get())
        if len(request.entries) > RESTORE_LIMIT:
            raise InvalidArgumentError(f"at most {RESTORE_LIMIT} entries at once")
        counts = {"restored": 0, "kept": 0, "ended": 0, "unreadable": 0}
        for some in _in_turn(request.entries):
            for outcome in await asyncio.gather(
                *(self._restore(one, keep_sessions=request.keep_sessions) for one in some)
            ):
                counts[outcome] += 1
        return pb.RestoreResponse(**counts)

    async def _restore(self, entry: pb.StoredEntry, *, keep_sessions: bool) -> str:
        kind = type_of(entry.type)
        check_id(entry.id)
        try:
            message = self._codec.message(entry.type, entry.id, version_of(entry.version), entry.sealed)
        except DataCorruptedError:
            return "unreadable"
        record = record_of(message)
        stored = await self._store.stored_version(entry.type, entry.id)
        has_damage = is_older = False
        if stored is not None:
            if stored[1] and not record.deleted:
                return "kept"  # a deletion counts, also one that does not open any more
            try:
                current = await self._store.get(entry.type, entry.id)
            except NotFoundError:
                return "kept"  # it has run out since, or is deleted by now
            except DataCorruptedError as error:
                has_damage = True  # the backup is the better one, whatever its age
                is_older = isinstance(error, OlderStateError) and record.version < error.known
            else:
                if _is_newer(current, record):
                    return "kept"
        if record.deleted:
            # Brought back over nothing, too: an older backup may still hold the record.
            return await self._written(Write(record=Record(type=record.type, id=record.id, deleted=True)))
        expected = None if stored is None else _expected(stored[0])
        if not record.is_live(self._clock.now()) or (kind.ends_with_history and not keep_sessions):
            if has_damage or (stored is None and await self._has_vanished(record)):
                gone = Record(type=record.type, id=record.id, deleted=True)
                await self._written(Write(record=gone, expected=expected, absent=stored is None))
            return "ended"
        if is_older:
            return "kept"  # it has been changed since, and perhaps deleted
        plain = Record(
            type=record.type, id=record.id, data=record.data, expires_at=record.expires_at, indexes=record.indexes
        )
        return await self._written(Write(record=plain, expected=expected, absent=stored is None))

    async def _has_vanished(self, record: Record) -> bool:
        try:
            await self._store.get(record.type, record.id)
        except NotFoundError:
            return False
        except DataCorruptedError:
            return True
        return False

    async def _written(self, write: Write) -> str:
        try:
            await self._store.put([write], secrets.token_hex(16))
        except ConflictError:
            return "kept"  # somebody has written it just now
        except InvalidArgumentError:
            return "unreadable"  # an older version stored what may not be stored any more
        return "restored"

    async def Reseal(self, request: pb.ResealRequest, context: _Context) -> pb.ResealResponse:
        """Seal a page anew."""
        del context
        require_operate(caller.get())
        done = await self._maintenance.reseal(request.page_token)
        self._hub.report(done.damaged)
        return pb.ResealResponse(
            seen=done.seen, resealed=done.resealed, unreadable=len(done.damaged), next_page_token=done.next_cursor
        )

    async def Discard(self, request: pb.DiscardRequest, context: _Context) -> pb.DiscardResponse:
        """Delete what does not open."""
        del context
        require_operate(caller.get())
        if not type_of(request.type).in_feed:
            raise InvalidArgumentError(f"`{request.type}` is not in the feed; what is not ends by itself")
        check_id(request.id)
        try:
            await self._store.get(request.type, request.id)
        except DataCorruptedError:
            stored = await self._store.stored_version(request.type, request.id)
        else:
            raise ConflictError("the record opens, so it is not discarded")
        gone = Record(type=request.type, id=request.id, deleted=True)
        write = Write(record=gone, expected=None if stored is None else _expected(stored[0]), absent=stored is None)
        (version,) = await self._store.put([write], secrets.token_hex(16))
        return pb.DiscardResponse(version=version_message(version))


def _in_turn(entries: Sequence[pb.StoredEntry]) -> Iterator[list[pb.StoredEntry]]:
    """Some at a time, none of which is about the same record as another: that one was revoked may stand behind that it lived."""
    some: dict[tuple[str, str], pb.StoredEntry] = {}
    for entry in entries:
        place = (entry.type, entry.id)
        if len(some) == _AT_ONCE or place in some:
            yield list(some.values())
            some = {}
        some[place] = entry
    yield list(some.values())


def _is_newer(current: Record, record: Record) -> bool:
    """Whether the store has a newer state; by time, because versions of two histories cannot be compared."""
    if record.deleted:
        return current.modified_at > record.modified_at  # a deletion wins
    return current.modified_at >= record.modified_at


def _expected(stored: RecordVersion) -> RecordVersion | None:
    """What a write over a damaged record expects; nothing where even its version cannot be read."""
    return None if stored == NO_VERSION else stored
