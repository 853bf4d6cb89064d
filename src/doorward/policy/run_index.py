"""A run of rules that ask who somebody is, as tables: hundreds of lists cost a look-up for each fact.

Only rules whose group is one list of alternatives (``or``, or a single member) of plain e-mail addresses, domains, user
ids and groups are taken. Whoever decides by other facts stands outside the run, so that the order of rules stays.
"""

from typing import TypeAlias

from doorward.policy.criteria import BY_NAME
from doorward.policy.criteria.membership import group_ids
from doorward.policy.criteria.person import READERS
from doorward.policy.decision import Decision, Effect
from doorward.policy.facts import Facts, PrincipalFacts
from doorward.policy.nodes import Comparison, Expression, Operator, Rule, Term
from doorward.policy.truth import Truth

_Place: TypeAlias = tuple[int, int]
"""Number of the rule in the run, and of the member in it."""
_EQUALS = frozenset({Comparison.IS, Comparison.IN})
_HAS = frozenset({Comparison.HAS})
_INDEXED = {
    "email": _EQUALS,
    "domain": _EQUALS,
    "user": _EQUALS,
    "user/subject": _EQUALS,
    "groups": _HAS,
    "groups/id": _HAS,
}
SMALLEST_RUN = 3
_REMEMBERED_SETS = 1024
_LARGE_SET = 64


def is_indexable(rule: Rule) -> bool:
    """Whether ``rule`` may stand in a run."""
    return (rule.group.operator is Operator.OR or len(rule.group.members) == 1) and (
        rule.group.operator in {Operator.OR, Operator.AND} and all(map(_is_plain, rule.group.members))
    )


def _is_plain(member: Expression) -> bool:
    return (
        isinstance(member, Term)
        and not member.ignore_case
        and len(member.matchers) == 1
        and member.matchers[0].comparison in _INDEXED.get(member.label, ())
    )


class RunIndex:
    """The tables of one run."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules
        tables: dict[str, dict[str, _Place]] = {name: {} for name in _INDEXED}
        self._decisions: dict[_Place, Decision] = {}
        for number, rule in enumerate(rules):
            for member_number, member in enumerate(rule.group.members):
                if not isinstance(member, Term):
                    raise TypeError("only rules that `is_indexable` has seen belong here")
                place = (number, member_number)
                reason = BY_NAME[member.criterion].success
                self._decisions[place] = Decision(effect=Effect.ALLOW, reasons=(reason,), rule=rule.name)
                for value in member.matchers[0].operand:
                    tables[member.label].setdefault(value, place)
        self._by_any_name = _GroupTable(tables.pop("groups"))
        self._by_id = _GroupTable(tables.pop("groups/id"))
        self._singles = tuple((READERS[name], table) for name, table in tables.items() if table)
        self._asks_groups = bool(self._by_any_name.places or self._by_id.places)

    def test(self, facts: Facts) -> Truth:
        """Whether any rule of the run holds; ``UNKNOWN`` when none does and one of the facts is unknown."""
        principal = facts.principal
        if principal is None:
            return Truth.ANONYMOUS
        truth = Truth.FALSE
        for read, table in self._singles:
            value = read(principal)
            if value is None:
                truth = Truth.UNKNOWN
            elif value in table:
                return Truth.TRUE
        if not self._asks_groups:
            return truth
        if principal.groups is None:
            return Truth.UNKNOWN
        return truth if self._group_place(principal) is None else Truth.TRUE

    def decision(self, facts: Facts) -> Decision:
        """The decision of the first rule that holds, given that one does."""
        principal = facts.principal
        if principal is None:
            raise ValueError("no rule of a run holds for nobody")
        values = [(read(principal), table) for read, table in self._singles]
        places = [table[value] for value, table in values if value is not None and value in table]
        found = self._group_place(principal)
        return self._decisions[min(places if found is None else (*places, found))]

    def _group_place(self, principal: PrincipalFacts) -> _Place | None:
        if principal.groups is None:
            return None
        sets = (principal.groups, principal.group_names, principal.group_emails)
        places = [self._by_any_name.first(names) for names in sets if names]
        places.append(self._by_id.first(group_ids(principal) or frozenset()))
        return min((place for place in places if place is not None), default=None)


class _GroupTable:
    """Where each group stands first."""

    def __init__(self, places: dict[str, _Place]) -> None:
        self.places = places
        self._names = frozenset(places)
        self._remembered: dict[frozenset[str], _Place | None] = {}

    def first(self, names: frozenset[str]) -> _Place | None:
        """The first place of any of ``names``; large sets are looked through once, for a session brings the same again."""
        if len(names) < _LARGE_SET:
            return None if self._names.isdisjoint(names) else self._look(names)
        if names in self._remembered:
            return self._remembered[names]
        if len(self._remembered) >= _REMEMBERED_SETS:
            self._remembered.clear()
        place = self._remembered[names] = self._look(names)
        return place

    def _look(self, names: frozenset[str]) -> _Place | None:
        return min((self.places[name] for name in self._names.intersection(names)), default=None)
