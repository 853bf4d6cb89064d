"""Facts from what somebody wrote: people, requests and times of policy tests and of questions.

The keys are the fields of ``PrincipalFacts`` and ``RequestFacts``, found by looking at those types, so that a fact that
is new to the language can be written at once. Nothing here is evaluated: a value is data or a problem.

    principal: {email: alice@example.com, groups: [admins], authenticated_at: 10m ago}
    request: {method: POST, path: /reports, headers: {x-team: blue}}
    time: 2030-03-01T22:00:00+01:00, or 2030-03-01 22:00 Europe/Madrid
"""

import dataclasses
import datetime as dt
import enum
import re
import types
import typing
import zoneinfo
from collections.abc import Mapping as AbstractMapping
from typing import Any, TypeVar

from doorward.policy.criteria.network import folded_address
from doorward.policy.facts import PrincipalFacts, RequestFacts
from doorward.source import Mapping, Node, Position, Problems, Scalar, Sequence, plain, suggestion

Kind = TypeVar("Kind")

NOBODY = "nobody"
"""The name of somebody who is not signed in."""
_AGO = re.compile(r"([0-9]{1,9})\s*(s|m|h|d) ago\Z", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TIME_HELP = "for example `2030-03-01T22:00:00+01:00` or `2030-03-01 22:00 Europe/Madrid`"


class _UnreadableError(Exception):
    """A value that is not what its field takes; the text says what was expected."""


def read_people(node: Node, problems: Problems) -> dict[str, Mapping]:
    """People by name, as written; every problem of any of them is recorded.

    ``node`` maps names to facts, or lists facts that each have a ``name``.
    """
    found: dict[str, Mapping] = {}
    for name, at, facts in _named(node, problems):
        if name == NOBODY or name in found:
            text = "is the word for who is not signed in" if name == NOBODY else "stands twice"
            problems.error(at, f"`{name}` {text}", "choose another name")
            continue
        if read_principal(facts, 0.0, problems, name=name) is not None:
            found[name] = facts
    return found


def _named(node: Node, problems: Problems) -> list[tuple[str, Position, Mapping]]:
    if isinstance(node, Mapping):
        pairs = [(str(key.value), key.position, value) for key, value in node.entries]
    elif isinstance(node, Sequence):
        pairs = []
        for item in node.items:
            name = item.get("name") if isinstance(item, Mapping) else None
            if not isinstance(item, Mapping) or not isinstance(name, Scalar) or not isinstance(name.value, str):
                problems.error(item.position, "expected somebody's facts with a `name`")
                continue
            facts = Mapping(tuple(entry for entry in item.entries if entry[0].value != "name"), item.position)
            pairs.append((name.value, name.position, facts))
    else:
        problems.error(node.position, "expected people by name", "`alice: {email: …, groups: […]}`")
        return []
    found = []
    for name_text, at, value in pairs:
        if isinstance(value, Mapping):
            found.append((name_text, at, value))
        else:
            problems.error(value.position, f"expected the facts of `{name_text}`", "`{email: …, groups: […]}`")
    return found


def read_principal(node: Mapping, now: float, problems: Problems, *, name: str) -> PrincipalFacts | None:
    """Somebody's facts, or ``None`` after recording what is wrong.

    Without ``user_id`` it is ``name``. Without ``groups`` somebody is known to be in none; ``groups: null`` means that
    they are unknown. ``now`` is what ``10m ago`` counts from.
    """
    defaults = {"user_id": name, "groups": frozenset()}
    return _record(PrincipalFacts, node, defaults, now, problems, "fact about a person")


def read_request(node: Mapping, defaults: AbstractMapping[str, Any], problems: Problems) -> RequestFacts | None:
    """What is asked for, or ``None`` after recording what is wrong."""
    facts = _record(RequestFacts, node, defaults, 0.0, problems, "fact about a request")
    written = node.get("client_address")
    if facts is not None and facts.client_address is not None and folded_address(facts.client_address) is None:
        position = written.position if written is not None else node.position
        problems.error(
            position, f"`{facts.client_address}` is no address", "expected one such as `10.1.2.3` or `2001:db8::8`"
        )
        return None
    return facts


def read_time(text: str) -> float:
    """Seconds since the Unix epoch of a date and time with its zone.

    Raises:
        ValueError: the text is no time, or does not say in which zone.
    """
    written, _, zone = text.strip().rpartition(" ")
    try:
        if written and ("/" in zone or zone == "UTC"):
            moment = dt.datetime.fromisoformat(written).replace(tzinfo=zoneinfo.ZoneInfo(zone))
        else:
            moment = dt.datetime.fromisoformat(text.strip())
    except (ValueError, zoneinfo.ZoneInfoNotFoundError, OSError) as error:
        raise ValueError(f"`{text}` is no time") from error
    if moment.tzinfo is None:
        raise ValueError(f"`{text}` does not say in which time zone")
    return moment.timestamp()


def read_time_node(node: Node, problems: Problems) -> float | None:
    """The time under ``node``, or ``None`` after recording what is wrong."""
    text = node.value if isinstance(node, Scalar) else None
    try:
        return read_time(str(text))
    except ValueError as error:
        problems.error(node.position, str(error), _TIME_HELP)
        return None


def _record(
    kind: type[Kind],
    node: Mapping,
    defaults: AbstractMapping[str, Any],
    now: float,
    problems: Problems,
    noun: str,
) -> Kind | None:
    """A value of the dataclass ``kind``."""
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = dict(defaults)
    good = True
    for key, value in node.entries:
        word = str(key.value)
        if word not in hints:
            problems.error(key.position, f"unknown {noun} `{word}`", suggestion(word, hints) or _known(hints))
            good = False
            continue
        try:
            values[word] = _value(hints[word], value, now, problems, word)
        except _UnreadableError as error:
            problems.error(value.position, f"`{word}`: expected {error}")
            good = False
    required = {
        field.name
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]  # only ever called with dataclasses
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING and field.init
    }
    for name in sorted(required - set(values)):
        problems.error(node.position, f"`{name}` is missing")
        good = False
    return kind(**values) if good else None


