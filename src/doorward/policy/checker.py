"""What is legal but wrong, or cannot be right: found before anybody is let in by it."""

from doorward.policy.criteria import BY_NAME
from doorward.policy.nodes import Action, Comparison, Expression, Group, Operator, Policy, Term, terms
from doorward.source import Problems


def check_policy(policy: Policy, problems: Problems) -> None:
    """Record warnings about ``policy``, which parsed without errors."""
    if not policy.of(Action.ALLOW):
        problems.warning(policy.position, "nobody is let in: the policy has no `allow`")
    for rule in policy.rules:
        _check_group(rule.group, rule.action, problems)


def _check_group(group: Group, action: Action, problems: Problems) -> None:
    if group.operator in {Operator.NOT, Operator.NOR} and action is Action.ALLOW:
        about_people = [term for term in terms(group) if BY_NAME[term.criterion].is_identity]
        if about_people:
            problems.warning(
                about_people[0].position,
                f"`{group.operator}` with `{about_people[0].label}` lets in everyone else",
                "say who may, not who may not",
            )
    if group.operator is Operator.AND:
        _check_contradiction(group, problems)
    for member in group.members:
        if isinstance(member, Group):
            _check_group(member, action, problems)
        else:
            _check_term(member, problems)


def _check_contradiction(group: Group, problems: Problems) -> None:
    """Two exact values of one single-valued fact can never both hold."""
    seen: dict[str, str] = {}
    for member in group.members:
        value = _exact(member)
        if value is None or not isinstance(member, Term):
            continue
        if seen.setdefault(member.label, value) != value:
            problems.warning(member.position, f"`{member.label}` cannot be two values at once", "use `or` or `in`")


def _exact(member: Expression) -> str | None:
    if not isinstance(member, Term) or member.criterion in {"groups", "claim"}:
        return None
    for matcher in member.matchers:
        if matcher.comparison is Comparison.IS:
            return matcher.operand[0]
    return None


def _check_term(term: Term, problems: Problems) -> None:
    for matcher in term.matchers:
        operand = matcher.operand[0]
        if term.criterion == "email" and matcher.comparison is Comparison.ENDS_WITH and "@" not in operand:
            problems.warning(
                term.position,
                f"`{operand}` also ends addresses of other domains",
                f"use `domain: {operand.lstrip('.')}`",
            )
        if term.criterion == "http_method" and operand != operand.upper():
            problems.warning(term.position, f"methods are case-sensitive; `{operand}` is not `{operand.upper()}`")
        if term.criterion == "http_path" and matcher.comparison in {Comparison.IS, Comparison.STARTS_WITH}:
            if not operand.startswith("/"):
                problems.warning(term.position, f"no path begins with `{operand}`", f"write `/{operand}`")
            elif "?" in operand:
                problems.warning(term.position, "a path holds no query", "compare the part before `?`")
