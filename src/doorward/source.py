"""Text with positions: the one YAML reader for everything that operators write.

Every node knows file, line and column, so that a problem found ten layers later still points at the text. The
reader keeps to YAML 1.2 core scalars (``no`` is a string, ``012`` is twelve), refuses duplicate keys, anchors
used as merge keys and unknown tags, and bounds depth and size. It knows nothing of routes or policies.
"""

import difflib
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import yaml

from doorward.errors import ConfigurationError

MAX_DEPTH = 64
MAX_NODES = 5_000_000
"""Bounds that no honest file meets; aliases that multiply ("billion laughs") do."""

Value: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value and where it stands."""

    value: Value
    position: Position
    written: str = ""
    """A number as it was written, which says more than its value: `007`, `1.10`; empty for everything else."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list of nodes."""

    items: tuple["Node", ...]
    position: Position


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys in file order; every key is a string and stands once."""

    entries: tuple[tuple[Scalar, "Node"], ...]
    position: Position

    def get(self, key: str) -> "Node | None":
        """The node under ``key``, or ``None``."""
        for name, node in self.entries:
            if name.value == key:
                return node
        return None

    def keys(self) -> Iterator[str]:
        """The keys in file order."""
        return (str(name.value) for name, _ in self.entries)


Node: TypeAlias = Scalar | Sequence | Mapping


def plain(node: Node) -> Any:
    """``node`` as dictionaries, lists and values."""
    match node:
        case Mapping():
            return {str(key.value): plain(value) for key, value in node.entries}
        case Sequence():
            return [plain(item) for item in node.items]
        case Scalar():
            return node.value


def node_of(value: object, position: Position) -> Node:
    """Dictionaries, lists and values as nodes at ``position``: the opposite of ``plain``. Nodes among them stay."""
    match value:
        case Mapping() | Sequence() | Scalar():
            return value
        case dict():
            entries = tuple((Scalar(str(key), position), node_of(item, position)) for key, item in value.items())
            return Mapping(entries, position)
        case list() | tuple():
            return Sequence(tuple(node_of(item, position) for item in value), position)
        case str() | int() | float() | bool() | None:
            return Scalar(value, position)
    raise TypeError(f"a {type(value).__name__} cannot stand in a document")


class Severity(StrEnum):
    """How bad a problem is: an error stops the load, a warning is printed."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a file.

    ``message`` is lower case without a full stop, with back-ticks round what the operator wrote; ``help``
    says what to do, when there is something better to say than the message.
    """

    position: Position
    message: str
    help: str | None = None
    severity: Severity = Severity.ERROR

    def render(self) -> str:
        """``file:line:col: severity: message (help)`` on one line."""
        text = f"{self.position}: {self.severity}: {self.message}"
        return f"{text} ({self.help})" if self.help else text


class Problems:
    """Collects problems so that a load reports all of them at once."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def error(self, position: Position, message: str, help: str | None = None) -> None:  # noqa: A002  # the field's name
        """Record something that stops the load."""
        self._found.append(Problem(position, message, help))

    def warning(self, position: Position, message: str, help: str | None = None) -> None:  # noqa: A002  # the field's name
        """Record something legal that is probably wrong."""
        self._found.append(Problem(position, message, help, Severity.WARNING))

    def extend(self, problems: Iterable[Problem]) -> None:
        """Record what another collector found."""
        self._found.extend(problems)

    @property
    def all(self) -> tuple[Problem, ...]:
        """Everything found, in file order."""
        return tuple(sorted(self._found, key=lambda p: (p.position.file, p.position.line, p.position.column)))

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Only what stops the load, in file order."""
        return tuple(problem for problem in self.all if problem.severity is Severity.ERROR)

    @property
    def has_errors(self) -> bool:
        """Whether anything found stops the load."""
        return any(problem.severity is Severity.ERROR for problem in self._found)

    def raise_errors(self) -> None:
        """Raise ``ConfigurationError`` with every error, or return when there is none."""
        if self.has_errors:
            raise ConfigurationError([problem.render() for problem in self.errors])


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+\Z", re.ASCII)
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)", re.ASCII)


def duration_seconds(text: str) -> float | None:
    """The seconds in ``30s``, ``250ms`` or ``1h30m``; ``None`` when it is no duration."""
    if len(text) > 32 or not _DURATION.match(text):
        return None
    return sum(float(amount) * _UNITS[unit] for amount, unit in _DURATION_PART.findall(text))


def suggestion(word: str, known: Iterable[str]) -> str | None:
    """``did you mean `x`?`` for the nearest of ``known``, or ``None`` when nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else None


