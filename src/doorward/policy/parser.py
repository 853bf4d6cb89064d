"""Nodes become a tree; every problem is collected with its position."""

from doorward.policy.criteria import BY_NAME, CRITERIA
from doorward.policy.criteria.matching import (
    LIST_ONLY,
    LIST_TOO,
    STRING_COMPARISONS,
    STRINGS_COMPARISONS,
    WHOLE_VALUE,
)
from doorward.policy.criteria.port import Criterion, Operand
from doorward.policy.nodes import (
    Action,
    Comparison,
    Expression,
    Group,
    Matcher,
    Operator,
    Policy,
    Rule,
    Term,
)
from doorward.source import Mapping, Node, Position, Problems, Scalar, Sequence, suggestion

MAX_DEPTH = 16
_ACTIONS = tuple(action.value for action in Action)
_OPERATORS = tuple(operator.value for operator in Operator)


def parse_policy(node: Node, problems: Problems) -> Policy:
    """The policy under ``node``, with every problem recorded.

    With an error the result has no rules, and so lets nobody in: what did not parse could have been the rule that
    denies, or the term that narrows one that allows.
    """
    found = Problems()
    policy = _Parser(found).policy(node)
    problems.extend(found.all)
    return Policy((), policy.position) if found.has_errors else policy


