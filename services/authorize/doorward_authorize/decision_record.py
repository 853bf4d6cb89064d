"""A decision as one JSON object: who, what, why, by which configuration and data, and the inputs that the policy read.

Values that come from outside are keyed hashes, unless the operator marked their fact as loggable: equal ones can be found, and whoever
holds the key can tell whether a value was the one, but nobody can read them. Headers that carry credentials never appear, not even so.
"""

import hmac
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from json.encoder import encode_basestring_ascii as quoted

from doorward.errors import DoorwardError
from doorward.keys.keyring import Key, Keyring
from doorward.policy import PrincipalFacts, RequestFacts
from doorward.records.record import RecordVersion
from doorward_authorize.check_request import CheckedRequest
from doorward_authorize.outcome import NOT_RECORDED, Outcome, Verdict

NO_STATUS = 0
"""The status of a decision that no client has got an answer by: one that a program was told, or that ended a stream."""
_UNAVAILABLE_STATUS = 503
_REMEMBERED = 4_096
_REMEMBERED_CHARACTERS = 256
_METHOD_CHARACTERS = 32
"""Longer methods are the client's invention."""
_MEMBERS = 64
"""Longer collections are hashed as a whole."""
_IN_COLUMNS = frozenset(
    {"principal", "http_method", "http_host", "client_address", "route", "time", "grants", "devices"}
)
"""Facts that the record names anyway, or by the versions of the data that they come from."""
CREDENTIAL_HEADERS = frozenset(
    {"authorization", "cookie", "doorward-authorization", "proxy-authorization", "set-cookie"}
)


@dataclass(slots=True)
class DecisionRecord:
    """One decision; not frozen, because one is made for each check. It is put into words when it is written."""

    id: str
    time: float
    """Seconds since the Unix epoch."""
    request: CheckedRequest
    outcome: Outcome
    status: int
    generation: str
    data_version: RecordVersion


def not_recorded(record: DecisionRecord) -> DecisionRecord:
    """What is to be found by the id of a decision that nobody was told, because ``record`` was not on the disk in time: a refusal.

    Who asked for what, and what a policy read, stay.
    """
    outcome = replace(record.outcome, verdict=Verdict.UNAVAILABLE, reasons=(NOT_RECORDED,), rule=None)
    status = NO_STATUS if record.status == NO_STATUS else _UNAVAILABLE_STATUS
    return replace(record, outcome=outcome, status=status)


class RecordEncoder:
    """Puts records into words. Each names the key that its hashes are made with: the first of ``keys`` at that moment.

    Concurrency: belongs to one event loop.
    """

    def __init__(self, keys: Keyring, loggable: Collection[str]) -> None:
        self._keys = keys
        self._loggable = frozenset(loggable)
        self._fixed: dict[object, str] = {}
        self._values: dict[object, str] = {}
        self._follow(keys.primary)

    def encode(self, record: DecisionRecord) -> str:
        """One line, with its end."""
        if self._keys.primary is not self._hashes_with:
            self._follow(self._keys.primary)
        request, outcome = record.request, record.outcome
        gateway = f'"gateway":{quoted(request.gateway)},' if request.gateway else ""
        return (
            f'{{"decision_id":{quoted(record.id)},"time":{record.time:.6f},{self._common(record)}'
            f'"hash_key":"{self._key_id}","path_hash":{self._hashed("http_path", request.target)},'
            f'"user_id":{_text(outcome.user_id)},'
            f'"session_id":{_text(outcome.session_id)},"data_version":"{record.data_version}",'
            f'{gateway}"request_id":{quoted(request.request_id)},"client_address":{_text(request.client_address)},'
            f'"inputs":{self._inputs(record)}}}\n'
        )

    def _follow(self, key: Key) -> None:
        """Hash with ``key`` from now on."""
        self._key = key.secret.reveal()
        self._key_id = key.id.hex()
        self._values.clear()
        self._hashes_with = key

    def _common(self, record: DecisionRecord) -> str:
        """What many records share."""
        request, outcome = record.request, record.outcome
        key = (
            request.route_id, request.host, request.method, outcome.verdict.value, record.status, outcome.reasons,
            outcome.rule, record.generation,
        )  # fmt: skip
        known = self._fixed.get(key)
        if known is None:
            names = ("route", "host", "method", "outcome", "status", "reasons", "rule", "generation")
            known = json.dumps(dict(zip(names, key, strict=True)), separators=(",", ":"))[1:-1] + ","
            if len(request.method) <= _METHOD_CHARACTERS:
                _remember(self._fixed, key, known)
        return known

    def _inputs(self, record: DecisionRecord) -> str:
        outcome = record.outcome
        if outcome.decision is None or outcome.route is None:
            return "{}"
        request = record.request.facts()
        if request is None:
            return "{}"
        principal = outcome.principal.facts if outcome.principal is not None else None
        parts = [
            f"{quoted(name)}:{self._value(name, value_of(name, principal, request))}"
            for name in outcome.route.reads
            if name not in _IN_COLUMNS
        ]
        return "{" + ",".join(parts) + "}"

    def _value(self, name: str, value: object) -> str:
        """A fact's value in words: ``null`` when it is unknown."""
        if value is None:
            return "null"
        if name.startswith("http_header/") and name.removeprefix("http_header/") in CREDENTIAL_HEADERS:
            return '"withheld"'
        if isinstance(value, frozenset) or (isinstance(value, str) and len(value) <= _REMEMBERED_CHARACTERS):
            # A set keeps its hash, and a person's groups are the same object from decision to decision.
            key = (name, value)
            known = self._values.get(key)
            if known is None:
                known = self._worded(name, value)
                _remember(self._values, key, known)
            return known
        return self._worded(name, value)

    def _worded(self, name: str, value: object) -> str:
        if name in self._loggable:
            return _readable({"value": sorted(value) if isinstance(value, frozenset) else value})
        if isinstance(value, frozenset | tuple | list):
            members = sorted(map(_canonical, value))
            if len(members) <= _MEMBERS:
                return json.dumps({"hashes": [self._hash(name, member) for member in members]})
            return json.dumps({"count": len(members), "hash": self._hash(name, "\0".join(members))})
        return f'{{"hash":"{self._hash(name, _canonical(value))}"}}'

    def _hashed(self, name: str, value: str) -> str:
        if len(value) > _REMEMBERED_CHARACTERS:
            return f'"{self._hash(name, value)}"'
        key = (name, "path", value)
        known = self._values.get(key)
        if known is None:
            known = f'"{self._hash(name, value)}"'
            _remember(self._values, key, known)
        return known

    def _hash(self, name: str, value: str) -> str:
        return hmac.digest(self._key, f"{name}\0{value}".encode("utf-8", "surrogateescape"), "sha256").hex()[:32]


