"""Neighbours that ask the same become one: two hundred addresses in a row cost one look into a set."""

from dataclasses import replace
from itertools import groupby

from doorward.policy.criteria import BY_NAME
from doorward.policy.criteria.port import Operand
from doorward.policy.nodes import Comparison, Expression, Group, Matcher, Operator, Policy, Rule, Term

_MERGING = {
    (Operand.STRING, Comparison.IS): Comparison.IN,
    (Operand.STRING, Comparison.IN): Comparison.IN,
    (Operand.STRINGS, Comparison.HAS): Comparison.HAS,
}
"""Comparisons that hold for a union exactly when they hold for one of its parts, with the one for the union."""


def merge(policy: Policy) -> Policy:
    """A policy of the same meaning, reasons and rule names in fewer terms.

    Only neighbours are merged, so that the first term that holds, whose reason is given, stays the same.
    """
    return Policy(
        tuple(Rule(rule.action, _merge_group(rule.group), rule.name, rule.position) for rule in policy.rules),
        policy.position,
        policy.dialect,
    )


def _merge_group(group: Group) -> Group:
    members = [_merge_group(member) if isinstance(member, Group) else member for member in group.members]
    if group.operator in {Operator.OR, Operator.NOT}:  # both ask whether any member holds
        merged: list[Expression] = []
        for key, run in groupby(members, _key):
            alike = list(run)
            merged += alike if key is None else [_union([member for member in alike if isinstance(member, Term)])]
        members = merged
    return Group(group.operator, tuple(members), group.position)


def _key(expression: Expression) -> tuple[str, Comparison, bool, bool] | None:
    """What mergeable neighbours have in common, or ``None`` for what stays alone."""
    if not isinstance(expression, Term) or len(expression.matchers) != 1:
        return None
    union = _MERGING.get((BY_NAME[expression.criterion].operand, expression.matchers[0].comparison))
    return None if union is None else (expression.label, union, expression.ignore_case, expression.optional)


def _union(terms: list[Term]) -> Term:
    first = terms[0]
    if len(terms) == 1:
        return first
    union = _MERGING[BY_NAME[first.criterion].operand, first.matchers[0].comparison]
    operand = tuple(dict.fromkeys(value for term in terms for value in term.matchers[0].operand))
    return replace(first, matchers=(Matcher(union, operand),))
