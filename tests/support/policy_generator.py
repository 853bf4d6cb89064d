"""Generated policies and facts over few values, so that they meet. Who chooses is Hypothesis, or a plain random generator.

Everything of the language is reached: each criterion with each of its keys and matchers, both dialects, and facts that
are missing, unknown, unreadable or in the wrong form.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from hypothesis import strategies as st

from doorward.policy import (
    ClientCertificateFacts,
    DeviceFacts,
    Dialect,
    Facts,
    GrantFacts,
    Policy,
    PrincipalFacts,
    RequestFacts,
)
from doorward.policy.criteria import BY_NAME, CRITERIA
from doorward.policy.criteria.families import folded_parameters
from doorward.policy.criteria.matching import NUMERIC_COMPARISONS, fold
from doorward.policy.criteria.port import Criterion, Key, Operand, Several
from doorward.policy.nodes import Action, Comparison, Expression, Group, Matcher, Operator, Rule, Term
from doorward.source import Position

AT = Position("generated", 1, 1)
Item = TypeVar("Item")
NOW = 1_900_000_000.0  # 2030-03-17T17:46:40Z, a Sunday
FINGERPRINTS = ["1" * 64, "2" * 64]
SPKI_HASHES = ["A" * 43 + "=", "B" * 42 + "A="]

_VALUES: dict[tuple[str, str], list[str]] = {
    ("user", ""): ["u1", "u2", "u", "U1"],
    ("email", ""): ["a@x.example", "b@x.example", "a@y.example"],
    ("domain", ""): ["x.example", "y.example"],
    ("groups", ""): ["g1", "g2", "g3", "n1", "n1@x.example"],
    ("claim", ""): ["c1", "c2", "true", "C1", "7"],
    ("grant", ""): ["on-call", "repair"],
    ("device", ""): ["d1", "d2"],
    ("record", ""): ["r1", "r2", "7"],
    ("record", "type"): ["hr.example/person", "t2"],
    ("record", "field"): ["f", "n/m", "absent"],
    ("http_method", ""): ["GET", "PUT", "OPTIONS"],
    ("http_path", ""): ["/", "/a", "/a/b", "b", "/A"],
    ("http_host", ""): ["app.example", "b.example"],
    ("http_header", ""): ["h1", "h2", "H1", "7", "curl"],
    ("http_query", ""): ["q1", "q2", "Q1", "7"],
    ("source_ip", ""): ["10.0.0.0/8", "10.1.2.3", "::ffff:10.0.0.0/104", "2001:db8::/32", "::/0", "0.0.0.0/0"],
    ("client_certificate", "fingerprint"): FINGERPRINTS,
    ("client_certificate", "spki_hash"): SPKI_HASHES,
    ("client_certificate", "san_dns"): ["a.x.example", "b.x.example"],
    ("client_certificate", "san_email"): ["a@x.example", "b@x.example"],
    ("client_certificate", "san_uri"): ["spiffe://x/a", "spiffe://x/b"],
    ("authentication", "max_age"): ["1m", "1h", "30d"],
    ("authentication", "methods"): ["pwd", "otp", "hwk"],
    ("authentication", "context_class"): ["mfa", "phr"],
    ("authentication", "provider"): ["corp", "partner"],
    ("date", "after"): ["2030-03-17", "2030-03-17T17:46:40Z", "2029-01-01"],
    ("date", "before"): ["2030-03-18", "2031-01-01T00:00:00+02:00"],
    ("day_of_week", ""): ["mon-fri", "sat,sun", "*", "sunday"],
    ("time_of_day", "after"): ["08:00", "17:46:40", "10 PM"],
    ("time_of_day", "before"): ["18:00", "06:00", "17:46:41"],
    **{
        key: ["UTC", "Europe/Madrid", "Pacific/Auckland", "America/New_York"]
        for key in [("date", "timezone"), ("day_of_week", "timezone"), ("time_of_day", "timezone")]
    },
}
_ARGUMENTS = {
    "claim": ["c", "n/m", "absent", "a/b/c/d/e/f"],
    "http_header": ["x-team", "user-agent", "absent"],
    "http_query": ["q", "r", "absent"],
    "groups": ["", "", "id", "name", "email"],
    "user": ["", "", "subject"],
}
_PPL_ARGUMENTS = {"groups": "id", "user": "subject"}
"""PPL's documents name groups and people in one way only."""
_REQUIRED = {"record": ["type"], "time_of_day": ["timezone"], "day_of_week": [""]}
_ONE_OF = {"date": ["after", "before"], "time_of_day": ["after", "before"], "record": [""]}


