"""A question on the command line as the case that it is: who asks for what and when."""

from dataclasses import dataclass

from doorward.errors import ConfigurationError
from doorward.policy.testing import Case, Targets, read_suite
from doorward.source import Mapping, Node, Position, Problems, node_of, read_yaml

HERE = Position("command line", 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The options of a question, as written."""

    route: str | None = None
    principal: str | None = None
    """A name, or somebody's facts as YAML."""
    email: str | None = None
    groups: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    """``path=value`` each."""
    url: str | None = None
    method: str | None = None
    path: str | None = None
    headers: tuple[str, ...] = ()
    """``name: value`` each."""
    address: str | None = None
    time: str | None = None

    def pinned(self) -> frozenset[str]:
        """The facts about the request that are given, by the names that policies declare."""
        found = {"http_host", "route"}
        found |= {"http_path", "http_query"} if self.url or self.path else set()
        found |= {"http_method"} if self.method else set()
        found |= {"http_header"} if self.headers else set()
        found |= {"client_address"} if self.address else set()
        found |= {"time"} if self.time else set()
        return frozenset(found)


def case_of(question: Question, targets: Targets, people: Node | None, now: str, problems: Problems) -> Case | None:
    """``question`` as a case, or ``None`` after recording what is wrong with it. ``now`` is the time without ``--at``."""
    test = {
        "name": "question",
        "effect": "allow",  # a case must want something; nobody looks at it
        "route": question.route,
        "principal": _principal(question, problems),
        "request": _without_none(
            {
                "url": question.url,
                "method": question.method,
                "path": question.path,
                "client_address": question.address,
                "headers": _headers(question.headers, problems),
            }
        ),
        "time": question.time or now,
    }
    document = node_of({"tests": [_without_none(test)]}, HERE)
    assert isinstance(document, Mapping)  # noqa: S101  # made above
    suite = read_suite(document, targets, people, problems)
    return suite.cases[0] if suite.cases and not problems.has_errors else None


def _without_none(values: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _principal(question: Question, problems: Problems) -> object:
    """Who asks: a name, facts, or ``None`` for nobody."""
    text = question.principal
    if text is not None and text.lstrip().startswith("{"):
        try:
            return read_yaml(text, "--as")
        except ConfigurationError as error:
            problems.error(HERE, f"the facts after --as cannot be read: {error}")
            return None
    claims = {}
    for claim in question.claims:
        name, separator, value = claim.partition("=")
        if not separator:
            problems.error(HERE, f"`{claim}` is no claim", "write `name=value`")
        claims[name] = value
    facts = _without_none({"email": question.email, "groups": list(question.groups) or None, "claims": claims or None})
    if text is None:
        return facts or None
    return {"like": text, **facts} if facts else text


def _headers(headers: tuple[str, ...], problems: Problems) -> dict[str, list[str]] | None:
    found: dict[str, list[str]] = {}
    for header in headers:
        name, separator, value = header.partition(":")
        if not separator:
            problems.error(HERE, f"`{header}` is no header", "write `name: value`")
        found.setdefault(name.strip().lower(), []).append(value.strip())
    return found or None
