"""What a criterion is."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TypeAlias

from doorward.policy.facts import Facts
from doorward.policy.nodes import Term
from doorward.policy.truth import Truth


class Operand(Enum):
    """What may stand behind a criterion's name."""

    NOTHING = "nothing"
    """``true``, or nothing; ``false`` is refused, because it would be misread."""
    STRING = "string"
    """A string, or a mapping of string matchers."""
    STRINGS = "strings"
    """A string, or a mapping of string-list matchers."""


class Fact(StrEnum):
    """The names of facts, as policies declare to read them."""

    PRINCIPAL = "principal"
    """Whether somebody is signed in, and their id."""
    EMAIL = "email"
    GROUPS = "groups"
    CLAIM = "claim"
    """Declared with the claim's path: ``claim/department``."""
    METHOD = "http_method"
    PATH = "http_path"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a criterion found: its truth and the value that it saw, for explanations."""

    truth: Truth
    saw: object


Test: TypeAlias = Callable[[Facts], Truth]
"""A criterion specialised to one term. May raise: whoever calls it takes that for unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One criterion of the language. ``prepare`` and ``find`` must agree; property tests hold them to it.

    Whether the result is unknown must depend on criterion, argument and facts alone, never on the matchers: the
    compiler relies on it when it merges neighbours.
    """

    name: str
    operand: Operand
    summary: str
    """One sentence for the reference."""
    example: str
    """One line of YAML: a term that uses it."""
    reads: frozenset[Fact]
    success: str
    """Reason when it holds."""
    failure: str
    """Reason when it does not."""
    unknown: str
    """Reason when that cannot be told."""
    takes_argument: bool = False
    """Whether a path follows the name behind a slash."""
    prepare: Callable[[Term], Test]
    """The fast form: everything that depends only on the term is done once."""
    find: Callable[[Term, Facts], Finding]
    """The slow and obvious form."""
    whole: Callable[[str], str | None] | None = None
    """Brings operands of whole-value comparisons into the compared form; ``None`` refuses one."""
    piece: Callable[[str], str | None] | None = None
    """The same for operands that are pieces of a value."""

    @property
    def is_identity(self) -> bool:
        """Whether it is about somebody who must be signed in."""
        return Fact.PRINCIPAL in self.reads

    def reads_of(self, term: Term) -> frozenset[str]:
        """The facts that ``term`` looks at."""
        return frozenset(f"{fact}/{term.argument}" if fact is Fact.CLAIM else str(fact) for fact in self.reads)
