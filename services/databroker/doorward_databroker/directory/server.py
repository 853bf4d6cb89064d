"""What operators ask the worker: read now, and how it goes."""

from typing import Any, TypeAlias

import grpc.aio

from doorward.api.directory.v1 import directory_pb2 as pb
from doorward.api.directory.v1 import directory_pb2_grpc
from doorward_databroker.directory.port import Phase
from doorward_databroker.directory.worker import Status, Worker

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["DirectoryService"].full_name
_PHASES = {
    Phase.WAITING: pb.DirectoryStatus.PHASE_WAITING,
    Phase.READING_USERS: pb.DirectoryStatus.PHASE_READING_USERS,
    Phase.READING_GROUPS: pb.DirectoryStatus.PHASE_READING_GROUPS,
    Phase.WRITING: pb.DirectoryStatus.PHASE_WRITING,
    Phase.ELSEWHERE: pb.DirectoryStatus.PHASE_ELSEWHERE,
}

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class DirectoryServicer(directory_pb2_grpc.DirectoryServiceServicer):
    """See ``protos/doorward/api/directory/v1/directory.proto``."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def Sync(self, request: pb.SyncRequest, context: _Context) -> pb.SyncResponse:
        """Read a directory now."""
        del context
        return pb.SyncResponse(run=self._worker.ask(request.directory_id, accept_removals=request.accept_removals))

    async def GetStatus(self, request: pb.GetStatusRequest, context: _Context) -> pb.GetStatusResponse:
        """Every directory."""
        del request, context
        return pb.GetStatusResponse(directories=[_message(status) for status in self._worker.statuses.values()])


def _message(status: Status) -> pb.DirectoryStatus:
    message = pb.DirectoryStatus(
        directory_id=status.settings.id,
        kind=status.settings.kind,
        phase=_PHASES[status.progress.phase],
        done=status.progress.done,
        total=status.progress.total,
        problem=status.problem,
        users=status.state.users,
        groups=status.state.groups,
        finished_run=status.finished_run,
        written=status.outcome.written if status.outcome is not None else 0,
        seconds=status.seconds,
        ambiguous=status.state.ambiguous,
    )
    if status.state.synchronised_at is not None:
        message.synchronised_at.FromNanoseconds(int(status.state.synchronised_at * 1e9))
    return message
