"""Nodes become a tree; every problem is collected with its position.

A policy is written as a list of rules, as one mapping with ``allow`` and ``deny``, as the name of a policy, or as a
mapping that says more about its rules::

    policy: {dialect: ppl, rules: [...]}
"""

import re

from doorward.policy.library import Library
from doorward.policy.nodes import Action, Dialect, Expression, Group, Operator, Policy, Rule
from doorward.policy.terms import TermParser
from doorward.source import Mapping, Node, Position, Problems, Scalar, Sequence, suggestion

MAX_DEPTH = 16
_ACTIONS = tuple(action.value for action in Action)
PLAIN_WORDS = {"all": Operator.AND, "any": Operator.OR, "none": Operator.NOT}
"""Other names for operators, in words that need no logic."""
_OPERATORS = {**{operator.value: operator for operator in Operator}, **PLAIN_WORDS}
_PPL_OPERATORS = {operator.value: operator for operator in Operator}
_HEAD = ("version", "dialect", "rules")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 _./-]{0,198}[A-Za-z0-9])?\Z", re.ASCII)
_NO_LIBRARY = Library()


def parse_policy(node: Node, problems: Problems, library: Library = _NO_LIBRARY) -> Policy:
    """The policy under ``node``, with every problem recorded; names are looked up in ``library``.

    With an error the result has no rules, and so lets nobody in: what did not parse could have been the rule that
    denies, or the term that narrows one that allows.
    """
    found = Problems()
    policy = _document(node, found, library)
    problems.extend(found.all)
    return Policy((), policy.position, policy.dialect) if found.has_errors else policy


def _document(node: Node, problems: Problems, library: Library) -> Policy:
    if isinstance(node, Scalar) and isinstance(node.value, str):
        named = _named(node, problems, library)
        if named is None:
            return Policy((), node.position)
        return Policy(_renamed(str(node.value), named), node.position, named.dialect)
    dialect, rules = _head(node, problems)
    return _Parser(problems, library, dialect).policy(rules, node.position)


def _head(node: Node, problems: Problems) -> tuple[Dialect, Node]:
    """The dialect, and the node that holds the rules."""
    if not isinstance(node, Mapping) or not any(key.value in _HEAD for key, _ in node.entries):
        return Dialect.VERSION_1, node
    dialect = Dialect.VERSION_1
    version, written = node.get("version"), node.get("dialect")
    if isinstance(written, Scalar) and written.value == "ppl" and version is None:
        dialect = Dialect.PPL
    elif written is not None and not (isinstance(written, Scalar) and written.value == "ppl"):
        problems.error(written.position, "unknown dialect", "`ppl`, or leave it out and write `version: 1`")
    elif written is not None:
        problems.error(written.position, "`version` and `dialect` exclude each other", "keep one of them")
    elif version is not None and not (isinstance(version, Scalar) and version.value == 1):
        problems.error(version.position, "unknown version of the policy language", "write `version: 1`")
    rest = Mapping(tuple(entry for entry in node.entries if entry[0].value not in _HEAD), node.position)
    rules = node.get("rules")
    if rules is not None and rest.entries:
        problems.error(rest.entries[0][0].position, "rules stand under `rules` or beside it, not both")
    return dialect, rules if rules is not None else rest


def _named(node: Scalar, problems: Problems, library: Library) -> Policy | None:
    name = str(node.value)
    if name not in library.policies:
        hint = suggestion(name, library.policies) or "policies stand under `policies` of the configuration"
        problems.error(node.position, f"there is no policy `{name}`", hint)
        return None
    policy = library.policies[name]
    if policy is None:
        problems.error(node.position, f"the policy `{name}` has errors")
    return policy


def _renamed(name: str, policy: Policy) -> tuple[Rule, ...]:
    return tuple(Rule(rule.action, rule.group, f"{name}/{rule.name}", rule.position) for rule in policy.rules)


