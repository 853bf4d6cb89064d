"""One criterion with its value becomes a term; every problem is recorded with its position."""

from doorward.policy.criteria import BY_NAME, CRITERIA
from doorward.policy.criteria.families import folded_parameters
from doorward.policy.criteria.matching import fold
from doorward.policy.criteria.numbers import number_of
from doorward.policy.criteria.port import Criterion, Key, Kind, Operand, Parameter, Several
from doorward.policy.library import Library, NamedSet
from doorward.policy.nodes import Comparison, Dialect, Matcher, Term
from doorward.source import Mapping, Node, Position, Problems, Scalar, Sequence, suggestion

SET = "set"
_IGNORE_CASE, _OPTIONAL = "ignore_case", "optional"
_FLAGS = (_IGNORE_CASE, _OPTIONAL)
_ELSEWHERE = {
    "mcp_tool": "it looks into the body of a request, which is never read",
    "pomerium_routes": "own pages are decided without a policy; leave it out",
    **dict.fromkeys(
        ("ssh_publickey", "ssh_ca", "ssh_username", "ssh_username_matches_email", "ssh_username_matches_claim"),
        "it is about SSH",
    ),
}
"""PPL's criteria that there are no facts for."""
_PPL_ARGUMENTS = {"groups": "id", "user": "subject"}
"""PPL knows groups by their id and people by what the identity provider calls them."""
_LIST_OF = {Comparison.IS: Comparison.IN, Comparison.NOT: Comparison.NOT_IN}
"""What a single-value matcher becomes for a whole set."""


class TermParser:
    """Reads terms of one policy."""

    known = BY_NAME

    def __init__(self, problems: Problems, library: Library, dialect: Dialect) -> None:
        self._problems = problems
        self._library = library
        self._ppl = dialect is Dialect.PPL

    def term(self, word: str, position: Position, node: Node) -> Term | None:
        """The term ``word: node``, or ``None`` after recording what is wrong."""
        name, separator, argument = word.partition("/")
        criterion = BY_NAME.get(name)
        if criterion is None:
            self._unknown(word, name, position)
            return None
        if self._ppl and not criterion.in_ppl:
            self._problems.error(position, f"`{name}` is not one of PPL's criteria", "leave out `dialect: ppl`")
            return None
        if criterion.takes_argument and not argument:
            if not criterion.argument_optional:
                self._problems.error(position, f"`{name}` needs a path", f"write `{name}/department`")
                return None
            argument = _PPL_ARGUMENTS.get(name, "") if self._ppl else ""
        if separator and not criterion.takes_argument:
            self._problems.error(position, f"`{name}` takes no path", f"write `{name}`")
            return None
        try:
            argument = criterion.argument(argument) if argument else ""
        except ValueError as error:
            self._problems.error(position, f"`{word}`: {error}")
            return None
        return _TermReader(self._problems, self._library, criterion, ppl=self._ppl).read(argument, position, node)

    def _unknown(self, word: str, name: str, position: Position) -> None:
        if name in _ELSEWHERE:
            self._problems.error(position, f"there is no criterion `{name}` here: {_ELSEWHERE[name]}")
            return
        hint = suggestion(name, BY_NAME) or f"known are {', '.join(item.name for item in CRITERIA)}"
        self._problems.error(position, f"unknown criterion `{word}`", hint)


