"""The canonical text of a policy: JSON, which is YAML too, so that it parses back to the same rules."""

import hashlib
import json
import re

from doorward.policy.criteria import BY_NAME
from doorward.policy.criteria.port import Kind, Parameter, Several
from doorward.policy.nodes import Action, Dialect, Expression, Matcher, Policy, Rule, Term

_UNPRINTABLE = re.compile("[\x7f-\xa0\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
"""What JSON may hold bare and YAML may not, or would fold into a space."""


def print_policy(policy: Policy) -> str:
    """``policy`` as one line of JSON; positions are not part of it."""
    counts = dict.fromkeys(Action, 0)
    ppl = policy.dialect is Dialect.PPL
    rules = [_rule(rule, counts, ppl=ppl) for rule in policy.rules]
    # Surrogate pairs are JSON's alone, so characters beyond the first plane stay as they are.
    text = json.dumps({"dialect": "ppl", "rules": rules} if ppl else rules, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def digest_of(policy: Policy) -> str:
    """Hash of the canonical text, worked out once: policies with equal digests decide alike."""
    if policy.digest is None:
        digest = hashlib.sha256(print_policy(policy).encode()).hexdigest()[:32]
        object.__setattr__(policy, "digest", digest)
        return digest
    return policy.digest


def _rule(rule: Rule, counts: dict[Action, int], *, ppl: bool) -> dict[str, object]:
    printed: dict[str, object] = {}
    if rule.name == f"{rule.action}-{counts[rule.action] + 1}":
        counts[rule.action] += 1
    else:
        printed["name"] = rule.name
    members = [_expression(member, ppl=ppl) for member in rule.group.members]
    printed[str(rule.action)] = {str(rule.group.operator): members}
    return printed


def _expression(expression: Expression, *, ppl: bool) -> dict[str, object]:
    if isinstance(expression, Term):
        return {expression.label: _value(expression, ppl=ppl)}
    return {str(expression.operator): [_expression(member, ppl=ppl) for member in expression.members]}


def _value(term: Term, *, ppl: bool) -> object:
    printed: dict[str, object] = {}
    for matcher in term.matchers:
        key = BY_NAME[term.criterion].keys[matcher.field]
        operand = _operand(matcher, key.comparisons[matcher.comparison])
        if not matcher.field:
            printed[str(matcher.comparison)] = operand
        elif len(key.comparisons) == 1:
            printed[matcher.field] = operand
        else:
            inner = printed.setdefault(matcher.field, {})
            if isinstance(inner, dict):
                inner[str(matcher.comparison)] = operand
    if term.ignore_case:
        printed["ignore_case"] = True
    if term.optional and not ppl:
        printed["optional"] = True
    return printed or True


def _operand(matcher: Matcher, parameter: Parameter) -> object:
    if parameter.kind is Kind.BOOLEAN:
        return matcher.operand[0] == "true"
    if len(matcher.operand) == 1 and parameter.several is not Several.LIST:
        return matcher.operand[0]
    return list(matcher.operand)
