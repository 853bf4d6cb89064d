"""The tree becomes nested closures: the form that the decision path runs.

What can be known beforehand is done beforehand: neighbours are merged, operands are hashed, a group's outcome is found
without building lists, and decisions to let in or to ask for sign-in are ready made. The reasons of a refusal take one
look at each criterion. Where reasons are more involved, they come from the interpreter.
"""

import hashlib
from typing import TypeAlias

from doorward.policy.criteria import BY_NAME
from doorward.policy.criteria.port import Test
from doorward.policy.decision import NO_RULE, POLICY_ERROR, UNAUTHENTICATED, Decision, Effect
from doorward.policy.facts import Facts
from doorward.policy.interpreter import interpret_policy
from doorward.policy.merging import merge
from doorward.policy.nodes import Action, Expression, Group, Matcher, Operator, Policy, Rule, Term, terms
from doorward.policy.printer import print_policy
from doorward.policy.truth import Truth

_TRUE, _FALSE, _UNKNOWN, _ANONYMOUS = Truth.TRUE, Truth.FALSE, Truth.UNKNOWN, Truth.ANONYMOUS

_Alternatives: TypeAlias = tuple[tuple[Test, Decision], ...]
_Probes: TypeAlias = tuple[tuple[tuple[Test, ...], dict[Truth, str]], ...]


class CompiledPolicy:
    """A policy ready to decide. Immutable and free of side effects; safe to share.

    Attributes:
        policy: the tree that it was made of.
        reads: names of the facts that a decision may depend on (``Fact``; claims with path, as ``claim/department``).
        digest: hash of the canonical text; equal digests decide alike.
    """

    __slots__ = ("_allows", "_denies", "_merged", "_probes", "digest", "policy", "reads")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.reads = _reads(policy)
        self.digest = hashlib.sha256(print_policy(policy).encode()).hexdigest()[:32]
        self._merged = merge(policy)
        self._denies = tuple((_closure(rule.group), _alone(rule)) for rule in self._merged.of(Action.DENY))
        self._allows = tuple(
            (_closure(rule.group), *_ready(rule), _sign_in(rule), _alone(rule))
            for rule in self._merged.of(Action.ALLOW)
        )
        self._probes: _Probes | None = _probes(self._merged)

    def decide(self, facts: Facts) -> Decision:
        """The decision for ``facts``. Never raises: whatever goes wrong denies."""
        try:
            for deny, alone in self._denies:
                truth = deny(facts)
                if truth is _TRUE or truth is _UNKNOWN:
                    return interpret_policy(alone, facts)
            pending: Decision | None = None
            for allow, decision, alternatives, sign_in, alone in self._allows:
                truth = allow(facts)
                if truth is _TRUE:
                    if decision is not None:
                        return decision
                    for test, alternative in alternatives:
                        if test(facts) is _TRUE:
                            return alternative
                    return interpret_policy(alone, facts)
                if truth is _ANONYMOUS and pending is None:
                    pending = sign_in
            return pending or self._refuse(facts)
        except Exception:
            # A criterion that fails is unknown, and only the interpreter looks at terms one by one.
            return _interpreted(self.policy, facts)

    def _refuse(self, facts: Facts) -> Decision:
        """The denial when no rule decided."""
        if self._probes is None:
            return interpret_policy(self._merged, facts)
        reasons: set[str] = set()
        for tests, words in self._probes:
            for test in tests:
                truth = test(facts)
                if truth is not _TRUE:
                    reasons.add(words[truth])
                    break
        return Decision(effect=Effect.DENY, reasons=tuple(sorted(reasons)) or (NO_RULE,))


def compile_policy(policy: Policy) -> CompiledPolicy:
    """``policy`` ready to decide."""
    return CompiledPolicy(policy)


def _interpreted(policy: Policy, facts: Facts) -> Decision:
    try:
        return interpret_policy(policy, facts)
    except Exception:
        # Not even the reference could decide: a bug here must deny, not end the request in an error that lets through.
        return Decision(effect=Effect.DENY, reasons=(POLICY_ERROR,))


def _reads(policy: Policy) -> frozenset[str]:
    found: set[str] = set()
    for rule in policy.rules:
        for term in terms(rule.group):
            found |= BY_NAME[term.criterion].reads_of(term)
    return frozenset(found)


def _alone(rule: Rule) -> Policy:
    """A policy of just ``rule``, for the reasons of a decision that is known to be its."""
    return Policy((rule,), rule.position)


