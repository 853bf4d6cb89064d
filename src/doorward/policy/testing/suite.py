"""A test file as cases: who asks for what and when, and what must become of it.

version: 1
configuration: doorward.yaml
people:
  alice: {email: alice@example.com, groups: [admins]}
tests:
  - name: administrators reach the console
    principal: alice
    request: {url: https://console.example.com/}
    effect: allow
"""

import re
from collections.abc import Mapping as AbstractMapping
from dataclasses import dataclass

from doorward.policy.criteria import BY_NAME
from doorward.policy.decision import Effect
from doorward.policy.facts import Facts, PrincipalFacts, RequestFacts
from doorward.policy.nodes import Policy, terms
from doorward.policy.written_facts import NOBODY, read_people, read_principal, read_request, read_time_node
from doorward.route.paths import ambiguity, decoded_path
from doorward.route.route import Match, overlaps
from doorward.source import Mapping, Node, Position, Problems, Scalar, Sequence, suggestion

_HEADER = ("version", "configuration", "policy", "people", "time", "tests")
_CASE = ("name", "route", "principal", "request", "time", "effect", "reasons", "rule")
_URL = re.compile(r"https://([^/:?#@\[\]]+)(?::[0-9]{1,5})?(/[^?#]*)?(?:\?([^#]*))?\Z", re.ASCII)
_CLOCK = "time"
"""The fact that changes by itself: what reads it comes out differently at another time."""
_ANY_HOST = "app.example.com"
_NEW_YEAR_2030 = 1_893_499_200.0
"""Noon UTC on the first of January 2030: the time of cases that do not say one. Never the present, or a test would come
out differently tomorrow."""


@dataclass(frozen=True, slots=True)
class Target:
    """A policy under test, with the requests that it decides."""

    name: str
    policy: Policy
    host: str = _ANY_HOST
    match: Match | None = None
    """``None``: every path."""
    path_parameters: bool = False
    route_id: str = ""
    broken: str | None = None
    """Why the route cannot be served; then its policy decides nothing."""