def _known(names: AbstractMapping[str, object]) -> str:
    return f"known are {', '.join(names)}"


def _value(hint: Any, node: Node, now: float, problems: Problems, field: str) -> Any:
    """``node`` as a value of the type ``hint``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        if isinstance(node, Scalar) and node.value is None and type(None) in arguments:
            return None
        return _alternative([kind for kind in arguments if kind is not type(None)], node, now, problems, field)
    if origin in {frozenset, tuple, list, set}:
        if isinstance(node, Scalar) and isinstance(node.value, str):
            items: tuple[Node, ...] = (node,)
        elif isinstance(node, Sequence):
            items = node.items
        else:
            raise _UnreadableError("a list")
        return origin(_value(arguments[0], item, now, problems, field) for item in items)
    if origin is AbstractMapping or origin is dict:
        if not isinstance(node, Mapping):
            raise _UnreadableError("a mapping")
        # The names of headers are compared in lower case; those of claims are not.
        fold = str.lower if field == "headers" else str
        return {fold(str(key.value)): _value(arguments[1], value, now, problems, field) for key, value in node.entries}
    if hint in {object, Any}:
        return plain(node)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _nested(hint, node, now, problems, field)
    return _scalar(hint, node, now, field)


def _alternative(kinds: list[Any], node: Node, now: float, problems: Problems, field: str) -> Any:
    reasons = []
    for kind in kinds:
        try:
            return _value(kind, node, now, problems, field)
        except _UnreadableError as error:
            reasons.append(str(error))
    raise _UnreadableError(" or ".join(dict.fromkeys(reasons)))


def _nested(hint: Any, node: Node, now: float, problems: Problems, field: str) -> Any:
    if not isinstance(node, Mapping):
        raise _UnreadableError("a mapping")
    inner = Problems()
    value = _record(hint, node, {}, now, inner, f"key of `{field}`")
    problems.extend(inner.all)
    if value is None:
        raise _UnreadableError(f"what a {hint.__name__} holds")
    return value


def _scalar(hint: Any, node: Node, now: float, field: str) -> Any:
    value = node.value if isinstance(node, Scalar) else None
    if hint is float and field.endswith("_at") and isinstance(value, str):
        ago = _AGO.match(value)
        if ago is not None:
            return now - int(ago[1]) * _SECONDS[ago[2]]
        try:
            return read_time(value)
        except ValueError as error:
            raise _UnreadableError(f"a time or `10m ago` ({error})") from error
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str:
        if isinstance(value, str):
            return value
        raise _UnreadableError("a string" if not isinstance(value, int | float) else "a string; put quotes round it")
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        for member in hint:
            if member.value == value:
                return member
        raise _UnreadableError("one of " + ", ".join(f"`{member.value}`" for member in hint))
    names = {float: "a number", int: "a whole number", bool: "true or false"}
    raise _UnreadableError(names.get(hint, "something that cannot be written here"))
