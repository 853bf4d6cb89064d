"""What a directory has to do: tell everything it holds, or fail.

Implementations are in ``sources``; each must pass ``tests/conformance/test_directories.py``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from doorward.errors import DoorwardError
from doorward_databroker.directory.roster import Roster


class DirectoryError(DoorwardError):
    """A directory was not read; nothing of it is used."""


class DirectoryUnavailableError(DirectoryError):
    """It does not answer, or answers nonsense: try again later."""


class DirectoryRefusedError(DirectoryError):
    """It does not let us read: the operator has to act."""


class RemovalsRefusedError(DirectoryError):
    """More has vanished than can be meant; the operator may say that it is."""


class Phase(Enum):
    """What is being done with a directory."""

    WAITING = "waiting"
    READING_USERS = "reading users"
    READING_GROUPS = "reading groups"
    WRITING = "writing"
    ELSEWHERE = "elsewhere"


@dataclass(slots=True)
class Progress:
    """How far it is; read by whoever wants to know."""

    phase: Phase = Phase.WAITING
    done: int = 0
    total: int = 0

    def enter(self, phase: Phase, total: int = 0) -> None:
        """Begin a phase; ``total`` is 0 when it is not known."""
        self.phase, self.done, self.total = phase, 0, total


class Source(Protocol):
    """One directory. Concurrency: one ``read`` at a time."""

    async def read(self, roster: Roster, progress: Progress) -> None:
        """Put every person, group and membership into ``roster``.

        Returns only when all of it was read: a page that fails, ends early or does not parse raises.

        Raises:
            DirectoryUnavailableError: no or no usable answer.
            DirectoryRefusedError: credentials or rights are wrong.
        """
        ...


MakeSource = Callable[[], Source]
