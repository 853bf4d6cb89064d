"""A member that ends is started again, whatever stood in the way of it once."""

import asyncio

import structlog.testing
from tests.support.virtual_time import VirtualTimeLoop

from doorward.errors import UnavailableError
from doorward.runtime.children import Child
from doorward.runtime.deployment import Deployment, _Member


class _Ends:
    """A process that has ended."""

    returncode = 1

    async def wait(self) -> int:
        return 1


class _Lives(_Ends):
    async def wait(self) -> int:
        await asyncio.Event().wait()
        return 0


def test_no_failure_to_start_is_the_last_try():
    outcomes: list[Exception | Child] = [
        UnavailableError("not ready in time"),
        BlockingIOError("no more processes"),
        Child("one", _Lives()),  # type: ignore[arg-type]  # has what is used
    ]

    async def start() -> Child:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def keep() -> None:
        deployment = Deployment.__new__(Deployment)
        deployment._stopping = False
        member = _Member("one", start, Child("one", _Ends()))  # type: ignore[arg-type]  # has what is used
        keeping = asyncio.create_task(deployment._keep(member))
        await asyncio.sleep(60)
        assert not keeping.done()
        assert not outcomes
        keeping.cancel()

    with structlog.testing.capture_logs(), asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(keep())
