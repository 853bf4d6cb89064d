"""What the checker calls useless may be taken away: whoever believes a warning opens nothing by it."""

from dataclasses import replace

from tests.support.policy_generator import RandomChoices, make_facts, make_group, make_policy, make_term

from doorward.policy import Effect, Facts, Policy, check_policy, compile_policy
from doorward.policy.checker.implication import Implication
from doorward.policy.interpreter import evaluate
from doorward.policy.nodes import Expression, Group, Matcher, Rule, Term
from doorward.policy.truth import Truth
from doorward.source import Position, Problems


def _neighbour(choices: RandomChoices, term: Term) -> Term:
    """Another term about the same, most often with the same values."""
    for _ in range(60):
        other = make_term(choices)
        if other.label != term.label or (other.ignore_case, other.optional) != (term.ignore_case, term.optional):
            continue
        matchers = tuple(_near(choices, matcher, term) for matcher in other.matchers)
        return replace(term, matchers=matchers)
    return term


def _near(choices: RandomChoices, matcher: Matcher, term: Term) -> Matcher:
    alike = [item.operand for item in term.matchers if item.field == matcher.field and item.comparison in _VALUES]
    if matcher.field or matcher.comparison not in _VALUES or not alike or term.criterion not in _PLAIN:
        return matcher
    operand = choices.pick(alike)
    return replace(matcher, operand=operand if matcher.comparison in _SEVERAL else operand[:1])


_SEVERAL = {"in", "not_in", "has", "exclude"}
_VALUES = _SEVERAL | {"is", "not", "contains", "starts_with", "ends_with"}
_PLAIN = {"user", "email", "domain", "groups", "claim", "http_path", "http_header", "http_query", "record", "grant"}


def _sides(choices: RandomChoices) -> tuple[Expression, Expression]:
    first = make_term(choices)
    second = _neighbour(choices, first)
    if choices.upto(3) == 0:
        operator = choices.pick(["and", "or"])
        group = make_group(choices, 0)
        return replace(group, operator=type(group.operator)(operator), members=(first, *group.members)), second
    return first, second


def _breaks(conclusion: Expression, premise: Expression, facts: Facts) -> bool:
    given, found = evaluate(premise, facts).truth, evaluate(conclusion, facts).truth
    if given is Truth.TRUE:
        return found is not Truth.TRUE
    # A deny that is unknown keeps out as well, but for people whom nobody knows where it is about people.
    return given is Truth.UNKNOWN and found is Truth.FALSE


def test_what_follows_holds_and_is_unknown_where_its_premise_is():
    followed = 0
    for seed in range(8_000):
        choices = RandomChoices(seed)
        conclusion, premise = _sides(choices)
        if choices.upto(1):
            conclusion, premise = premise, conclusion
        if not Implication().follows(conclusion, premise):
            continue
        followed += 1
        for number in range(40):
            assert not _breaks(conclusion, premise, make_facts(choices)), (seed, number, conclusion, premise)
    assert followed > 1_000, followed


def _placed(policy: Policy) -> Policy:
    """``policy`` with each rule on a line of its own."""
    rules = tuple(replace(rule, position=Position("p", line, 1)) for line, rule in enumerate(policy.rules, 1))
    return replace(policy, rules=rules)


def _useless(policy: Policy) -> list[Rule]:
    problems = Problems()
    check_policy(policy, problems)
    said = {
        problem.position.line
        for problem in problems.all
        if problem.position.file == "p" and ("adds nothing" in problem.message or "the same" in problem.message)
    }
    return [rule for rule in policy.rules if rule.position.line in said]


def test_a_rule_that_is_said_to_add_nothing_opens_nothing_when_it_is_taken_away():
    found = 0
    for seed in range(2_000):
        choices = RandomChoices(seed)
        policy = make_policy(choices)
        if not policy.rules:
            continue
        rule = choices.pick(policy.rules)
        member = choices.pick(rule.group.members)
        if isinstance(member, Term):
            near = Group(
                rule.group.operator, (_neighbour(choices, member), *rule.group.members[1:]), rule.group.position
            )
            policy = replace(policy, rules=(*policy.rules, replace(rule, group=near, name="near")))
        policy = _placed(policy)
        for useless in _useless(policy):
            found += 1
            without = replace(policy, rules=tuple(item for item in policy.rules if item is not useless))
            whole, part = compile_policy(policy), compile_policy(without)
            for _ in range(20):
                facts = make_facts(choices)
                if facts.principal is None:
                    continue  # a rule about people does not hold for nobody, whatever else it says
                before, after = whole.decide(facts).effect, part.decide(facts).effect
                assert after is not Effect.ALLOW or before is Effect.ALLOW, (seed, useless, policy, facts)
    assert found > 200, found
