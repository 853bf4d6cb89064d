"""Who is there: every process reports how it is, and learns how the others are.

Kept in memory, not in the store: what nobody has said for some seconds is not true any more. Databrokers share what they have
heard with their heartbeats, so it does not matter which of them a process talks to.

Concurrency: belongs to one event loop.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from doorward.api.process.v1 import process_pb2 as pb
from doorward.api.process.v1 import process_pb2_grpc
from doorward.clock import Clock
from doorward.errors import InvalidArgumentError
from doorward.rpc.planes import Plane
from doorward.rpc.server import caller

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ProcessService"].full_name
LIVE_SECONDS = 3.0
"""Who has been silent this long is not waited for any more."""
PROCESSES_LIMIT = 1_000
_ID_BYTES = 64
_TEXT_BYTES = 500
_KEYS = 32

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class _Heard:
    process: pb.Process
    at: float


class ProcessTable:
    """What is known about each process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard: dict[tuple[str, str], _Heard] = {}
        self._left: dict[tuple[str, str], float] = {}

    def report(self, process: pb.Process) -> None:
        """Take in what a process says about itself; an older report than the known one changes nothing."""
        self._take(process, self._clock.monotonic())

    def leave(self, plane: str, process_id: str) -> None:
        """Forget a process that is ending, and what others may still say about it."""
        self._heard.pop((plane, process_id), None)
        self._left[plane, process_id] = self._clock.monotonic()

    def live(self) -> list[pb.Process]:
        """Who has reported lately, by plane and id."""
        self._forget()
        return [heard.process for _, heard in sorted(self._heard.items())]

    def shared(self) -> dict[str, list[object]]:
        """What other databrokers are told: each process with the age of its report in seconds."""
        self._forget()
        now = self._clock.monotonic()
        return {
            base64.b64encode(heard.process.SerializeToString()).decode(): [round(now - heard.at, 3)]
            for heard in self._heard.values()
        }

    def merge(self, shared: Mapping[str, list[object]]) -> None:
        """Take in what another databroker has told.

        Raises:
            ValueError: it is not what ``shared`` makes.
        """
        now = self._clock.monotonic()
        for text, (age,) in shared.items():
            try:
                process = pb.Process.FromString(base64.b64decode(text, validate=True))
            except (binascii.Error, DecodeError) as error:
                raise ValueError("not a process") from error
            if isinstance(age, int | float) and 0 <= age < LIVE_SECONDS:
                self._take(process, now - age)

    def _take(self, process: pb.Process, at: float) -> None:
        key = (process.plane, process.id)
        known = self._heard.get(key)
        if key in self._left or (known is not None and known.process.sequence >= process.sequence):
            return
        if known is None and len(self._heard) >= PROCESSES_LIMIT:
            _log.error("too many processes; one is not counted", plane=process.plane, id=process.id)
            return
        self._heard[key] = _Heard(process, at)

    def _forget(self) -> None:
        oldest = self._clock.monotonic() - LIVE_SECONDS
        self._heard = {key: heard for key, heard in self._heard.items() if heard.at > oldest}
        self._left = {key: at for key, at in self._left.items() if at > oldest - LIVE_SECONDS}


class ProcessServicer(process_pb2_grpc.ProcessServiceServicer):
    """See ``protos/doorward/api/process/v1/process.proto``."""

    def __init__(self, table: ProcessTable) -> None:
        self._table = table

    async def Report(self, request: pb.ReportRequest, context: _Context) -> pb.ReportResponse:
        """Take in and give out."""
        del context
        if request.HasField("process"):
            process = checked(request.process, caller.get())
            if request.leaving:
                self._table.leave(process.plane, process.id)
            else:
                self._table.report(process)
        return pb.ReportResponse(processes=self._table.live())


def checked(process: pb.Process, plane: Plane) -> pb.Process:
    """``process`` as one of ``plane``, whatever it says it is.

    Raises:
        InvalidArgumentError: an id that is none, or more text than a report may hold.
    """
    name = process.id
    if not 0 < len(name) <= _ID_BYTES or any(not "!" <= character <= "~" for character in name):
        raise InvalidArgumentError(f"a process id is 1 to {_ID_BYTES} printable ASCII characters")
    texts = [process.generation, process.version, process.fault, *process.keys.keys(), *process.keys.values()]
    if len(process.keys) > _KEYS or any(len(text) > _TEXT_BYTES for text in texts):
        raise InvalidArgumentError(f"a report holds texts of at most {_TEXT_BYTES} characters")
    found = pb.Process()
    found.CopyFrom(process)
    found.plane = str(plane)
    return found
