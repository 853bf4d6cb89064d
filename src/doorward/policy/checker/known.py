"""Groups, claims and domains that do not exist, once it is known which do."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from doorward.policy.facts import PrincipalFacts
from doorward.policy.nodes import Comparison, Policy, Term, terms
from doorward.source import Position, Problems, suggestion

_WHOLE = frozenset(
    {Comparison.IS, Comparison.IN, Comparison.HAS, Comparison.NOT, Comparison.NOT_IN, Comparison.EXCLUDE}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What there is; ``None`` where that is not known, and then nothing is said about it."""

    groups: frozenset[str] | None = None
    """Every group, by each of its names."""
    claims: frozenset[str] | None = None
    """Every claim that somebody has, nested ones by their path."""
    email_domains: frozenset[str] | None = None
    """Every domain that an identity provider vouches for."""

    def with_people(self, people: Iterable[PrincipalFacts]) -> "Known":
        """What the groups and claims of all ``people`` add up to."""
        groups: set[str] = set()
        claims: set[str] = set()
        for person in people:
            for names in (person.groups, *(getattr(person, name, None) for name in ("group_names", "group_emails"))):
                groups |= names or frozenset()
            claims |= set(_paths(person.claims or {}))
        return replace(self, groups=frozenset(groups), claims=frozenset(claims) or None)


def check_known(policy: Policy, known: Known, problems: Problems) -> None:
    """Record what ``policy`` names and does not exist: it lets in nobody, or keeps out nobody."""
    said: set[tuple[str, Position]] = set()
    for rule in policy.rules:
        for term in terms(rule.group):
            for text, hint in _unknown(term, known):
                if (text, term.position) not in said:
                    said.add((text, term.position))
                    problems.warning(term.position, text, hint)


def _unknown(term: Term, known: Known) -> Iterable[tuple[str, str | None]]:
    match term.criterion:
        case "groups" if known.groups is not None:
            for name in _values(term):
                if name not in known.groups:
                    yield f"no group is called `{name}`", suggestion(name, known.groups)
        case "claim" if known.claims is not None:
            path = term.argument.replace(".", "/")
            if path not in {claim.replace(".", "/") for claim in known.claims}:
                yield f"nobody has the claim `{term.argument}`", suggestion(path, known.claims)
        case "email" | "domain" if known.email_domains is not None:
            for value in _values(term):
                domain = value.rpartition("@")[2]
                if domain not in known.email_domains:
                    text = f"no identity provider vouches for addresses at `{domain}`, so they count for nobody"
                    yield text, suggestion(domain, known.email_domains)


def _values(term: Term) -> Iterable[str]:
    for matcher in term.matchers:
        if matcher.comparison in _WHOLE:
            yield from matcher.operand


def _paths(claims: object, prefix: str = "") -> Iterable[str]:
    """The paths of nested claims, of each level."""
    if hasattr(claims, "items"):
        for name, value in claims.items():
            path = f"{prefix}/{name}" if prefix else str(name)
            yield path
            yield from _paths(value, path)