class Targets:
    """What can be tested: the routes of a configuration in its order, or one policy by itself."""

    def __init__(self, targets: tuple[Target, ...]) -> None:
        self.all = targets

    def named(self, name: str) -> Target | None:
        """The route with this name."""
        return next((target for target in self.all if target.name == name), None)

    def at(self, host: str, path: str) -> Target | None:
        """The route that takes a request: the first that matches, as in Envoy."""
        for target in self.all:
            if target.host == host and (target.match is None or overlaps(target.match, path)):
                return target
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The files that a test file refers to."""

    configuration: str | None
    policy: str | None
    """File with one policy."""
    inline: Node | None
    """The policy, when it stands in the test file itself."""
    people: str | None
    """File with people, when they do not stand in the test file itself."""
    position: Position
    """Where the file that is tested is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question with the answer that is wanted."""

    name: str
    position: Position
    target: Target
    who: str
    """Name of the principal, for people."""
    facts: Facts
    effect: Effect
    reasons: tuple[str, ...] | None
    """Exactly these, in any order; ``None`` when they do not matter."""
    rule: str | None
    """``None`` when it does not matter."""


@dataclass(frozen=True, slots=True)
class Suite:
    """The cases of one file, in its order."""

    cases: tuple[Case, ...]


def read_header(node: Node, problems: Problems) -> Header | None:
    """What ``node`` is about, or ``None`` after recording what is wrong."""
    if not isinstance(node, Mapping):
        problems.error(node.position, "expected a mapping with `version: 1` and `tests`")
        return None
    for key, _ in node.entries:
        if key.value not in _HEADER:
            hint = suggestion(str(key.value), _HEADER) or f"known are {', '.join(_HEADER)}"
            problems.error(key.position, f"unknown key `{key.value}`", hint)
    version = node.get("version")
    if not isinstance(version, Scalar) or version.value != 1 or isinstance(version.value, bool):
        problems.error((version or node).position, "expected `version: 1`")
    policy, configuration = node.get("policy"), node.get("configuration")
    if (policy is None) == (configuration is None):
        at = policy.position if policy is not None else node.position
        problems.error(at, "expected `configuration` or `policy`, and not both", "name the file that is tested")
        return None
    tested = policy or configuration
    assert tested is not None  # noqa: S101  # one of them is there
    inline = policy if policy is not None and not isinstance(policy, Scalar) else None
    people = node.get("people")
    return Header(
        configuration=_file(configuration, problems),
        policy=None if inline is not None else _file(policy, problems),
        inline=inline,
        people=_file(people, problems) if isinstance(people, Scalar) else None,
        position=tested.position,
    )


def read_suite(node: Mapping, targets: Targets, people_elsewhere: Node | None, problems: Problems) -> Suite:
    """The cases under ``node``; every problem of any of them is recorded."""
    written = people_elsewhere or node.get("people")
    people = {} if written is None or isinstance(written, Scalar) else read_people(written, problems)
    time_node = node.get("time")
    now = None if time_node is None else read_time_node(time_node, problems)
    tests = node.get("tests")
    if not isinstance(tests, Sequence) or not tests.items:
        at = (tests or node).position
        problems.error(at, "expected a list of tests", "a file without tests would pass and prove nothing")
        return Suite(())
    reader = _Cases(targets, people, now, problems)
    return Suite(tuple(case for item in tests.items for case in reader.read(item)))


def _file(node: Node | None, problems: Problems) -> str | None:
    if node is None:
        return None
    if not isinstance(node, Scalar) or not isinstance(node.value, str) or not node.value:
        problems.error(node.position, "expected the name of a file")
        return None
    return node.value


def _reads(policy: Policy) -> frozenset[str]:
    """The facts that ``policy`` looks at."""
    found = (BY_NAME[term.criterion].reads_of(term) for rule in policy.rules for term in terms(rule.group))
    return frozenset[str]().union(*found)


def _route(target: Target) -> dict[str, str]:
    """The route's id as a fact, where the language has it."""
    return {"route": target.route_id} if "route" in RequestFacts.__dataclass_fields__ else {}


