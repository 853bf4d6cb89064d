"""Three truths: true, false, unknown (Kleene's strong logic).

Unknown carries why: ``ANONYMOUS`` means unknown only because nobody is signed in, so that a public route with a rule
about people stays public; ``UNKNOWN`` is everything else, and denies wherever it could matter.

    and   false wins, then unknown, then anonymous, then true
    or    true wins, then unknown, then anonymous, then false
    not   swaps true and false; leaves both unknowns as they are
"""

from collections.abc import Iterable
from enum import Enum


class Truth(Enum):
    """The result of a criterion or of a combination of them."""

    FALSE = 0
    ANONYMOUS = 1
    UNKNOWN = 2
    TRUE = 3

    @staticmethod
    def of(value: bool) -> "Truth":
        """``TRUE`` or ``FALSE``."""
        return Truth.TRUE if value else Truth.FALSE


def conjunction(values: Iterable[Truth]) -> Truth:
    """All of them; ``TRUE`` for none."""
    found = set(values)
    for value in (Truth.FALSE, Truth.UNKNOWN, Truth.ANONYMOUS):
        if value in found:
            return value
    return Truth.TRUE


def disjunction(values: Iterable[Truth]) -> Truth:
    """Any of them; ``FALSE`` for none."""
    found = set(values)
    for value in (Truth.TRUE, Truth.UNKNOWN, Truth.ANONYMOUS):
        if value in found:
            return value
    return Truth.FALSE


def negation(value: Truth) -> Truth:
    """The opposite; what is unknown stays so."""
    if value is Truth.TRUE:
        return Truth.FALSE
    return Truth.TRUE if value is Truth.FALSE else value
