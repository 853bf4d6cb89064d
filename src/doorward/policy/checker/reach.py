"""Rules that never hold, always hold, add nothing, or are kept from holding."""

from doorward.policy.checker.implication import Implication, exclusive, shape
from doorward.policy.criteria import BY_NAME
from doorward.policy.nodes import Action, Expression, Group, Operator, Policy, Rule, Term, terms
from doorward.policy.truth import Truth, conjunction, disjunction, negation
from doorward.source import Problems


def check_reach(policy: Policy, problems: Problems) -> None:
    """Record rules and groups of ``policy`` that cannot do what they say."""
    _check_constants(policy, problems)
    _check_rules_against_each_other(policy, problems)
    for rule in policy.rules:
        _check_group(rule.group, rule.action, problems)


def _check_constants(policy: Policy, problems: Problems) -> None:
    """Rules that never, or always, hold."""
    allows, denies = policy.of(Action.ALLOW), policy.of(Action.DENY)
    for rule in denies:
        if constant(rule.group) is Truth.TRUE:
            problems.warning(rule.position, "nobody is let in: this rule denies everyone")
            return
    if not allows:
        problems.warning(policy.position, "nobody is let in: the policy has no `allow`")
    elif all(constant(rule.group) is Truth.FALSE for rule in allows):
        problems.warning(policy.position, "nobody is let in: no `allow` can hold")
    open_rule: Rule | None = None
    for rule in policy.rules:
        value = constant(rule.group)
        if value is Truth.FALSE:
            problems.warning(rule.position, f"this `{rule.action}` never holds", "correct it or remove it")
        elif rule.action is Action.ALLOW:
            if open_rule is not None:
                at = open_rule.position.line
                problems.warning(rule.position, f"this `allow` adds nothing: line {at} lets everyone in already")
            if value is Truth.TRUE:
                open_rule = open_rule or rule


def constant(expression: Expression) -> Truth:
    """What ``expression`` is whatever the facts, or ``UNKNOWN`` when it depends on them or is not told here."""
    if isinstance(expression, Term):
        match expression.criterion:
            case "accept":
                return Truth.TRUE
            case "reject":
                return Truth.FALSE
            case _:
                return Truth.FALSE if exclusive([expression]) else Truth.UNKNOWN
    values = [constant(member) for member in expression.members]
    match expression.operator:
        case Operator.AND:
            return Truth.FALSE if _contradiction(expression) else conjunction(values)
        case Operator.OR:
            return disjunction(values)
        case Operator.NOT:
            return negation(disjunction(values))
        case Operator.NOR:
            return negation(conjunction(values))


def _contradiction(group: Group) -> Expression | None:
    """The member of an ``and`` that cannot hold beside its neighbours, when there is one."""
    clash = exclusive(member for member in group.members if isinstance(member, Term))
    if clash is not None:
        return clash
    wanted = {shape(member) for member in group.members}
    for member in group.members:
        refuses = isinstance(member, Group) and member.operator is Operator.NOT
        if refuses and isinstance(member, Group) and any(shape(inner) in wanted for inner in member.members):
            return member
    return None


def _check_rules_against_each_other(policy: Policy, problems: Problems) -> None:
    """Rules that another one makes useless."""
    implication = Implication()
    useless: set[int] = set()
    rules = [rule for rule in policy.rules if constant(rule.group) is Truth.UNKNOWN]
    shapes = [shape(rule.group) for rule in rules]
    for index, rule in enumerate(rules):
        for other_index, other in enumerate(rules):
            if other is rule or other_index in useless:
                continue
            line = other.position.line
            if other.action is rule.action:
                if shapes[other_index] == shapes[index]:
                    if other_index < index:
                        problems.warning(rule.position, f"the same `{rule.action}` stands on line {line}")
                        useless.add(index)
                        break
                elif implication.follows(other.group, rule.group):
                    words = "lets in" if rule.action is Action.ALLOW else "keeps out"
                    problems.warning(
                        rule.position, f"this `{rule.action}` adds nothing: line {line} {words} all of them already"
                    )
                    useless.add(index)
                    break
            elif rule.action is Action.ALLOW and implication.follows(other.group, rule.group):
                problems.warning(
                    rule.position,
                    f"this `allow` never lets anybody in: line {line} denies all of them",
                    "a `deny` goes before every `allow`",
                )
                useless.add(index)
                break


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
        if isinstance(clash, Term):
            several = any(str(matcher.comparison) in {"has", "exclude"} for matcher in clash.matchers)
            text = "is wanted and excluded at once" if several else "cannot be two values at once"
            problems.warning(clash.position, f"`{clash.label}` {text}", "use `or` or `in`" if not several else None)
        elif clash is not None:
            problems.warning(clash.position, "`not` refuses what stands beside it under `and`", "nothing is both")
    seen: set[object] = set()
    for member in group.members:
        if shape(member) in seen:
            problems.warning(member.position, f"the same stands twice under `{group.operator}`")
        seen.add(shape(member))
        if isinstance(member, Group):
            _check_group(member, action, problems)