class _Cases:
    def __init__(
        self, targets: Targets, people: AbstractMapping[str, Mapping], now: float | None, problems: Problems
    ) -> None:
        self._targets = targets
        self._people = people
        self._now = now
        self._problems = problems
        self._names: dict[str, Position] = {}

    def read(self, node: Node) -> list[Case]:
        """The cases of one item; several when ``effect`` names people."""
        if not isinstance(node, Mapping):
            self._problems.error(node.position, "expected a test with a `name` and an `effect`")
            return []
        for key, _ in node.entries:
            if key.value not in _CASE:
                hint = suggestion(str(key.value), _CASE) or f"known are {', '.join(_CASE)}"
                self._problems.error(key.position, f"unknown key `{key.value}` of a test", hint)
        name = self._name(node)
        time_node = node.get("time")
        now = self._now if time_node is None else read_time_node(time_node, self._problems)
        found = self._request(node)
        effect = node.get("effect")
        if found is None or name is None:
            return []
        target, request = found
        if target.broken is not None:
            self._problems.error(node.position, f"`{target.name}` cannot be served", target.broken)
            return []
        if now is None and _CLOCK in _reads(target.policy):
            text = f"the policy of `{target.name}` looks at the clock"
            self._problems.error(node.position, text, "say the `time` of the test")
            return []
        moment = _NEW_YEAR_2030 if now is None else now
        if isinstance(effect, Mapping):
            return self._matrix(node, name, target, request, moment, effect)
        principal = self._principal(node.get("principal"), moment)
        wanted = self._effect(effect, node)
        if principal is None or wanted is None:
            return []
        who, facts = principal
        rule = node.get("rule")
        return [
            Case(
                name=name,
                position=node.position,
                target=target,
                who=who,
                facts=Facts(principal=facts, request=request, now=moment),
                effect=wanted,
                reasons=self._reasons(node.get("reasons")),
                rule=self._rule(rule, target) if rule is not None else None,
            )
        ]

    def _name(self, node: Mapping) -> str | None:
        written = node.get("name")
        if not isinstance(written, Scalar) or not isinstance(written.value, str) or not written.value.strip():
            self._problems.error((written or node).position, "a test needs a `name`", "say what must hold")
            return None
        first = self._names.setdefault(written.value, written.position)
        if first is not written.position:
            self._problems.error(
                written.position, f"two tests are named `{written.value}`", f"the first is on line {first.line}"
            )
            return None
        return written.value

    def _matrix(
        self, node: Mapping, name: str, target: Target, request: RequestFacts, now: float, effects: Mapping
    ) -> list[Case]:
        """One case for each person that ``effect`` names."""
        for word in ("principal", "reasons", "rule"):
            if (other := node.get(word)) is not None:
                self._problems.error(other.position, f"`{word}` does not go with an `effect` for each person")
        cases = []
        for key, value in effects.entries:
            principal = self._principal(Scalar(key.value, key.position), now)
            wanted = self._effect(value, node)
            if principal is not None and wanted is not None:
                who, facts = principal
                cases.append(
                    Case(
                        name=f"{name}: {who}",
                        position=key.position,
                        target=target,
                        who=who,
                        facts=Facts(principal=facts, request=request, now=now),
                        effect=wanted,
                        reasons=None,
                        rule=None,
                    )
                )
        return cases

    def _principal(self, node: Node | None, now: float) -> tuple[str, PrincipalFacts | None] | None:
        """Name and facts of who asks, or ``None`` after recording what is wrong."""
        if node is None or (isinstance(node, Scalar) and node.value in {NOBODY, None}):
            return NOBODY, None
        if isinstance(node, Scalar):
            name = str(node.value)
            known = self._people.get(name)
            if known is None:
                hint = suggestion(name, [*self._people, NOBODY]) or f"`{NOBODY}`, or list them under `people`"
                self._problems.error(node.position, f"nobody is called `{name}`", hint)
                return None
            facts = read_principal(known, now, Problems(), name=name)
            return None if facts is None else (name, facts)
        if not isinstance(node, Mapping):
            self._problems.error(node.position, "expected a name or the facts of somebody")
            return None
        name, written = self._like(node)
        facts = read_principal(written, now, self._problems, name=name)
        return None if facts is None else (name, facts)

    def _like(self, node: Mapping) -> tuple[str, Mapping]:
        """The facts as written, over those of the person that ``like`` names."""
        like = node.get("like")
        if like is None:
            return "somebody", node
        own = Mapping(tuple(entry for entry in node.entries if entry[0].value != "like"), node.position)
        name = like.value if isinstance(like, Scalar) else None
        base = self._people.get(name) if isinstance(name, str) else None
        if base is None:
            hint = suggestion(str(name), self._people) or "name one of `people`"
            self._problems.error(like.position, f"nobody is called `{name}`", hint)
            return "somebody", own
        kept = tuple(entry for entry in base.entries if own.get(str(entry[0].value)) is None)
        changed = ", ".join(own.keys())
        return f"{name} with other {changed}" if changed else str(name), Mapping(kept + own.entries, node.position)

    def _request(self, node: Mapping) -> tuple[Target, RequestFacts] | None:
        written = node.get("request")
        if written is not None and not isinstance(written, Mapping):
            self._problems.error(written.position, "expected `method`, `path` or `url` of a request")
            return None
        url = written.get("url") if written is not None else None
        if written is not None and url is not None:
            return self._by_url(node, written, url)
        target = self._by_name(node)
        if target is None:
            return None
        path = target.match.value if target.match is not None else "/"
        defaults = {"method": "GET", "host": target.host, "path": path, "raw_path": path, **_route(target)}
        request = read_request(written or Mapping((), node.position), defaults, self._problems)
        if request is None:
            return None
        if target.match is not None and not overlaps(target.match, request.path):
            at = (written or node).position
            self._problems.error(at, f"`{target.name}` does not take `{request.path}`", f"it takes `{path}`")
            return None
        return target, request

    def _by_name(self, node: Mapping) -> Target | None:
        route = node.get("route")
        if route is None and len(self._targets.all) == 1:
            return self._targets.all[0]
        name = route.value if isinstance(route, Scalar) else None
        if not isinstance(name, str):
            self._problems.error((route or node).position, "name the `route`, or give the request's `url`")
            return None
        target = self._targets.named(name)
        if target is None:
            assert route is not None  # noqa: S101  # it has a name
            names = [known.name for known in self._targets.all]
            hint = suggestion(name, names) or f"known are {', '.join(names[:8])}"
            self._problems.error(route.position, f"no route is named `{name}`", hint)
        return target

    def _by_url(self, node: Mapping, written: Mapping, url: Node) -> tuple[Target, RequestFacts] | None:
        text = url.value if isinstance(url, Scalar) else None
        match = _URL.match(text) if isinstance(text, str) else None
        if match is None:
            self._problems.error(url.position, f"`{text}` is no address", "`https://host/path?query`")
            return None
        host, raw_path, query = match[1].lower(), match[2] or "/", match[3] or ""
        target = self._targets.at(host, raw_path)
        if target is None:
            hosts = sorted({known.host for known in self._targets.all})
            self._problems.error(url.position, f"no route takes `{text}`", suggestion(host, hosts))
            return None
        route = node.get("route")
        if isinstance(route, Scalar) and route.value != target.name:
            self._problems.error(
                route.position, f"`{text}` is taken by `{target.name}`", "the first route that matches counts"
            )
            return None
        refused = ambiguity(raw_path, allow_parameters=target.path_parameters)
        path = decoded_path(raw_path)
        if refused is not None or path is None:
            self._problems.error(url.position, f"no policy sees `{raw_path}`", f"refused: {refused or 'not UTF-8'}")
            return None
        entries = tuple(entry for entry in written.entries if entry[0].value != "url")
        defaults = {"method": "GET", "host": host, "path": path, "raw_path": raw_path, "query": query, **_route(target)}
        request = read_request(Mapping(entries, written.position), defaults, self._problems)
        return None if request is None else (target, request)

    def _effect(self, node: Node | None, case: Mapping) -> Effect | None:
        word = node.value if isinstance(node, Scalar) else None
        known = [effect.value for effect in Effect]
        if word not in known:
            hint = (suggestion(str(word), known) if word else None) or f"one of {', '.join(known)}"
            at = (node or case).position
            self._problems.error(at, f"`{word}` is no effect" if node else "a test needs an `effect`", hint)
            return None
        return Effect(str(word))

    def _reasons(self, node: Node | None) -> tuple[str, ...] | None:
        if node is None:
            return None
        items = node.items if isinstance(node, Sequence) else (node,)
        words = [item.value if isinstance(item, Scalar) else None for item in items]
        if not words or not all(isinstance(word, str) for word in words):
            self._problems.error(node.position, "expected a list of reasons", "for example `[groups-ok]`")
            return None
        return tuple(sorted(str(word) for word in words))

    def _rule(self, node: Node, target: Target) -> str | None:
        name = node.value if isinstance(node, Scalar) else None
        names = [rule.name for rule in target.policy.rules]
        if name not in names:
            hint = suggestion(str(name), names) or f"its rules are {', '.join(names)}"
            self._problems.error(node.position, f"`{target.name}` has no rule `{name}`", hint)
            return None
        return str(name)