class _Parser:
    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._counts = dict.fromkeys(Action, 0)

    def policy(self, node: Node) -> Policy:
        documents = node.items if isinstance(node, Sequence) else (node,)
        rules: list[Rule] = []
        if not documents:
            self._problems.error(node.position, "the policy is empty", "to keep everybody out, deny `accept`")
        for document in documents:
            if not isinstance(document, Mapping):
                self._problems.error(document.position, "expected `allow` or `deny` with its rules")
                continue
            if not document.entries:
                self._problems.error(document.position, "expected `allow` or `deny` with its rules")
            for key, value in document.entries:
                word = str(key.value)
                if word not in _ACTIONS:
                    hint = suggestion(word, _ACTIONS) or "expected `allow` or `deny`"
                    self._problems.error(key.position, f"unknown action `{word}`", hint)
                    continue
                rules.extend(self._rules(Action(word), value))
        return Policy(tuple(rules), node.position)

    def _rules(self, action: Action, node: Node) -> list[Rule]:
        """One rule for each operator: operators beside each other are alternatives, as in PPL."""
        if not isinstance(node, Mapping):
            self._problems.error(node.position, f"`{action}` needs an operator", f"one of {', '.join(_OPERATORS)}")
            return []
        if not node.entries:
            self._problems.error(node.position, f"`{action}` is empty", "a rule without terms is not a rule")
        rules = []
        for key, value in node.entries:
            word = str(key.value)
            if word not in _OPERATORS:
                hint = suggestion(word, _OPERATORS) or f"one of {', '.join(_OPERATORS)}"
                self._problems.error(key.position, f"unknown operator `{word}`", hint)
                continue
            group = self._group(Operator(word), value, 0)
            if group is not None:
                self._counts[action] += 1
                rules.append(Rule(action, group, f"{action}-{self._counts[action]}", key.position))
        return rules

    def _group(self, operator: Operator, node: Node, depth: int) -> Group | None:
        if depth > MAX_DEPTH:
            self._problems.error(node.position, f"operators nested more than {MAX_DEPTH} deep")
            return None
        if not isinstance(node, Sequence):
            self._problems.error(node.position, f"`{operator}` needs a list of criteria")
            return None
        if not node.items:
            self._problems.error(
                node.position, f"`{operator}` is empty", "an empty list would be true or false for all"
            )
            return None
        members = [self._expression(item, depth) for item in node.items]
        return Group(operator, tuple(member for member in members if member is not None), node.position)

    def _expression(self, node: Node, depth: int) -> Expression | None:
        if isinstance(node, Scalar) and isinstance(node.value, str) and node.value in BY_NAME:
            hint = f"write `{node.value}: …`"
            self._problems.error(node.position, f"`{node.value}` needs a value", hint)
            return None
        if not isinstance(node, Mapping) or len(node.entries) != 1:
            self._problems.error(node.position, "expected one criterion with its value", "one criterion to a list item")
            return None
        key, value = node.entries[0]
        word = str(key.value)
        if word in _OPERATORS:
            return self._group(Operator(word), value, depth + 1)
        return self._term(word, key.position, value)

    def _term(self, word: str, position: Position, node: Node) -> Term | None:
        name, separator, argument = word.partition("/")
        criterion = BY_NAME.get(name)
        if criterion is None:
            hint = suggestion(name, BY_NAME) or f"known are {', '.join(item.name for item in CRITERIA)}"
            self._problems.error(position, f"unknown criterion `{word}`", hint)
            return None
        if criterion.takes_argument and not argument:
            self._problems.error(position, f"`{name}` needs a path", f"write `{name}/department`")
            return None
        if separator and not criterion.takes_argument:
            self._problems.error(position, f"`{name}` takes no path", f"write `{name}`")
            return None
        matchers = self._matchers(criterion, node)
        return None if matchers is None else Term(name, argument, matchers, position)

    def _matchers(self, criterion: Criterion, node: Node) -> tuple[Matcher, ...] | None:
        if criterion.operand is Operand.NOTHING:
            return self._nothing(criterion, node)
        allowed = STRING_COMPARISONS if criterion.operand is Operand.STRING else STRINGS_COMPARISONS
        default = Comparison.IS if criterion.operand is Operand.STRING else Comparison.HAS
        if isinstance(node, Scalar):
            operand = self._operand(criterion, default, node)
            return None if operand is None else (Matcher(default, (operand,)),)
        if not isinstance(node, Mapping) or not node.entries:
            self._problems.error(node.position, f"`{criterion.name}` needs a value or a matcher")
            return None
        matchers = []
        for key, value in node.entries:
            word = str(key.value)
            if word not in {comparison.value for comparison in allowed}:
                names = sorted(comparison.value for comparison in allowed)
                hint = suggestion(word, names) or f"one of {', '.join(names)}"
                self._problems.error(key.position, f"unknown matcher `{word}` of `{criterion.name}`", hint)
                return None
            matcher = self._matcher(criterion, Comparison(word), value)
            if matcher is None:
                return None
            matchers.append(matcher)
        return tuple(matchers)

    def _nothing(self, criterion: Criterion, node: Node) -> tuple[Matcher, ...] | None:
        """No matchers, for the values that cannot be misread; PPL's documents write ``true``, ``1`` and ``{}``."""
        value = node.value if isinstance(node, Scalar) else node
        if value is True or value is None or value == 1 or (isinstance(value, Mapping) and not value.entries):
            return ()
        if value is False:
            self._problems.error(node.position, f"`{criterion.name}: false` would read as its opposite", "use `not`")
        else:
            self._problems.error(node.position, f"`{criterion.name}` takes no value", "write `true`")
        return None

    def _matcher(self, criterion: Criterion, comparison: Comparison, node: Node) -> Matcher | None:
        if comparison not in LIST_ONLY and not (comparison in LIST_TOO and isinstance(node, Sequence)):
            operand = self._operand(criterion, comparison, node)
            return None if operand is None else Matcher(comparison, (operand,))
        if not isinstance(node, Sequence) or not node.items:
            self._problems.error(node.position, f"`{comparison}` needs a list with at least one value")
            return None
        operands = [self._operand(criterion, comparison, item) for item in node.items]
        if any(operand is None for operand in operands):
            return None
        return Matcher(comparison, tuple(operand for operand in operands if operand is not None))

    def _operand(self, criterion: Criterion, comparison: Comparison, node: Node) -> str | None:
        """One string; an empty one would match what nobody means by it."""
        value = node.value if isinstance(node, Scalar) else None
        if criterion.takes_argument and isinstance(value, bool):
            value = "true" if value else "false"
        elif criterion.takes_argument and isinstance(value, int):
            value = str(value)
        if not isinstance(value, str):
            # A bare number has lost its leading zeros and its base by now, so it is not what the operator compares.
            self._problems.error(node.position, f"`{criterion.name}` needs a string", "put quotes round it")
            return None
        if not value:
            self._problems.error(
                node.position, f"`{criterion.name}` compares with nothing", "an empty value is not allowed"
            )
            return None
        canonicalise = criterion.whole if comparison in WHOLE_VALUE else criterion.piece
        if canonicalise is None:
            return value
        canonical = canonicalise(value)
        if canonical is None:
            self._problems.error(node.position, f"`{value}` can never match `{criterion.name}`")
        return canonical
