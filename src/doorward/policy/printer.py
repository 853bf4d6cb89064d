"""The canonical text of a policy: JSON, which is YAML too, so that it parses back to the same rules."""

import json
import re

from doorward.policy.criteria.matching import LIST_ONLY
from doorward.policy.nodes import Expression, Matcher, Policy, Term

_UNPRINTABLE = re.compile("[\x7f-\xa0\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
"""What JSON may hold bare and YAML may not, or would fold into a space."""


def print_policy(policy: Policy) -> str:
    """``policy`` as one line of JSON; positions are not part of it."""
    documents = [
        {str(rule.action): {str(rule.group.operator): [_expression(member) for member in rule.group.members]}}
        for rule in policy.rules
    ]
    # Surrogate pairs are JSON's alone, so characters beyond the first plane stay as they are.
    text = json.dumps(documents, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _expression(expression: Expression) -> dict[str, object]:
    if isinstance(expression, Term):
        return {expression.label: {str(m.comparison): _operand(m) for m in expression.matchers} or True}
    return {str(expression.operator): [_expression(member) for member in expression.members]}


def _operand(matcher: Matcher) -> str | list[str]:
    if len(matcher.operand) == 1 and matcher.comparison not in LIST_ONLY:
        return matcher.operand[0]
    return list(matcher.operand)
