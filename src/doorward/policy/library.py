"""What several policies share: named policies and named sets."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from doorward.policy.criteria.port import Parameter
from doorward.policy.nodes import Policy
from doorward.source import Mapping as MappingNode
from doorward.source import Node, Position, Problems, Scalar, Sequence


@dataclass(frozen=True, slots=True)
class NamedSet:
    """Values under a name; each criterion that uses them reads them in its own way."""

    items: tuple[Scalar, ...]
    position: Position
    _read: dict[tuple[int, bool, bool], tuple[str, ...]] = field(default_factory=dict, compare=False, repr=False)
    """Operands by the parameter that read them and how, for the dialects differ: a set of thousands in a thousand routes is read once."""

    def known(self, parameter: Parameter, *, ignore_case: bool, ppl: bool) -> tuple[str, ...] | None:
        """The operands that ``remember`` was given."""
        return self._read.get((id(parameter), ignore_case, ppl))

    def remember(self, parameter: Parameter, operands: tuple[str, ...], *, ignore_case: bool, ppl: bool) -> None:
        """Keep operands that were read without a problem; parameters live as long as the program."""
        self._read[id(parameter), ignore_case, ppl] = operands


@dataclass(frozen=True, slots=True)
class Library:
    """What can be referred to by name. A ``None`` is there, and has errors of its own that were reported already."""

    policies: Mapping[str, Policy | None] = field(default_factory=dict)
    sets: Mapping[str, NamedSet | None] = field(default_factory=dict)


def read_sets(node: Node, problems: Problems) -> dict[str, NamedSet | None]:
    """The sets under ``node``, a mapping of names to lists; every problem is recorded."""
    if not isinstance(node, MappingNode):
        problems.error(node.position, "expected sets by name", "`office: [10.0.0.0/8]`")
        return {}
    return {str(key.value): _read_set(str(key.value), value, problems) for key, value in node.entries}


def _read_set(name: str, node: Node, problems: Problems) -> NamedSet | None:
    if not isinstance(node, Sequence) or not node.items:
        problems.error(node.position, f"the set `{name}` must be a list of at least one value")
        return None
    items = tuple(item for item in node.items if isinstance(item, Scalar))
    for item in node.items:
        if not isinstance(item, Scalar):
            problems.error(item.position, f"the set `{name}` may hold single values only")
    return NamedSet(items, node.position) if len(items) == len(node.items) else None
