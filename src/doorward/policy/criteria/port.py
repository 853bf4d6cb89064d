"""What a criterion is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TypeAlias

from doorward.policy.facts import Facts
from doorward.policy.nodes import Comparison, Matcher, Term
from doorward.policy.truth import Truth


class Operand(Enum):
    """What may stand behind a criterion's name."""

    NOTHING = "nothing"
    """``true``, or nothing; ``false`` is refused, because it would be misread."""
    STRING = "string"
    """A string, or a mapping of string matchers."""
    STRINGS = "strings"
    """A string, or a mapping of string-list matchers."""
    KEYS = "keys"
    """A mapping of the criterion's own keys; some also take a plain value or ``true``."""


class Fact(StrEnum):
    """The names of facts, as policies declare to read them."""

    PRINCIPAL = "principal"
    """Whether somebody is signed in, and their id."""
    EMAIL = "email"
    GROUPS = "groups"
    CLAIM = "claim"
    """Declared with the claim's path: ``claim/department``."""
    AUTHENTICATION = "authentication"
    """When, how and at which identity provider somebody signed in."""
    DEVICES = "devices"
    GRANTS = "grants"
    RECORD = "record"
    """Declared with the record's type: ``record/contractor``."""
    METHOD = "http_method"
    PATH = "http_path"
    HOST = "http_host"
    HEADER = "http_header"
    """Declared with the header's name in lower case: ``http_header/x-team``."""
    QUERY = "http_query"
    """Declared with the parameter's name: ``http_query/tenant``."""
    CLIENT_ADDRESS = "client_address"
    CLIENT_CERTIFICATE = "client_certificate"
    ROUTE = "route"
    TIME = "time"
    """Decisions change as time passes; ``next_change`` says when."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a criterion found: its truth and the value that it saw, for explanations."""

    truth: Truth
    saw: object


Test: TypeAlias = Callable[[Facts], Truth]
"""A criterion specialised to one term. May raise: whoever calls it takes that for unknown."""


class Kind(Enum):
    """Which scalars an operand may be written as."""

    TEXT = "text"
    """A string."""
    WORD = "word"
    """A string, or a number or truth value that is compared as its text."""
    NUMBER = "number"
    """A number, or a string that is one."""
    BOOLEAN = "boolean"
    """``true`` or ``false``."""


class Several(Enum):
    """How many operands a matcher takes."""

    ONE = "one"
    SOME = "some"
    """One, or a list."""
    LIST = "list"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """How the operand of one comparison is written."""

    canonical: Callable[[str], str]
    """The operand in the compared form; raises ``ValueError`` that says what was expected."""
    ppl: Callable[[str], str] | None = None
    """The same for PPL's documents, where it is more lenient."""
    kind: Kind = Kind.TEXT
    several: Several = Several.ONE
    words: tuple[str, ...] = ()
    """Everything that may stand there, when that is a short list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What may stand under one of a criterion's keys; the key ``""`` is the criterion's own value."""

    comparisons: Mapping[Comparison, Parameter]
    default: Comparison
    """What a plain value stands for."""
    summary: str = ""
    """For the reference: what the key compares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One criterion of the language. ``prepare`` and ``find`` must agree; property tests hold them to it.

    Whether the result of ``is``, ``in`` and ``has`` is unknown must depend on criterion, argument and facts alone,
    never on the operand: the compiler relies on it when it merges neighbours.
    """

    name: str
    operand: Operand
    summary: str
    """One sentence for the reference."""
    detail: str = ""
    """More for the reference."""
    example: str
    """One line of YAML: a term that uses it."""
    cases: str = ""
    """For the reference: a block of YAML with a policy and the decisions that it makes, which tests run."""
    reads: frozenset[Fact]
    also_reads: frozenset[str] = frozenset()
    """Facts with an argument that every term reads: ``http_header/origin``."""
    success: str
    """Reason when it holds."""
    failure: str
    """Reason when it does not."""
    unknown: str
    """Reason when that cannot be told."""
    keys: Mapping[str, Key] = field(default_factory=dict)
    takes_argument: bool = False
    """Whether a path may follow the name behind a slash."""
    argument_optional: bool = False
    argument: Callable[[str], str] = str
    """The argument in the compared form; raises ``ValueError`` that says what was expected."""
    may_be_absent: bool = False
    """Whether a term may say ``optional: true``."""
    folds_case: bool = False
    """Whether a term may say ``ignore_case: true``."""
    unknown_by_facts_alone: bool = True
    """Whether the facts alone say whether a term is unknown, whatever its matchers (numbers and ``exists`` apart)."""
    takes_true: bool = False
    """Whether ``true`` may stand for "any"; always so with ``Operand.NOTHING``."""
    in_ppl: bool = False
    """Whether it is one of PPL's."""
    check: Callable[[tuple[Matcher, ...]], str | None] = lambda _: None
    """What is wrong with a term's matchers together, if anything."""
    prepare: Callable[[Term], Test]
    """The fast form: everything that depends only on the term is done once."""
    find: Callable[[Term, Facts], Finding]
    """The slow and obvious form."""
    next_change: Callable[[Term, Facts], float | None] | None = None
    """The earliest time after ``facts.now`` at which the result may differ, all other facts staying; ``None``: never.

    Too early is allowed, too late is not.
    """

    @property
    def is_identity(self) -> bool:
        """Whether it is about somebody who must be signed in."""
        return Fact.PRINCIPAL in self.reads

    def reads_of(self, term: Term) -> frozenset[str]:
        """The facts that ``term`` looks at."""
        return self.also_reads.union(_declared(fact, term) for fact in self.reads)


def _declared(fact: Fact, term: Term) -> str:
    match fact:
        case Fact.CLAIM | Fact.QUERY | Fact.HEADER:
            return f"{fact}/{term.argument}"
        case Fact.RECORD:
            return f"{fact}/{term.operands('type')[0]}"
        case _:
            return str(fact)