class _TermReader:
    """Reads the value of one criterion."""

    def __init__(self, problems: Problems, library: Library, criterion: Criterion, *, ppl: bool) -> None:
        self._problems = problems
        self._library = library
        self._criterion = criterion
        self._ppl = ppl
        self._ignore_case = False

    def read(self, argument: str, position: Position, node: Node) -> Term | None:
        criterion = self._criterion
        flags = self._flags(node)
        matchers = None if flags is None else self._matchers(node)
        if flags is None or matchers is None:
            return None
        reason = self._together(matchers)
        if reason is not None and self._ppl and matchers:
            self._problems.warning(position, f"`{criterion.name}` {reason}")
        elif reason is not None:
            self._problems.error(position, f"`{criterion.name}` {reason}")
            return None
        if self._ppl and criterion.name == "time_of_day" and _is_over_midnight(matchers):
            self._problems.warning(position, "`before` is earlier than `after`, which PPL never lets hold")
            return Term("reject", "", (), position)
        optional = flags[_OPTIONAL] or (self._ppl and criterion.may_be_absent)
        return Term(criterion.name, argument, matchers, position, flags[_IGNORE_CASE], optional)

    def _flags(self, node: Node) -> dict[str, bool] | None:
        found = dict.fromkeys(_FLAGS, False)
        allowed = {_IGNORE_CASE: self._criterion.folds_case, _OPTIONAL: self._criterion.may_be_absent}
        for key, value in node.entries if isinstance(node, Mapping) else ():
            word = str(key.value)
            if word not in _FLAGS or word in self._criterion.keys:
                continue
            if not allowed[word] or self._ppl:
                self._problems.error(key.position, f"`{self._criterion.name}` takes no `{word}`")
                return None
            if not isinstance(value, Scalar) or not isinstance(value.value, bool):
                self._problems.error(value.position, f"`{word}` is `true` or `false`")
                return None
            found[word] = value.value
        self._ignore_case = found[_IGNORE_CASE]
        return found

    def _together(self, matchers: tuple[Matcher, ...]) -> str | None:
        """What is wrong with the matchers as a whole."""
        own = [matcher for matcher in matchers if matcher.field == ""]
        absent = [m for m in own if m.comparison is Comparison.EXISTS and m.operand == ("false",)]
        if absent and len(own) > 1:
            return "cannot compare what does not exist: let `exists: false` stand alone"
        return self._criterion.check(matchers)

    def _matchers(self, node: Node) -> tuple[Matcher, ...] | None:
        criterion = self._criterion
        if criterion.operand is Operand.NOTHING:
            return self._nothing(node)
        if criterion.takes_true and _is_true(node):
            return ()
        own = criterion.keys.get("")
        if not isinstance(node, Mapping) or _is_set(node):
            if own is None:
                known = ", ".join(f"`{key}`" for key in criterion.keys)
                self._problems.error(
                    node.position, f"`{criterion.name}` needs a mapping with its keys", f"known are {known}"
                )
                return None
            matcher = self._plain("", own, node)
            return None if matcher is None else (matcher,)
        matchers: list[Matcher] = []
        for key, value in node.entries:
            word = str(key.value)
            if word in _FLAGS and word not in criterion.keys:
                continue
            found = self._entry(word, key.position, value)
            if found is None:
                return None
            matchers.extend(found)
        if not matchers and criterion.operand is not Operand.KEYS:
            self._problems.error(node.position, f"`{criterion.name}` needs a value or a matcher")
            return None
        return tuple(matchers)

    def _entry(self, word: str, position: Position, node: Node) -> list[Matcher] | None:
        """The matchers under one key: one of the criterion's own keys, or a comparison of its value."""
        keys = self._criterion.keys
        if word and word in keys:
            return self._under(word, keys[word], node)
        own = keys.get("")
        if own is not None and word in own.comparisons:
            matcher = self._matcher("", own, Comparison(word), node)
            return None if matcher is None else [matcher]
        names = [key for key in keys if key] + sorted(own.comparisons if own is not None else ())
        hint = suggestion(word, names) or f"one of {', '.join(names)}"
        self._problems.error(position, f"unknown matcher `{word}` of `{self._criterion.name}`", hint)
        return None

    def _under(self, field: str, key: Key, node: Node) -> list[Matcher] | None:
        if not isinstance(node, Mapping) or _is_set(node):
            matcher = self._plain(field, key, node)
            return None if matcher is None else [matcher]
        matchers = []
        for word, value in node.entries:
            if word.value not in key.comparisons:
                hint = suggestion(str(word.value), key.comparisons) or f"one of {', '.join(sorted(key.comparisons))}"
                self._problems.error(word.position, f"unknown matcher `{word.value}` of `{field}`", hint)
                return None
            matcher = self._matcher(field, key, Comparison(str(word.value)), value)
            if matcher is None:
                return None
            matchers.append(matcher)
        if not matchers:
            self._problems.error(node.position, f"`{field}` needs a value or a matcher")
            return None
        return matchers

    def _plain(self, field: str, key: Key, node: Node) -> Matcher | None:
        """The matcher that a value without one stands for; a list stands for any of it."""
        comparison = key.default
        if not isinstance(node, Scalar) and comparison in _LIST_OF and _LIST_OF[comparison] in key.comparisons:
            comparison = _LIST_OF[comparison]
        return self._matcher(field, key, comparison, node)

    def _matcher(self, field: str, key: Key, comparison: Comparison, node: Node) -> Matcher | None:
        if _is_set(node) and comparison in _LIST_OF and _LIST_OF[comparison] in key.comparisons:
            comparison = _LIST_OF[comparison]
        if self._ignore_case and comparison not in folded_parameters(key):
            help_ = "write `(?i)` at its start" if comparison is Comparison.REGEX else None
            self._problems.error(node.position, f"`{comparison}` cannot ignore case", help_)
            return None
        operand = self._operands(comparison, key.comparisons[comparison], node)
        return None if operand is None else Matcher(comparison, operand, field)

    def _operands(self, comparison: Comparison, parameter: Parameter, node: Node) -> tuple[str, ...] | None:
        name = self._criterion.name
        nodes: tuple[Node, ...]
        if isinstance(node, Sequence):
            if parameter.several is Several.ONE:
                self._problems.error(node.position, f"`{comparison}` of `{name}` takes one value")
                return None
            if not node.items:
                self._problems.error(node.position, f"`{comparison}` needs a list with at least one value")
                return None
            nodes = node.items
        elif parameter.several is Several.LIST and not _is_set(node):
            self._problems.error(node.position, f"`{comparison}` needs a list with at least one value")
            return None
        else:
            nodes = (node,)
        found: list[str] = []
        for item in nodes:
            if _is_set(item):
                named = self._named_set(parameter, item)
                if named is None:
                    return None
                found.extend(named)
                continue
            operand = self._operand(parameter, item)
            if operand is None:
                return None
            found.append(operand)
        return tuple(found)

    def _named_set(self, parameter: Parameter, node: Node) -> tuple[str, ...] | None:
        reference = node.entries[0][1] if isinstance(node, Mapping) else node
        name = str(reference.value) if isinstance(reference, Scalar) else ""
        sets = self._library.sets
        if name not in sets:
            hint = suggestion(name, sets) or "sets stand under `sets` of the configuration"
            self._problems.error(reference.position, f"there is no set `{name}`", hint)
            return None
        if parameter.several is Several.ONE:
            self._problems.error(node.position, f"`{self._criterion.name}` takes one value here, not a set")
            return None
        known = sets[name]
        if known is None:
            self._problems.error(reference.position, f"the set `{name}` has errors")
            return None
        return self._of_set(known, parameter)

    def _of_set(self, known: NamedSet, parameter: Parameter) -> tuple[str, ...] | None:
        operands = known.known(parameter, ignore_case=self._ignore_case, ppl=self._ppl)
        if operands is None:
            read = [self._operand(parameter, item) for item in known.items]
            operands = tuple(operand for operand in read if operand is not None)
            if len(operands) != len(read):
                return None
            known.remember(parameter, operands, ignore_case=self._ignore_case, ppl=self._ppl)
        return operands

    def _operand(self, parameter: Parameter, node: Node) -> str | None:
        """One operand in the compared form; an empty one would match what nobody means by it."""
        name = self._criterion.name
        text = self._text(parameter, node) if isinstance(node, Scalar) else None
        if text is None:
            expected = {Kind.NUMBER: "a number", Kind.BOOLEAN: "`true` or `false`"}.get(parameter.kind, "a string")
            hint = "put quotes round it" if expected == "a string" and isinstance(node, Scalar) else None
            self._problems.error(node.position, f"`{name}` needs {expected}", hint)
            return None
        if not text:
            self._problems.error(node.position, f"`{name}` compares with nothing", "an empty value is not allowed")
            return None
        if parameter.words and text not in parameter.words:
            hint = suggestion(text, parameter.words) or f"one of {', '.join(parameter.words)}"
            self._problems.error(node.position, f"`{text}` is not known to `{name}`", hint)
            return None
        try:
            canonical = (parameter.ppl if self._ppl and parameter.ppl is not None else parameter.canonical)(text)
        except ValueError as error:
            self._problems.error(node.position, f"`{name}`: {error}")
            return None
        return fold(canonical) if self._ignore_case else canonical

    def _text(self, parameter: Parameter, node: Scalar) -> str | None:
        """A scalar as text, when it is of the right kind.

        A bare number is not what most criteria compare. Where it stands for its text, that must be the only way to write it: `007`
        and `1.10` would be compared as `7` and `1.1`, and a deny of them would keep out nobody.
        """
        kind = Kind.WORD if self._ppl and parameter.kind is Kind.TEXT else parameter.kind
        match node.value:
            case bool() as truth:
                return ("true" if truth else "false") if kind in {Kind.WORD, Kind.BOOLEAN} else None
            case str() as text:
                return text if kind is not Kind.BOOLEAN else None
            case int() | float() as number if kind is Kind.NUMBER:
                return node.written if number_of(node.written) is not None else str(number)
            case int() | float() as number if kind is Kind.WORD:
                return str(number) if node.written in {"", str(number)} else None
            case _:
                return None

    def _nothing(self, node: Node) -> tuple[Matcher, ...] | None:
        """No matchers, for the values that cannot be misread; PPL takes any, and documents write ``true`` and ``{}``."""
        if _is_true(node):
            return ()
        if self._ppl:
            self._problems.warning(node.position, f"PPL ignores the value of `{self._criterion.name}`", "write `true`")
            return ()
        name = self._criterion.name
        if isinstance(node, Scalar) and node.value is False:
            self._problems.error(node.position, f"`{name}: false` would read as its opposite", "use `not`")
        else:
            self._problems.error(node.position, f"`{name}` takes no value", "write `true`")
        return None


def _is_true(node: Node) -> bool:
    value = node.value if isinstance(node, Scalar) else node
    return value is True or value is None or value == 1 or (isinstance(value, Mapping) and not value.entries)


def _is_set(node: Node) -> bool:
    return isinstance(node, Mapping) and [key.value for key, _ in node.entries] == [SET]


def _is_over_midnight(matchers: tuple[Matcher, ...]) -> bool:
    bounds = {matcher.field: matcher.operand[0] for matcher in matchers}
    return "after" in bounds and "before" in bounds and bounds["after"] >= bounds["before"]