def value_of(name: str, principal: PrincipalFacts | None, request: RequestFacts) -> object:
    """The value of a fact by the name that policies declare to read; ``None`` when it is unknown."""
    kind, _, argument = name.partition("/")
    if kind in _OF_REQUEST:
        return _OF_REQUEST[kind](request, argument)
    if principal is None:
        return None
    if kind == "claim":
        return _claim(principal.claims, argument)
    if kind in _OF_PRINCIPAL:
        return _OF_PRINCIPAL[kind](principal, argument)
    return getattr(principal, kind, None)


_OF_REQUEST: dict[str, Callable[[RequestFacts, str], object]] = {
    "http_path": lambda request, _: request.path,
    "http_header": lambda request, name: request.headers.get(name, ()),
    "http_query": lambda request, _: request.query,
    "client_certificate": lambda request, _: getattr(getattr(request, "client_certificate", None), "fingerprint", None),
}


_OF_PRINCIPAL: dict[str, Callable[[PrincipalFacts, str], object]] = {
    "authentication": lambda who, _: [
        who.authenticated_at,
        who.identity_provider_id,
        who.context_class,
        *sorted(who.methods),
    ],
    "record": lambda who, kind: _record(who, kind),
}


def _record(who: PrincipalFacts, kind: str) -> object:
    """The fields of an external record; to have none is something else than not to be known."""
    if kind not in who.records:
        return None
    fields = who.records[kind]
    try:
        return "none" if fields is None else dict(fields)
    except DoorwardError:
        return "unreadable"


def _claim(claims: Mapping[str, object] | None, path: str) -> object:
    value: object = claims
    for step in path.split("/"):
        if not isinstance(value, Mapping) or step not in value:
            return None
        value = value[step]
    return value


def _canonical(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _readable(value: object) -> str:
    """JSON that every reader takes: the numbers it has no form for (RFC 8259, section 6) are texts, `NaN` and `Infinity`."""
    try:
        return json.dumps(value, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(json.loads(json.dumps(value, default=str), parse_constant=str))


def _text(value: str | None) -> str:
    return "null" if value is None else quoted(value)


def _remember(known: dict[object, str], key: object, value: str) -> None:
    if len(known) >= _REMEMBERED:
        known.clear()
    known[key] = value


def encoded(encoder: RecordEncoder, records: Iterable[DecisionRecord]) -> list[str]:
    """Every record in words; one that cannot be put into words is named by its id, so that none is missing without a trace."""
    lines = []
    for record in records:
        try:
            lines.append(encoder.encode(record))
        except Exception as error:
            # A claim of a kind that nobody thought of must not cost the records behind it.
            lines.append(json.dumps({"decision_id": record.id, "error": type(error).__name__}) + "\n")
    return lines
