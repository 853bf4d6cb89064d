"""What is legal but wrong: found before anybody is let in by it."""

from collections.abc import Callable

from doorward.policy.criteria import BY_NAME
from doorward.policy.criteria.matching import match_string
from doorward.policy.criteria.port import Operand
from doorward.policy.nodes import Action, Comparison, Expression, Group, Matcher, Operator, Policy, Rule, Term, terms
from doorward.policy.truth import Truth, conjunction, disjunction, negation
from doorward.source import Problems

_EXACT = frozenset({Comparison.IS, Comparison.IN})


def check_policy(policy: Policy, problems: Problems) -> None:
    """Record warnings about ``policy``, which parsed without errors."""
    _check_reach(policy, problems)
    _check_duplicate_rules(policy, problems)
    for rule in policy.rules:
        _check_group(rule.group, rule.action, problems)


def _check_reach(policy: Policy, problems: Problems) -> None:
    """Rules that never, or always, hold."""
    allows, denies = policy.of(Action.ALLOW), policy.of(Action.DENY)
    for rule in denies:
        if _constant(rule.group) is Truth.TRUE:
            problems.warning(rule.position, "nobody is let in: this rule denies everyone")
            return
    if not allows:
        problems.warning(policy.position, "nobody is let in: the policy has no `allow`")
    open_rule: Rule | None = None
    for rule in policy.rules:
        constant = _constant(rule.group)
        if constant is Truth.FALSE:
            problems.warning(rule.position, f"this `{rule.action}` never holds", "correct it or remove it")
        elif rule.action is Action.ALLOW:
            if open_rule is not None:
                at = open_rule.position.line
                problems.warning(rule.position, f"this `allow` adds nothing: line {at} lets everyone in already")
            if constant is Truth.TRUE:
                open_rule = open_rule or rule


def _constant(expression: Expression) -> Truth:
    """What ``expression`` is whatever the facts, or ``UNKNOWN`` when it depends on them."""
    if isinstance(expression, Term):
        match expression.criterion:
            case "accept":
                return Truth.TRUE
            case "reject":
                return Truth.FALSE
            case _:
                return Truth.FALSE if _impossible(expression) else Truth.UNKNOWN
    values = [_constant(member) for member in expression.members]
    match expression.operator:
        case Operator.AND:
            return Truth.FALSE if _contradiction(expression) else conjunction(values)
        case Operator.OR:
            return disjunction(values)
        case Operator.NOT:
            return negation(disjunction(values))
        case Operator.NOR:
            return negation(conjunction(values))


def _contradiction(group: Group) -> Term | None:
    """The term of an ``and`` that leaves its neighbours no value of one fact, when there is one."""
    matchers: dict[str, tuple[Matcher, ...]] = {}
    for member in group.members:
        if isinstance(member, Term) and BY_NAME[member.criterion].operand is Operand.STRING:
            matchers[member.label] = matchers.get(member.label, ()) + member.matchers
            if _unsatisfiable(matchers[member.label]):
                return member
    return None


def _impossible(term: Term) -> bool:
    return BY_NAME[term.criterion].operand is Operand.STRING and _unsatisfiable(term.matchers)


def _unsatisfiable(matchers: tuple[Matcher, ...]) -> bool:
    """Whether no string satisfies all ``matchers``; told only where one of them lists whole values."""
    listed = [matcher.operand for matcher in matchers if matcher.comparison in _EXACT]
    return bool(listed) and not any(match_string(matchers, value) for value in listed[0])


def _check_duplicate_rules(policy: Policy, problems: Problems) -> None:
    seen: dict[tuple[Action, object], Rule] = {}
    for rule in policy.rules:
        first = seen.setdefault((rule.action, _shape(rule.group)), rule)
        if first is not rule:
            problems.warning(rule.position, f"the same `{rule.action}` stands on line {first.position.line}")


def _shape(expression: Expression) -> object:
    """``expression`` without its positions."""
    if isinstance(expression, Term):
        return (expression.label, expression.matchers)
    return (expression.operator, tuple(_shape(member) for member in expression.members))


def _check_group(group: Group, action: Action, problems: Problems) -> None:
    if group.operator in {Operator.NOT, Operator.NOR} and action is Action.ALLOW:
        about_people = [term for term in terms(group) if BY_NAME[term.criterion].is_identity]
        if about_people:
            problems.warning(
                about_people[0].position,
                f"`{group.operator}` with `{about_people[0].label}` lets in everyone else who is signed in",
                "say who may, not who may not",
            )
    if group.operator is Operator.AND:
        clash = _contradiction(group)
        if clash is not None:
            problems.warning(clash.position, f"`{clash.label}` cannot be two values at once", "use `or` or `in`")
    seen: set[object] = set()
    for member in group.members:
        if _shape(member) in seen:
            problems.warning(member.position, f"the same stands twice under `{group.operator}`")
        seen.add(_shape(member))
        if isinstance(member, Group):
            _check_group(member, action, problems)
        else:
            _check_term(member, problems)


def _check_term(term: Term, problems: Problems) -> None:
    check = _TERM_CHECKS.get(term.criterion)
    if check is None:
        return
    for matcher in term.matchers:
        for operand in matcher.operand:
            found = check(matcher.comparison, operand)
            if found is not None:
                problems.warning(term.position, *found)


def _check_email(comparison: Comparison, operand: str) -> tuple[str, str] | None:
    if comparison is Comparison.ENDS_WITH and "@" not in operand:
        return f"`{operand}` also ends addresses of other domains", f"use `domain: {operand.lstrip('.')}`"
    if comparison is Comparison.CONTAINS:
        return f"`{operand}` may stand anywhere in an address that its owner chose", "compare whole addresses"
    return None


def _check_domain(comparison: Comparison, operand: str) -> tuple[str, str] | None:
    if comparison is Comparison.ENDS_WITH and not operand.startswith("."):
        return f"`{operand}` also ends other domains", f"write `.{operand}`, and `is` for the domain itself"
    if comparison in {Comparison.CONTAINS, Comparison.STARTS_WITH}:
        return f"`{operand}` may stand in a domain that anybody can register", "compare whole domains"
    return None


def _check_method(_: Comparison, operand: str) -> tuple[str, str] | None:
    if operand != operand.upper():
        return f"methods are case-sensitive, and `{operand}` is none", f"write `{operand.upper()}`"
    return None


def _check_path(comparison: Comparison, operand: str) -> tuple[str, str] | None:
    anchored = comparison not in {Comparison.CONTAINS, Comparison.ENDS_WITH}
    if anchored and not operand.startswith("/"):
        return f"no path begins with `{operand}`", f"write `/{operand}`"
    if "?" in operand:
        return f"`{operand}` holds a query, which is no part of the path", "compare the part before `?`"
    return None


_TERM_CHECKS: dict[str, Callable[[Comparison, str], tuple[str, str] | None]] = {
    "email": _check_email,
    "domain": _check_domain,
    "http_method": _check_method,
    "http_path": _check_path,
}