class Choices(Protocol):
    """Whoever chooses."""

    def pick(self, items: Sequence[Item]) -> Item: ...

    def upto(self, most: int) -> int: ...


class RandomChoices:
    """Chooses quickly, and again the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def pick(self, items: Sequence[Item]) -> Item:
        return items[int(self._random.random() * len(items))]

    def upto(self, most: int) -> int:
        return int(self._random.random() * (most + 1))


class DrawnChoices:
    """Lets Hypothesis choose, and so shrink."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def pick(self, items: Sequence[Item]) -> Item:
        return items[self._draw(st.integers(0, len(items) - 1))] if len(items) > 1 else items[0]

    def upto(self, most: int) -> int:
        return self._draw(st.integers(0, most))


class BrokenClaims(Mapping[str, object]):
    """Claims that fail when they are read, as a lazily decoded token might."""

    def __getitem__(self, key: str) -> object:
        raise ValueError(key)

    def __contains__(self, key: object) -> bool:
        raise ValueError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def some(choices: Choices, items: Sequence[Item], most: int = 3, least: int = 0) -> list[Item]:
    found = [choices.pick(items) for _ in range(least + choices.upto(most - least))]
    return list(dict.fromkeys(found))


def make_term(choices: Choices, *, ppl: bool = False) -> Term:
    known = [criterion for criterion in CRITERIA if criterion.in_ppl or not ppl]
    criterion = choices.pick(known)
    argument = choices.pick(_ARGUMENTS[criterion.name]) if criterion.takes_argument else ""
    if ppl and criterion.argument_optional:
        argument = _PPL_ARGUMENTS[criterion.name]
    ignore_case = criterion.folds_case and not ppl and choices.upto(3) == 0
    optional = criterion.may_be_absent and (ppl or choices.upto(3) == 0)
    for _ in range(50):
        matchers = _matchers(choices, criterion, ignore_case=ignore_case)
        own = [matcher for matcher in matchers if matcher.field == ""]
        alone = len(own) == 1 or all(m.operand != ("false",) or m.comparison is not Comparison.EXISTS for m in own)
        over_midnight = ppl and criterion.name == "time_of_day" and _is_over_midnight(matchers)
        if criterion.check(matchers) is None and alone and not over_midnight:
            return Term(criterion.name, argument, matchers, AT, ignore_case, optional)
    return Term("accept", "", (), AT)  # Hypothesis may choose the same bad matchers each time


def _is_over_midnight(matchers: Sequence[Matcher]) -> bool:
    """What the parser turns into `reject` in PPL's documents."""
    bounds = {matcher.field: matcher.operand[0] for matcher in matchers}
    return "after" in bounds and "before" in bounds and bounds["after"] >= bounds["before"]


def _matchers(choices: Choices, criterion: Criterion, *, ignore_case: bool) -> tuple[Matcher, ...]:
    if criterion.operand is Operand.NOTHING or (criterion.takes_true and choices.upto(3) == 0):
        return ()
    name = criterion.name
    fields = [*_REQUIRED.get(name, []), choices.pick(_ONE_OF.get(name, sorted(criterion.keys)))]
    if choices.upto(2) == 0:
        fields.append(choices.pick(sorted(criterion.keys)))
    found = []
    for field in dict.fromkeys(fields):
        key = criterion.keys[field]
        known = sorted(folded_parameters(key) if ignore_case else key.comparisons)
        for comparison in some(choices, known, 2, 1):
            found.append(_matcher(choices, criterion, field, key, comparison, ignore_case=ignore_case))
    return tuple(found)


def _matcher(
    choices: Choices, criterion: Criterion, field: str, key: Key, comparison: Comparison, *, ignore_case: bool
) -> Matcher:
    parameter = key.comparisons[comparison]
    most = 1 if parameter.several is Several.ONE else 3
    texts = parameter.words or _VALUES[criterion.name, field]
    operand = []
    for text in some(choices, texts, most, 1):
        written = _written(choices, comparison, text) if not parameter.words else text
        canonical = parameter.canonical(written)
        operand.append(fold(canonical) if ignore_case else canonical)
    return Matcher(comparison, tuple(dict.fromkeys(operand)), field)


