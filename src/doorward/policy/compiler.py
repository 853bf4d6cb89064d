"""The tree becomes nested closures: the form that the decision path runs.

What can be known beforehand is done beforehand: neighbours are merged, operands are hashed, a group's outcome is found
without building lists, and decisions to let in or to ask for sign-in are ready made. The reasons of a refusal take one
look at each criterion. Where reasons are more involved, they come from the interpreter.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import TypeAlias

from doorward.policy.criteria import BY_NAME
from doorward.policy.criteria.matching import NUMERIC_COMPARISONS
from doorward.policy.criteria.port import Test
from doorward.policy.decision import NO_RULE, POLICY_ERROR, UNAUTHENTICATED, Decision, Effect
from doorward.policy.facts import Facts
from doorward.policy.interpreter import interpret_policy
from doorward.policy.merging import merge
from doorward.policy.nodes import Action, Comparison, Dialect, Expression, Group, Operator, Policy, Rule, Term, terms
from doorward.policy.ppl import AnonymousRule, decide_anonymous
from doorward.policy.printer import digest_of
from doorward.policy.run_index import SMALLEST_RUN, RunIndex, is_indexable
from doorward.policy.step_up import step_up_terms, with_step_up
from doorward.policy.truth import Truth

_TRUE, _FALSE, _UNKNOWN, _ANONYMOUS = Truth.TRUE, Truth.FALSE, Truth.UNKNOWN, Truth.ANONYMOUS

_Alternatives: TypeAlias = tuple[tuple[Test, Decision], ...]
_Probes: TypeAlias = tuple[tuple[tuple[Test, ...], dict[Truth, str]], ...]
_Allow: TypeAlias = tuple[Test, Decision | None, RunIndex | None, _Alternatives, Decision, Policy]
_Deny: TypeAlias = tuple[Test, tuple[tuple[Test, Policy], ...]]


class CompiledPolicy:
    """A policy ready to decide. Safe to share: what it remembers changes no answer.

    Attributes:
        policy: the tree that it was made of.
        reads: names of the facts that a decision may depend on (``Fact``; some with path, as ``claim/department``).
        digest: hash of the canonical text; equal digests decide alike.
    """

    __slots__ = (
        "_allows",
        "_anonymous",
        "_clocked",
        "_denies",
        "_merged",
        "_probes",
        "_ready",
        "_steps_up",
        "digest",
        "policy",
        "reads",
    )

    def __init__(self, policy: Policy, alike: "CompiledPolicy | None" = None) -> None:
        """``alike`` has the same digest: what was made for it serves this one too, whose text stands elsewhere."""
        self.policy = policy
        self.digest = digest_of(policy)
        if alike is not None:
            for name in self.__slots__:
                if name not in {"policy", "digest"}:
                    setattr(self, name, getattr(alike, name))
            return
        every = tuple(term for rule in policy.rules for term in terms(rule.group))
        self.reads = frozenset[str]().union(*(BY_NAME[term.criterion].reads_of(term) for term in every))
        self._clocked = tuple(
            (change, term) for term in every if (change := BY_NAME[term.criterion].next_change) is not None
        )
        self._steps_up = bool(step_up_terms(policy))
        self._merged = merge(policy)
        self._denies = tuple(_denies(self._merged.of(Action.DENY)))
        self._allows = tuple(_allows(self._merged.of(Action.ALLOW)))
        self._ready = {decision.rule: decision for _, decision, *_ in self._allows if decision is not None}
        self._probes: _Probes | None = _probes(self._merged)
        self._anonymous: tuple[AnonymousRule, ...] = ()
        if policy.dialect is Dialect.PPL:
            self._anonymous = tuple(
                AnonymousRule(rule, tuple(_closure(member) for member in rule.group.members)) for rule in policy.rules
            )

    def decide(self, facts: Facts) -> Decision:
        """The decision for ``facts``. Never raises: whatever goes wrong denies."""
        try:
            if self._anonymous and facts.principal is None:
                return self._decide_as_ppl(facts)
            decision = self._decide(facts)
            if self._steps_up and decision.effect is Effect.DENY:
                return with_step_up(self.policy, facts, decision, self._decide_or_interpret)
            return decision
        except Exception:
            # A criterion that fails is unknown, and only the interpreter looks at terms one by one.
            return _interpreted(self.policy, facts)

    def next_change(self, facts: Facts) -> float | None:
        """The earliest time after ``facts.now`` at which the decision may differ while all other facts stay.

        ``None``: never. It may be too early, never too late. Never raises: what goes wrong is asked again in a second.
        """
        if not self._clocked:
            return None
        try:
            found = [moment for change, term in self._clocked if (moment := change(term, facts)) is not None]
        except Exception:
            # Whoever holds a decision open must not be left without an end to it.
            return facts.now + 1.0
        return min(found, default=None)

    def _decide(self, facts: Facts) -> Decision:
        for deny, rules in self._denies:
            truth = deny(facts)
            if truth is _TRUE or truth is _UNKNOWN:
                for test, alone in rules:
                    truth = test(facts)
                    if truth is _TRUE or truth is _UNKNOWN:
                        return interpret_policy(alone, facts)
        pending: Decision | None = None
        for allow, decision, index, alternatives, sign_in, alone in self._allows:
            truth = allow(facts)
            if truth is _TRUE:
                if decision is not None:
                    return decision
                if index is not None:
                    return index.decision(facts)
                for test, alternative in alternatives:
                    if test(facts) is _TRUE:
                        return alternative
                return interpret_policy(alone, facts)
            if truth is _ANONYMOUS and pending is None:
                pending = sign_in
        return pending or self._refuse(facts)

    def _decide_or_interpret(self, facts: Facts) -> Decision:
        """For facts that were made stronger: a criterion that fails may be met only now."""
        try:
            return self._decide(facts)
        except Exception:
            return _interpreted(self.policy, facts)

    def _decide_as_ppl(self, facts: Facts) -> Decision:
        effect, rule = decide_anonymous(self._anonymous, facts)
        if effect is Effect.SIGN_IN and rule is not None:
            return _sign_in(rule)
        if effect is Effect.ALLOW and rule is not None and rule.name in self._ready:
            return self._ready[rule.name]
        return interpret_policy(self._merged, facts)

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


def compile_policy(policy: Policy, known: Mapping[str, CompiledPolicy] | None = None) -> CompiledPolicy:
    """``policy`` ready to decide; quick when ``known``, by digest, has one that decides alike."""
    return CompiledPolicy(policy, None if known is None else known.get(digest_of(policy)))


def _denies(rules: tuple[Rule, ...]) -> Iterator[_Deny]:
    """Each deny rule, or a run of them, with what to ask one by one when it is true or unknown."""
    for run, index in _runs(rules):
        each = tuple((_closure(rule.group), _alone(rule)) for rule in run)
        yield (each[0][0] if index is None else index.test), each


def _allows(rules: tuple[Rule, ...]) -> Iterator[_Allow]:
    for run, index in _runs(rules):
        rule = run[0]
        if index is None:
            yield _closure(rule.group), *_ready(rule), _sign_in(rule), _alone(rule)
        else:
            yield index.test, None, index, (), _sign_in(rule), _alone(rule)


def _runs(rules: tuple[Rule, ...]) -> Iterator[tuple[tuple[Rule, ...], RunIndex | None]]:
    """The rules one by one, but neighbours that one index can hold together."""
    for indexable, neighbours in groupby(rules, is_indexable):
        run = tuple(neighbours)
        if indexable and len(run) >= SMALLEST_RUN:
            yield run, RunIndex(run)
        else:
            for rule in run:
                yield (rule,), None


def _interpreted(policy: Policy, facts: Facts) -> Decision:
    try:
        return interpret_policy(policy, facts)
    except Exception:
        # Not even the reference could decide: a bug here must deny, not end the request in an error that lets through.
        return Decision(effect=Effect.DENY, reasons=(POLICY_ERROR,))


def _alone(rule: Rule) -> Policy:
    """A policy of just ``rule``, for the reasons of a decision that is known to be its."""
    return Policy((rule,), rule.position)


def _probes(policy: Policy) -> _Probes | None:
    """For each criterion the tests of the allow rules, with the reason for each outcome but ``TRUE``.

    One test that does not hold gives the criterion's reason where unknown does not depend on the matchers; terms of which
    that is not true are asked one by one. ``None`` when a rule is more than terms under ``and`` or ``or``, whose reasons
    cannot be told this way.
    """
    found: dict[object, tuple[dict[Term, Test], dict[Truth, str]]] = {}
    for rule in policy.of(Action.ALLOW):
        if rule.group.operator not in {Operator.AND, Operator.OR}:
            return None
        for member in rule.group.members:
            if not isinstance(member, Term):
                return None
            criterion = BY_NAME[member.criterion]
            words = {_FALSE: criterion.failure, _UNKNOWN: criterion.unknown, _ANONYMOUS: UNAUTHENTICATED}
            term = replace(member, position=policy.position)
            tests, _ = found.setdefault(member.label if _is_simple(member) else term, ({}, words))
            tests[term] = criterion.prepare(member)
    return tuple((tuple(tests.values()), words) for tests, words in found.values())


_SIMPLE = frozenset(Comparison) - NUMERIC_COMPARISONS - {Comparison.EXISTS}


def _is_simple(term: Term) -> bool:
    """Whether its facts alone say whether the term is unknown."""
    if term.optional or not BY_NAME[term.criterion].unknown_by_facts_alone:
        return False
    return all(not m.field and m.comparison in _SIMPLE for m in term.matchers)


def _sign_in(rule: Rule) -> Decision:
    return Decision(effect=Effect.SIGN_IN, reasons=(UNAUTHENTICATED,), rule=rule.name)


def _ready(rule: Rule) -> tuple[Decision | None, None, _Alternatives]:
    """The decision when ``rule`` lets somebody in; or one for each member of its ``or``, of which the first counts.

    Neither when the reasons depend on more than that.
    """
    reasons = _fixed_reasons(rule.group)
    if reasons is not None:
        return _allow(rule, reasons), None, ()
    if rule.group.operator is not Operator.OR:
        return None, None, ()
    alternatives: list[tuple[Test, Decision]] = []
    for member in rule.group.members:
        reasons = _fixed_reasons(member)
        if reasons is None:
            return None, None, ()
        alternatives.append((_closure(member), _allow(rule, reasons)))
    return None, None, tuple(alternatives)


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
