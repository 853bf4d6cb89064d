"""Work under a lease hears of its loss, whatever has ended the renewing."""

import asyncio
from typing import Any

import pytest
import structlog.testing
from tests.support.virtual_time import VirtualTimeLoop

from doorward.errors import UnavailableError
from doorward.records.lease import hold_lease

SECONDS = 9.0


class Client:
    """The databroker's leases, as far as they are used."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers)
        self.released = False

    async def acquire_lease(self, *_: object) -> int:
        return 1

    async def renew_lease(self, *_: object) -> bool:
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def release_lease(self, *_: object) -> None:
        self.released = True


@pytest.mark.parametrize(
    ("answers", "lost"),
    [
        ((), False),
        ((UnavailableError("away"),), False),
        ((False,), True),
        ((UnavailableError("away"),) * 3, True),
        ((LookupError("a bug"),), True),
    ],
    ids=["renewed", "away for a moment", "taken by another", "away for long", "a bug"],
)
def test_who_holds_a_lease_hears_of_its_loss(answers: tuple[Any, ...], lost: bool):
    client = Client(*answers)

    async def hold() -> bool:
        async with hold_lease(client, "x", "me", SECONDS) as held:  # type: ignore[arg-type]  # has what is used
            await asyncio.sleep(SECONDS * 2)
            return held.lost.is_set()

    with structlog.testing.capture_logs(), asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(hold()) is lost
    assert client.released is not lost
