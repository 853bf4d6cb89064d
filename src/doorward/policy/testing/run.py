"""Cases against policies: what came out, beside what was wanted."""

from collections.abc import Iterable
from dataclasses import dataclass

from doorward.policy.compiler import CompiledPolicy, compile_policy
from doorward.policy.decision import Decision
from doorward.policy.interpreter import interpret_policy
from doorward.policy.nodes import Policy
from doorward.policy.testing.suite import Case


@dataclass(frozen=True, slots=True)
class Outcome:
    """One case with what became of it."""

    case: Case
    decision: Decision
    failures: tuple[str, ...]
    """What is not as wanted, a sentence each; empty when the case passes."""

    @property
    def passed(self) -> bool:
        """Whether everything is as wanted."""
        return not self.failures


def run_cases(cases: Iterable[Case]) -> list[Outcome]:
    """Every case, decided by what decides in production: the compiled form."""
    compiled: dict[int, CompiledPolicy] = {}
    outcomes = []
    for case in cases:
        policy = compiled.get(id(case.target.policy))
        if policy is None:
            policy = compiled[id(case.target.policy)] = compile_policy(case.target.policy)
        outcomes.append(run_case(case, policy))
    return outcomes


def run_case(case: Case, policy: CompiledPolicy) -> Outcome:
    """``case`` decided by ``policy``.

    The reference interpreter is asked too: a test that passes must not rest on the two of them disagreeing.
    """
    decision = policy.decide(case.facts)
    failures = differences(case, decision)
    if interpret_policy(policy.policy, case.facts) != decision:
        failures.append("the compiled policy and the reference disagree; this is a bug in Doorward")
    return Outcome(case, decision, tuple(failures))


def differences(case: Case, decision: Decision) -> list[str]:
    """How ``decision`` differs from what ``case`` wants."""
    found = []
    if decision.effect is not case.effect:
        found.append(f"wanted {case.effect}, got {decision.effect}")
    if case.reasons is not None and set(case.reasons) != set(decision.reasons):
        found.append(f"wanted the reasons {', '.join(case.reasons)}; got {', '.join(decision.reasons) or 'none'}")
    if case.rule is not None and case.rule != decision.rule:
        found.append(f"wanted the rule {case.rule}, got {decision.rule or 'none'}")
    return found


def by_policy(outcomes: Iterable[Outcome]) -> list[tuple[Policy, list[Outcome]]]:
    """The outcomes of each policy, in order; a policy that several routes share stands once."""
    found: dict[int, tuple[Policy, list[Outcome]]] = {}
    for outcome in outcomes:
        policy = outcome.case.target.policy
        found.setdefault(id(policy), (policy, []))[1].append(outcome)
    return list(found.values())