class _Parser:
    def __init__(self, problems: Problems, library: Library, dialect: Dialect) -> None:
        self._problems = problems
        self._library = library
        self._dialect = dialect
        self._ppl = dialect is Dialect.PPL
        self._operators = _PPL_OPERATORS if self._ppl else _OPERATORS
        self._terms = TermParser(problems, library, dialect)
        self._counts = dict.fromkeys(Action, 0)

    def policy(self, node: Node, position: Position) -> Policy:
        documents = node.items if isinstance(node, Sequence) else (node,)
        rules: list[Rule] = []
        if not documents:
            self._problems.error(node.position, "the policy is empty", "to keep everybody out, deny `accept`")
        for document in documents:
            if isinstance(document, Scalar) and isinstance(document.value, str) and isinstance(node, Sequence):
                rules.extend(self._included(document))
                continue
            if not isinstance(document, Mapping) or not document.entries:
                self._problems.error(document.position, "expected `allow` or `deny` with its rules")
                continue
            rules.extend(self._document(document))
        self._check_names(rules)
        return Policy(tuple(rules), position, self._dialect)

    def _included(self, node: Scalar) -> tuple[Rule, ...]:
        named = _named(node, self._problems, self._library)
        if named is None:
            return ()
        if named.dialect is not self._dialect:
            name = node.value
            self._problems.error(
                node.position,
                f"`{name}` is of another dialect",
                f"let `policy: {name}` stand alone, without further rules",
            )
        return _renamed(str(node.value), named)

    def _document(self, node: Mapping) -> list[Rule]:
        rules: list[Rule] = []
        name = self._name(node)
        for key, value in node.entries:
            word = str(key.value)
            if word == "name":
                continue
            if word not in _ACTIONS:
                hint = suggestion(word, _ACTIONS) or "expected `allow` or `deny`"
                self._problems.error(key.position, f"unknown action `{word}`", hint)
                continue
            rules.extend(self._rules(Action(word), value, name))
        if name is not None and len(rules) > 1:
            self._problems.error(
                node.position, f"`{name}` names {len(rules)} rules", "give each a list item of its own"
            )
        return rules

    def _name(self, node: Mapping) -> str | None:
        written = node.get("name")
        if written is None:
            return None
        name = written.value if isinstance(written, Scalar) else None
        if not isinstance(name, str) or not _NAME.match(name):
            self._problems.error(written.position, "a rule's name is a few plain words", "letters, digits, ` _./-`")
            return None
        return name

    def _check_names(self, rules: list[Rule]) -> None:
        seen: dict[str, Rule] = {}
        for rule in rules:
            first = seen.setdefault(rule.name, rule)
            if first is not rule:
                self._problems.error(rule.position, f"two rules are called `{rule.name}`", f"first at {first.position}")

    def _rules(self, action: Action, node: Node, name: str | None) -> list[Rule]:
        """One rule for each operator: operators beside each other are alternatives, as in PPL."""
        known = ", ".join(self._operators)
        if not isinstance(node, Mapping):
            self._problems.error(node.position, f"`{action}` needs an operator", f"one of {known}")
            return []
        if not node.entries:
            self._problems.error(node.position, f"`{action}` is empty", "a rule without terms is not a rule")
        rules = []
        for key, value in node.entries:
            word = str(key.value)
            if self._ppl and word == "action":
                continue  # older documents repeat the action here, and PPL takes no notice
            operator = self._operators.get(word)
            if operator is None:
                hint = suggestion(word, self._operators) or f"one of {known}"
                self._problems.error(key.position, f"unknown operator `{word}`", hint)
                continue
            if self._ppl and isinstance(value, Sequence) and not value.items:
                self._problems.warning(value.position, f"an empty `{word}` adds nothing")
                continue
            group = self._group(operator, word, value, 0)
            if group is not None:
                if name is None:
                    self._counts[action] += 1
                rules.append(Rule(action, group, name or f"{action}-{self._counts[action]}", key.position))
        return rules

    def _group(self, operator: Operator, word: str, node: Node, depth: int) -> Group | None:
        if depth > MAX_DEPTH:
            self._problems.error(node.position, f"operators nested more than {MAX_DEPTH} deep")
            return None
        if not isinstance(node, Sequence):
            self._problems.error(node.position, f"`{word}` needs a list of criteria")
            return None
        if not node.items:
            self._problems.error(node.position, f"`{word}` is empty", "an empty list would be true or false for all")
            return None
        members = [self._expression(item, depth) for item in node.items]
        return Group(operator, tuple(member for member in members if member is not None), node.position)

    def _expression(self, node: Node, depth: int) -> Expression | None:
        if (
            isinstance(node, Scalar)
            and isinstance(node.value, str)
            and node.value.partition("/")[0] in self._terms.known
        ):
            hint = f"write `{node.value}: …`"
            self._problems.error(node.position, f"`{node.value}` needs a value", hint)
            return None
        if not isinstance(node, Mapping) or len(node.entries) != 1:
            self._problems.error(node.position, "expected one criterion with its value", "one criterion to a list item")
            return None
        key, value = node.entries[0]
        word = str(key.value)
        operator = self._operators.get(word)
        if operator is None:
            return self._terms.term(word, key.position, value)
        if self._ppl:
            self._problems.error(key.position, "PPL does not nest operators", "leave out `dialect: ppl`")
            return None
        return self._group(operator, word, value, depth + 1)
