"""Models over positioned nodes: pydantic's findings as problems that point at the operator's text."""

from collections import Counter
from typing import TypeVar, get_args

from pydantic import BaseModel, ValidationError

from doorward.source import Mapping, Node, Position, Problems, Sequence, plain, suggestion

Model = TypeVar("Model", bound=BaseModel)
_ABSENT = object()


def validate(model: type[Model], node: Mapping, problems: Problems, *, opaque: frozenset[str]) -> Model | None:
    """``node`` as ``model``, or ``None`` after recording every problem.

    The values under the keys in ``opaque`` are handed over as nodes, unread: they have readers of their own.
    """
    data = {str(key.value): value if key.value in opaque else plain(value) for key, value in node.entries}
    try:
        return model.model_validate(data)
    except ValidationError as error:
        findings = error.errors(include_url=False)
        places = Counter(_named(finding["loc"]) for finding in findings)
        for finding in findings:
            location = finding["loc"]
            if finding["type"] == "literal_error" and places[_named(location)] > 1:
                continue  # one of several kinds that the value might have been; another says more
            if finding["type"] == "extra_forbidden":
                word = str(location[-1])
                known = _fields_at(model, location[:-1])
                problems.error(_key_position(node, location), f"unknown key `{word}`", suggestion(word, known))
            elif finding["type"] == "missing":
                problems.error(position_of(node, location[:-1]), f"`{location[-1]}` is missing")
            else:
                name = ".".join(map(str, _named(location)))
                problems.error(position_of(node, location), f"`{name}`: {_sentence(str(finding['msg']))}")
        return None


def salvaged(
    model: type[Model], node: Mapping, *, opaque: frozenset[str], stand_ins: dict[str, object]
) -> Model | None:
    """What ``validate`` refused, without the parts that it complained of: good for finding what else is wrong.

    ``stand_ins`` are values for required keys. Nothing may be served by the result.
    """
    data = {str(key.value): value if key.value in opaque else plain(value) for key, value in node.entries}
    data = {**stand_ins, **data}
    for _ in range(len(data) + 1):
        try:
            return model.model_validate(data)
        except ValidationError as error:
            for finding in error.errors(include_url=False):
                name = str(finding["loc"][0])
                if finding["type"] == "extra_forbidden" and _without(data, finding["loc"]):
                    continue
                data.pop(name, None)
                if name in stand_ins:
                    data[name] = stand_ins[name]
    return None


def _without(data: object, location: tuple[str | int, ...]) -> bool:
    """Take the key at ``location`` out of nested plain values; false when it is not there."""
    for part in location[:-1]:
        match data:
            case dict() if part in data:
                data = data[part]
            case list() if isinstance(part, int) and part < len(data):
                data = data[part]
            case _ if not _is_variant(part):
                return False
    return isinstance(data, dict) and data.pop(location[-1], _ABSENT) is not _ABSENT


def position_of(node: Node, location: tuple[str | int, ...]) -> Position:
    """Where the value at ``location`` stands; the nearest enclosing one when there is none."""
    for part in location:
        match node:
            case Mapping() if isinstance(part, str) and (child := node.get(part)) is not None:
                node = child
            case Sequence() if isinstance(part, int) and part < len(node.items):
                node = node.items[part]
            case _:
                if not _is_variant(part):
                    break
    return node.position


def _key_position(node: Node, location: tuple[str | int, ...]) -> Position:
    """Where the key at the end of ``location`` stands."""
    parent: Node = node
    for part in location[:-1]:
        match parent:
            case Mapping() if isinstance(part, str) and (child := parent.get(part)) is not None:
                parent = child
            case Sequence() if isinstance(part, int) and part < len(parent.items):
                parent = parent.items[part]
            case _:
                continue
    if isinstance(parent, Mapping):
        for key, _ in parent.entries:
            if key.value == location[-1]:
                return key.position
    return parent.position


def _fields_at(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """The keys that are known at ``location`` below ``model``."""
    current: type[BaseModel] = model
    for part in location:
        field = next((f for n, f in current.model_fields.items() if part in {n, f.alias}), None)
        if field is None:
            continue
        nested = [t for t in (field.annotation, *get_args(field.annotation)) if _is_model(t)]
        if nested:
            current = nested[0]
    return [field.alias or name for name, field in current.model_fields.items()]


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _named(location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """``location`` as it stands in the text."""
    return tuple(part for part in location if not _is_variant(part))


def _is_variant(part: str | int) -> bool:
    """Whether pydantic added ``part`` to name a member of a union; it is not in the text."""
    return isinstance(part, str) and (part in {"str", "int"} or part.startswith(("list[", "function-", "literal[")))


def _sentence(message: str) -> str:
    """Pydantic's text in the house's form."""
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
