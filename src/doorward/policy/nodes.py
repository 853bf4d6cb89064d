"""The tree: frozen values and nothing else."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from doorward.source import Position


class Action(StrEnum):
    """What a rule does when it holds."""

    ALLOW = "allow"
    DENY = "deny"


class Operator(StrEnum):
    """How a rule's terms combine. The words and their meaning are PPL's."""

    AND = "and"
    """Every term holds."""
    OR = "or"
    """At least one term holds."""
    NOT = "not"
    """No term holds."""
    NOR = "nor"
    """At least one term does not hold."""


class Comparison(StrEnum):
    """How a value is compared with the operator's operand."""

    IS = "is"
    NOT = "not"
    CONTAINS = "contains"
    STARTS_WITH = "starts_with"
    ENDS_WITH = "ends_with"
    IN = "in"
    NOT_IN = "not_in"
    HAS = "has"
    EXCLUDE = "exclude"
    GLOB = "glob"
    REGEX = "regex"
    LESS = "<"
    AT_MOST = "<="
    EQUALS = "="
    MORE = ">"
    AT_LEAST = ">="
    EXISTS = "exists"


class Dialect(StrEnum):
    """Whose semantics a policy follows where they differ; see the policy reference."""

    VERSION_1 = "version-1"
    PPL = "ppl"


@dataclass(frozen=True, slots=True)
class Matcher:
    """One comparison; ``operand`` holds one value, or several where a list may stand, in the compared form."""

    comparison: Comparison
    operand: tuple[str, ...]
    field: str = ""
    """The criterion's key that it stands under, for example ``san_dns``; empty for the criterion's own value."""


@dataclass(frozen=True, slots=True)
class Term:
    """One use of a criterion: all its matchers must hold."""

    criterion: str
    """The criterion's name, for example ``groups``."""
    argument: str
    """What follows the slash, for example the path in ``claim/department``; empty for most."""
    matchers: tuple[Matcher, ...]
    position: Position
    ignore_case: bool = False
    """Whether ASCII letters are compared without regard to case; operands are in lower case then."""
    optional: bool = False
    """Whether an absent value counts as one that does not match, instead of as unknown."""

    @property
    def label(self) -> str:
        """The criterion as the operator wrote it."""
        return f"{self.criterion}/{self.argument}" if self.argument else self.criterion

    def under(self, field: str) -> tuple[Matcher, ...]:
        """The matchers that stand under one of the criterion's keys."""
        return tuple(matcher for matcher in self.matchers if matcher.field == field)

    def operands(self, field: str) -> tuple[str, ...]:
        """The operands of all matchers under one of the criterion's keys."""
        return tuple(value for matcher in self.under(field) for value in matcher.operand)


@dataclass(frozen=True, slots=True)
class Group:
    """Terms and groups under one operator."""

    operator: Operator
    members: tuple["Expression", ...]
    position: Position


Expression: TypeAlias = Term | Group


@dataclass(frozen=True, slots=True)
class Rule:
    """One action with one group; a policy's rules of one action are alternatives."""

    action: Action
    group: Group
    name: str
    """Stable within the policy: the operator's, or action and running number, for example ``allow-1``."""
    position: Position


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules in the order of the text."""

    rules: tuple[Rule, ...]
    position: Position
    dialect: Dialect = Dialect.VERSION_1
    digest: str | None = field(default=None, init=False, compare=False, repr=False)
    """What ``digest_of`` has worked out; a changed copy starts without one."""

    def of(self, action: Action) -> tuple[Rule, ...]:
        """The rules with ``action``."""
        return tuple(rule for rule in self.rules if rule.action is action)


def terms(expression: Expression) -> tuple[Term, ...]:
    """Every term below ``expression``, in order."""
    if isinstance(expression, Term):
        return (expression,)
    return tuple(term for member in expression.members for term in terms(member))