def _written(choices: Choices, comparison: Comparison, text: str) -> str:
    size = 1 + choices.upto(2)
    match comparison:
        case Comparison.CONTAINS | Comparison.STARTS_WITH | Comparison.ENDS_WITH:
            return choices.pick([text[:size], text[-size:], text])
        case Comparison.GLOB:
            return choices.pick([text, text[:size] + "*", "*" + text[-size:], "**", "?" * len(text), "*/*"])
        case Comparison.REGEX:
            return choices.pick([f"^{text[:1]}", f"{text[-1:]}$", "^[a-z0-9]+$", "1|2", "(?i)C1", "^/?a", ""]) or "."
        case _ if comparison in NUMERIC_COMPARISONS:
            return choices.pick(["7", "07.0", "-1", "6.5", "8"])
        case _:
            return text


def make_group(choices: Choices, depth: int = 2, *, ppl: bool = False) -> Group:
    def member() -> Expression:
        if depth and not ppl and choices.upto(3) == 0:
            return make_group(choices, depth - 1)
        return make_term(choices, ppl=ppl)

    return Group(choices.pick(list(Operator)), tuple(member() for _ in range(1 + choices.upto(3))), AT)


def make_policy(choices: Choices) -> Policy:
    if choices.upto(5) == 0:
        return _people(choices)
    ppl = choices.upto(4) == 0
    return _policy([(a, make_group(choices, ppl=ppl)) for a in _actions(choices, 4)], ppl=ppl)


def _people(choices: Choices) -> Policy:
    """Rules that only say who, which the compiler turns into tables."""
    rules = []
    ppl = choices.upto(4) == 0
    for action in _actions(choices, 6):
        members = []
        for _ in range(1 + choices.upto(2)):
            name = choices.pick(["email", "domain", "user", "groups"])
            comparison = Comparison.HAS if name == "groups" else choices.pick([Comparison.IS, Comparison.IN])
            most = 1 if comparison is Comparison.IS else 3
            values = some(choices, _VALUES[name, ""], most, 1)
            argument = _PPL_ARGUMENTS.get(name, "") if ppl else ""
            members.append(Term(name, argument, (Matcher(comparison, tuple(values)),), AT))
        rules.append((action, Group(Operator.OR, tuple(members), AT)))
    return _policy(rules, ppl=ppl)


def _actions(choices: Choices, most: int) -> list[Action]:
    return [choices.pick([Action.ALLOW, Action.ALLOW, Action.DENY]) for _ in range(choices.upto(most))]


def _policy(pairs: list[tuple[Action, Group]], *, ppl: bool) -> Policy:
    rules: list[Rule] = []
    for action, group in pairs:
        number = 1 + sum(rule.action is action for rule in rules)
        rules.append(Rule(action, group, f"{action}-{number}", AT))
    return Policy(tuple(rules), AT, Dialect.PPL if ppl else Dialect.VERSION_1)


def make_claims(choices: Choices) -> Mapping[str, object] | None:
    if choices.upto(15) == 0:
        return choices.pick([BrokenClaims(), None])
    found: dict[str, object] = {}
    if choices.upto(3):
        found["c"] = choices.pick(["c1", "c2", "C1", True, 7, 6.5, None, ["c1", "c2"], [], [["c1"]], {"x": 1}])
    if choices.upto(2):
        found["n"] = choices.pick(["c1", {"m": "c1"}, {"m": ["c2"]}, {}, {"m": 8}])
    if choices.upto(9) == 0:
        found["_claim_names"] = choices.pick([{"c": "src1"}, {"n": "src1", "absent": "src1"}, "c", {}])
    return found


