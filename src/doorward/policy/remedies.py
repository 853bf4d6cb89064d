"""What would have to change for somebody to be let in.

Each remedy is a set of criteria that would have to come out otherwise. A remedy is offered only when deciding with
those outcomes does let in, so none of them runs into a deny rule. It says what is missing, not who may grant it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

from doorward.policy.criteria import BY_NAME
from doorward.policy.criteria.port import Operand
from doorward.policy.decision import Effect
from doorward.policy.interpreter import GroupResult, Result, TermResult, combine, decide
from doorward.policy.nodes import Action, Operator, Policy, Term
from doorward.policy.phrases import describe, describe_value
from doorward.policy.truth import Truth
from doorward.source import Position

LIMIT = 5
"""Remedies that are offered; more help nobody."""
_BREADTH = 64
"""Alternatives that are followed at each group; the smallest are kept."""


@dataclass(frozen=True, slots=True)
class Change:
    """One criterion that would have to come out otherwise."""

    result: TermResult
    must_hold: bool

    def render(self) -> str:
        """``groups has admins (saw eng)``."""
        wanted = describe(self.result.term)
        known = self.result.truth not in {Truth.ANONYMOUS, Truth.UNKNOWN} or self.result.saw is not None
        saw = f" (saw {describe_value(self.result.saw)})" if known else ""
        return f"{wanted if self.must_hold else f'not: {wanted}'}{saw}"

    def to_dict(self) -> dict[str, object]:
        """For programs."""
        return {
            "criterion": self.result.term.label,
            "matchers": {str(m.comparison): [str(value) for value in m.operand] for m in self.result.term.matchers},
            "must_hold": self.must_hold,
            "saw": self.result.saw,
            "position": str(self.result.term.position),
        }


@dataclass(frozen=True, slots=True)
class Remedy:
    """Changes that together let somebody in."""

    sign_in: bool
    """Whether signing in comes first."""
    changes: tuple[Change, ...]
    """In the policy's order; empty when signing in as anybody is enough."""

    def to_dict(self) -> dict[str, object]:
        """For programs."""
        return {"sign_in": self.sign_in, "changes": [change.to_dict() for change in self.changes]}


_Plan = frozenset[tuple[int, bool]]
"""Changes by the number of their term in ``_Search.terms``."""


def find_remedies(policy: Policy, results: Sequence[Result]) -> tuple[Remedy, ...]:
    """The smallest remedies first; none when somebody is let in already, or nothing would help."""
    if decide(policy, list(results)).effect is Effect.ALLOW:
        return ()
    return _Search(policy, results).run()


class _Search:
    def __init__(self, policy: Policy, results: Sequence[Result]) -> None:
        self._policy = policy
        self._results = list(results)
        self.terms: list[TermResult] = []
        self._numbers: dict[object, int] = {}
        """One number for criteria that ask the same: they come out alike."""

    def run(self) -> tuple[Remedy, ...]:
        pairs = list(zip(self._policy.rules, self._results, strict=True))
        blocking = [
            self._plans(result, wanted=False)
            for rule, result in pairs
            if rule.action is Action.DENY and result.truth in {Truth.TRUE, Truth.UNKNOWN}
        ]
        opening = [
            plan for rule, result in pairs if rule.action is Action.ALLOW for plan in self._plans(result, wanted=True)
        ]
        found: list[Remedy] = []
        kept: list[_Plan] = []
        for plan in self._all([*blocking, _smallest(opening)]):
            if any(smaller <= plan for smaller in kept) or not self._lets_in(plan):
                continue
            kept.append(plan)
            found.append(self._remedy(plan))
            if len(found) == LIMIT:
                break
        return tuple(found)

    def _plans(self, result: Result, *, wanted: bool) -> list[_Plan]:
        """The ways to make ``result`` hold, or not hold."""
        if isinstance(result, TermResult):
            if result.truth is Truth.of(wanted):
                return [frozenset()]
            criterion = BY_NAME[result.term.criterion]
            if criterion.operand is Operand.NOTHING and not criterion.reads:
                return []  # nothing changes `accept` and `reject`
            return [frozenset({(self._number(result), wanted)})]
        if result.truth is Truth.of(wanted):
            return [frozenset()]
        members = result.members
        match result.group.operator:
            case Operator.AND | Operator.NOR:
                inner = wanted if result.group.operator is Operator.AND else not wanted
                every = result.group.operator is Operator.AND
            case _:
                inner = wanted if result.group.operator is Operator.OR else not wanted
                every = result.group.operator is not Operator.OR
        options = [self._plans(member, wanted=inner) for member in members]
        if every is wanted:
            return self._all(options)
        return _smallest(plan for option in options for plan in option)

    def _all(self, options: list[list[_Plan]]) -> list[_Plan]:
        """Every choice of one plan from each of ``options``, without those that want both outcomes of one criterion."""
        plans: list[_Plan] = [frozenset()]
        for option in options:
            joined = (first | second for first, second in islice(product(plans, option), _BREADTH * _BREADTH))
            plans = _smallest(plan for plan in joined if len({number for number, _ in plan}) == len(plan))
        return plans

    def _number(self, result: TermResult) -> int:
        key = _asked(result.term)
        if key not in self._numbers:
            self._numbers[key] = len(self.terms)
            self.terms.append(result)
        return self._numbers[key]

    def _lets_in(self, plan: _Plan) -> bool:
        changed = [self._changed(result, dict(plan)) for result in self._results]
        return decide(self._policy, changed).effect is Effect.ALLOW

    def _changed(self, result: Result, plan: dict[int, bool]) -> Result:
        if isinstance(result, TermResult):
            number = self._numbers.get(_asked(result.term))
            if number is None or number not in plan:
                return result
            return replace(result, truth=Truth.of(plan[number]), error=None)
        members = tuple(self._changed(member, plan) for member in result.members)
        return GroupResult(result.group, combine(result.group.operator, [m.truth for m in members]), members)

    def _remedy(self, plan: _Plan) -> Remedy:
        changes = [Change(self.terms[number], wanted) for number, wanted in sorted(plan)]
        sign_in = any(change.result.truth is Truth.ANONYMOUS for change in changes)
        kept = [change for change in changes if not (change.must_hold and change.result.term.criterion == _SIGNED_IN)]
        return Remedy(sign_in, tuple(kept))


_NOWHERE = Position("", 0, 0)
_SIGNED_IN = "authenticated_user"


def _asked(term: Term) -> Term:
    """The same for terms that ask the same, wherever they stand."""
    return replace(term, position=_NOWHERE)


def _smallest(plans: Iterable[_Plan]) -> list[_Plan]:
    """The distinct plans with the fewest changes, in a stable order."""
    return sorted(dict.fromkeys(plans), key=len)[:_BREADTH]