class _CoreLoader(yaml.CSafeLoader):
    """PyYAML's C parser with the scalars of YAML 1.2's core schema and nothing else."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's class attribute
    DEFAULT_SCALAR_TAG = "?"  # type: ignore[misc]  # final in the stubs alone
    """Keeps ``12`` (resolved here) apart from ``!!str 12`` (a string, because the operator says so)."""


_INT = re.compile(r"[-+]?[0-9]+\Z|0x[0-9a-fA-F]+\Z|0o[0-7]+\Z")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\Z|[-+]?[0-9]+[eE][-+]?[0-9]+\Z")
_CONSTANTS: dict[str, Value] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_TAG = "tag:yaml.org,2002:"
_HARMLESS = 1000


def read_yaml(text: str, file: str) -> Node | None:
    """The single document in ``text`` as nodes with positions; ``None`` when it is empty.

    Raises:
        ConfigurationError: the text is no YAML, holds a duplicate key, a key that is no string, a tag that
            is not of the core schema, more than one document, or exceeds the bounds.
    """
    problems = Problems()
    try:
        _refuse_deep_nesting(text, file)
        loader = _CoreLoader(text)
    except UnicodeEncodeError as error:
        raise ConfigurationError([Problem(Position(file, 1, 1), "not Unicode text").render()]) from error
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        node = _Converter(file, problems).convert(root, 0)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = Position(file, mark.line + 1 if mark else 1, mark.column + 1 if mark else 1)
        raise ConfigurationError(
            [Problem(position, f"not valid YAML: {error.problem or error.context}").render()]
        ) from error
    except RecursionError as error:
        raise ConfigurationError(
            [Problem(Position(file, 1, 1), f"more than {MAX_DEPTH} levels deep").render()]
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        # PyYAML reports characters that YAML forbids without a mark.
        reason = str(error).splitlines()[0]
        raise ConfigurationError([Problem(Position(file, 1, 1), f"not valid YAML: {reason}").render()]) from error
    finally:
        loader.dispose()
    problems.raise_errors()
    return node


def _refuse_deep_nesting(text: str, file: str) -> None:
    """Raise for nesting that would overflow the stack of PyYAML's C composer, which recurses without a bound.

    A text with few brackets and short lines cannot nest that deep, so the usual file is not read twice.
    """
    brackets = text.count("[") + text.count("{")
    if brackets < _HARMLESS and max(map(len, text.splitlines()), default=0) < _HARMLESS:
        return
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_CoreLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_DEPTH + 1:
                mark = event.start_mark
                position = Position(file, mark.line + 1 if mark else 1, mark.column + 1 if mark else 1)
                raise ConfigurationError([Problem(position, f"more than {MAX_DEPTH} levels deep").render()])
    except yaml.YAMLError:
        return  # the reader meets it again, and reports it with its position


class _Converter:
    def __init__(self, file: str, problems: Problems) -> None:
        self._file = file
        self._problems = problems
        self._count = 0

    def convert(self, node: yaml.Node, depth: int) -> Node:
        position = self._position(node)
        self._count += 1
        if depth > MAX_DEPTH or self._count > MAX_NODES:
            limit = f"more than {MAX_DEPTH} levels deep" if depth > MAX_DEPTH else "too many values"
            raise ConfigurationError([Problem(position, limit).render()])
        match node:
            case yaml.MappingNode():
                return self._mapping(node, position, depth)
            case yaml.SequenceNode():
                self._require_tag(node, position, "seq")
                return Sequence(tuple(self.convert(item, depth + 1) for item in node.value), position)
            case yaml.ScalarNode():
                value = self._scalar(node, position)
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                return Scalar(value, position, str(node.value) if is_number else "")
        raise ConfigurationError([Problem(position, "not a value that is understood here").render()])

    def _mapping(self, node: yaml.MappingNode, position: Position, depth: int) -> Mapping:
        self._require_tag(node, position, "map")
        entries: list[tuple[Scalar, Node]] = []
        seen: dict[str, Position] = {}
        for key_node, value_node in node.value:
            at = self._position(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self._problems.error(at, "a key must be a plain word")
                continue
            key = str(key_node.value)
            if key in seen:
                self._problems.error(at, f"`{key}` stands twice", f"first on line {seen[key].line}")
                continue
            if key == "<<":
                self._problems.error(at, "merge keys are not part of YAML 1.2", "write the keys out")
                continue
            seen[key] = at
            entries.append((Scalar(key, at), self.convert(value_node, depth + 1)))
        return Mapping(tuple(entries), position)

    def _scalar(self, node: yaml.ScalarNode, position: Position) -> Value:
        text = str(node.value)
        if node.tag not in {"!", "?", None, ""}:
            self._require_tag(node, position, "str")
            return text
        if node.style:  # quoted or block scalars are strings; the C parser gives plain ones an empty style
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INT.match(text):
            # YAML 1.2: a leading zero is decimal; only 0o and 0x change the base.
            base = 16 if text.startswith("0x") else 8 if text.startswith("0o") else 10
            if len(text) > 40:
                self._problems.error(position, "a number of more than 40 digits")
                return None
            return int(text, base)
        if _FLOAT.match(text):
            number = float(text)
            if math.isinf(number):
                self._problems.error(position, f"`{text[:40]}` is too large a number")
                return None
            return number
        return text

    def _require_tag(self, node: yaml.Node, position: Position, kind: str) -> None:
        if node.tag not in {f"{_TAG}{kind}", "!", "?", None, ""}:
            self._problems.error(position, f"the tag `{node.tag}` is not understood here", "leave it out")

    def _position(self, node: yaml.Node) -> Position:
        return Position(self._file, node.start_mark.line + 1, node.start_mark.column + 1)