def make_principal(choices: Choices) -> PrincipalFacts:
    groups = [None, frozenset[str](), *(frozenset(some(choices, ["g1", "g2", "g3"], 3, 1)) for _ in range(3))]
    record = choices.pick([None, {}, {"f": "r1"}, {"f": ["r1", "r2"]}, {"f": 7, "n": {"m": "r2"}}, {"f": {"a": 1}}])
    devices = choices.pick([None, (), (("d1", "any", False),), (("d1", "enclave_only", True), ("d2", "any", True))])
    grant = GrantFacts(
        name=choices.pick(["on-call", "repair"]),
        routes=frozenset(some(choices, ["app", "billing"], 2)),
        starts_at=NOW + choices.pick([-60, 0, 60]),
        ends_at=NOW + choices.pick([0, 1, 3600]),
    )
    names = frozenset(some(choices, ["n1", "n2", "g1"], 2))
    emails = frozenset(some(choices, ["n1@x.example"], 1))
    return PrincipalFacts(
        user_id=choices.pick(["u1", "u2", "u", "U1"]),
        subject=choices.pick(["u1", "s"]),
        email=choices.pick([*_VALUES["email", ""], "A@X.example", "a@b@x.example", "a@x.example.", "", None]),
        groups=choices.pick(groups),
        group_ids=choices.pick([None, None, frozenset(some(choices, ["g1", "g2"], 2))]),
        group_names=choices.pick([None, names]),
        group_emails=choices.pick([None, emails]),
        claims=make_claims(choices),
        identity_provider_id=choices.pick([None, "corp", "partner"]),
        authenticated_at=choices.pick([None, NOW, NOW - 60, NOW - 3599, NOW - 86400, NOW + 5]),
        methods=tuple(some(choices, ["pwd", "otp", "hwk"], 2)),
        context_class=choices.pick([None, "mfa", "phr"]),
        devices=None if devices is None else tuple(DeviceFacts(id=i, type=t, approved=a) for i, t, a in devices),
        grants=choices.pick([None, (), (grant,), (grant, replace(grant, name="on-call", ends_at=NOW + 9))]),
        records=choices.pick([{}, {"hr.example/person": record}, {"hr.example/person": record, "t2": {"f": "r2"}}]),
    )


def make_request(choices: Choices) -> RequestFacts:
    header_values: list[tuple[str, ...]] = [
        ("h1",),
        ("h2",),
        ("H1",),
        ("h1", "h2"),
        ("h1", "h1"),
        ("h1,h2",),
        ("7",),
        ("",),
        (),
    ]
    headers = {"x-team": choices.pick(header_values), "user-agent": choices.pick([("Curl/8",), ("curl",)])}
    if choices.upto(1):
        headers |= {"origin": ("https://a.example",), "access-control-request-method": ("PUT",)}
    certificate = ClientCertificateFacts(
        fingerprint=choices.pick(FINGERPRINTS),
        spki_hash=choices.pick(SPKI_HASHES),
        san_dns=tuple(some(choices, ["a.x.example", "B.x.example"], 2)),
        san_email=tuple(some(choices, ["a@x.example"], 1)),
        san_uri=tuple(some(choices, ["spiffe://x/a"], 1)),
        not_before_at=NOW + choices.pick([-60, 0, 60]),
        not_after_at=NOW + choices.pick([-1, 0, 60]),
    )
    return RequestFacts(
        method=choices.pick(["GET", "PUT", "OPTIONS", "get"]),
        host=choices.pick(["app.example", "b.example"]),
        path=choices.pick(["/", "/a", "/a/b", "b", "/A", "/a*", "/a\n"]),
        query=choices.pick(["", "q=q1", "q=Q1&r=7", "q=q1&q=q2", "q=q1;r=7", "q=%7", "q=%ff", "a=%71%31&%71=q2", "q"]),
        headers=headers,
        known_headers=choices.pick([None, None, None, frozenset(), frozenset({"x-team", "origin"})]),
        client_address=choices.pick(
            [None, "10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1", "192.0.2.1", "fe80::1%eth0", "x"]
        ),
        client_certificate=choices.pick([None, certificate]),
        is_certificate_unknown=choices.pick([False, False, False, True]),
        route=choices.pick(["", "app", "billing"]),
    )


def make_facts(choices: Choices) -> Facts:
    return Facts(
        principal=None if choices.upto(4) == 0 else make_principal(choices),
        request=make_request(choices),
        now=NOW + choices.pick([0, 0, 0.5, 1, 3600, 6 * 3600, 86400, -0.25]),
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    return make_policy(DrawnChoices(draw))


@st.composite
def policies_and_groups(draw: st.DrawFn) -> tuple[Policy, Group]:
    """A policy, and a group that could stand in it."""
    choices = DrawnChoices(draw)
    policy = make_policy(choices)
    return policy, make_group(choices, ppl=policy.dialect is Dialect.PPL)


@st.composite
def all_facts(draw: st.DrawFn) -> Facts:
    return make_facts(DrawnChoices(draw))


def is_reached(name: str) -> bool:
    """Whether the generator has values for every key of a criterion that needs some."""
    criterion = BY_NAME[name]
    return all(
        (name, field) in _VALUES or all(parameter.words for parameter in key.comparisons.values())
        for field, key in criterion.keys.items()
    )