def _probes(policy: Policy) -> _Probes | None:
    """For each criterion the tests of the allow rules, with the reason for each outcome but ``TRUE``.

    One test that does not hold gives the criterion's reason: whether a criterion is unknown does not depend on its
    matchers. ``None`` when a rule is more than terms under ``and`` or ``or``, whose reasons cannot be told this way.
    """
    found: dict[str, tuple[dict[tuple[Matcher, ...], Test], dict[Truth, str]]] = {}
    for rule in policy.of(Action.ALLOW):
        if rule.group.operator not in {Operator.AND, Operator.OR}:
            return None
        for member in rule.group.members:
            if not isinstance(member, Term):
                return None
            criterion = BY_NAME[member.criterion]
            words = {_FALSE: criterion.failure, _UNKNOWN: criterion.unknown, _ANONYMOUS: UNAUTHENTICATED}
            tests, _ = found.setdefault(member.label, ({}, words))
            tests[member.matchers] = criterion.prepare(member)
    return tuple((tuple(tests.values()), words) for tests, words in found.values())


def _sign_in(rule: Rule) -> Decision:
    return Decision(effect=Effect.SIGN_IN, reasons=(UNAUTHENTICATED,), rule=rule.name)


def _ready(rule: Rule) -> tuple[Decision | None, _Alternatives]:
    """The decision when ``rule`` lets somebody in; or one for each member of its ``or``, of which the first counts.

    Neither when the reasons depend on more than that.
    """
    reasons = _fixed_reasons(rule.group)
    if reasons is not None:
        return _allow(rule, reasons), ()
    if rule.group.operator is not Operator.OR:
        return None, ()
    alternatives: list[tuple[Test, Decision]] = []
    for member in rule.group.members:
        reasons = _fixed_reasons(member)
        if reasons is None:
            return None, ()
        alternatives.append((_closure(member), _allow(rule, reasons)))
    return None, tuple(alternatives)


def _allow(rule: Rule, reasons: frozenset[str]) -> Decision:
    return Decision(effect=Effect.ALLOW, reasons=tuple(sorted(reasons)), rule=rule.name)


def _fixed_reasons(expression: Expression) -> frozenset[str] | None:
    """The reasons whenever ``expression`` holds, or ``None`` when they depend on the facts."""
    if isinstance(expression, Term):
        return frozenset({BY_NAME[expression.criterion].success})
    parts = [_fixed_reasons(member) for member in expression.members]
    match expression.operator:
        case Operator.AND:
            known = [part for part in parts if part is not None]
            return frozenset().union(*known) if len(known) == len(parts) else None
        case Operator.OR:
            return parts[0] if len(set(parts)) == 1 else None
        case Operator.NOT:
            return _fixed_failures(expression)
        case Operator.NOR:
            return _fixed_failures(expression) if len(parts) == 1 else None


def _fixed_failures(group: Group) -> frozenset[str] | None:
    """The reasons why none of the members holds, when they are all terms."""
    failures = {BY_NAME[member.criterion].failure for member in group.members if isinstance(member, Term)}
    return frozenset(failures) if all(isinstance(member, Term) for member in group.members) else None


def _closure(expression: Expression) -> Test:
    if isinstance(expression, Term):
        return BY_NAME[expression.criterion].prepare(expression)
    tests = tuple(_closure(member) for member in expression.members)
    match expression.operator:
        case Operator.AND:
            return tests[0] if len(tests) == 1 else _all(tests)
        case Operator.OR:
            return tests[0] if len(tests) == 1 else _any(tests)
        case Operator.NOT:
            return _opposite(_any(tests))
        case Operator.NOR:
            return _opposite(_all(tests))


def _all(tests: tuple[Test, ...]) -> Test:
    def run(facts: Facts) -> Truth:
        outcome = _TRUE
        for test in tests:
            truth = test(facts)
            if truth is _FALSE:
                return _FALSE
            if truth is _UNKNOWN or (truth is _ANONYMOUS and outcome is _TRUE):
                outcome = truth
        return outcome

    return run


def _any(tests: tuple[Test, ...]) -> Test:
    def run(facts: Facts) -> Truth:
        outcome = _FALSE
        for test in tests:
            truth = test(facts)
            if truth is _TRUE:
                return _TRUE
            if truth is _UNKNOWN or (truth is _ANONYMOUS and outcome is _FALSE):
                outcome = truth
        return outcome

    return run


def _opposite(test: Test) -> Test:
    def run(facts: Facts) -> Truth:
        truth = test(facts)
        if truth is _TRUE:
            return _FALSE
        return _TRUE if truth is _FALSE else truth

    return run
