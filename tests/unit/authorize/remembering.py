"""A world in which every kind of input that a decision or an answer can depend on is there, and can change.

``newborn`` is an authorizer without a past over the same records, configuration, keys and clock. Whatever a lived one remembers
must never show beside it.
"""

import base64
import copy
import datetime as dt
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography import x509
from google.protobuf.json_format import MessageToDict
from tests.support.client_certificates import ClientAuthority
from tests.support.key_material import keyring
from tests.support.token_issuer import CI, TokenIssuer
from tests.unit.authorize.builders import CONFIG, ISSUER, World, passed, set_headers
from tests.unit.authorize.test_client_certificates import NOW, encoded

from doorward.api.guard.v1.guard_pb2 import StreamDescription
from doorward.config.settings import Settings
from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from doorward.identity.directory import DirectoryGroup, DirectoryState, DirectoryUser, directory_user_id
from doorward.identity.external_record import ExternalRecord, ExternalSource
from doorward.identity.grant import Grant, grant_id
from doorward.identity.session import Session
from doorward.identity.upstream_token import UpstreamToken
from doorward.identity.user import User, user_id
from doorward.keys.handle import SessionHandle
from doorward.keys.store import Purpose
from doorward.route.internal import CLIENT_ADDRESS_HEADER, METADATA_STREAM
from doorward_authorize.assertion import AssertionSigner
from doorward_authorize.check_response import Responder
from doorward_authorize.checker import Checker
from doorward_authorize.decision_log import DecisionLog
from doorward_authorize.decision_record import RecordEncoder
from doorward_authorize.directories import Directories
from doorward_authorize.evaluator import Evaluator
from doorward_authorize.external_records import ExternalRecords
from doorward_authorize.external_tokens import ExternalTokens
from doorward_authorize.grants import Grants
from doorward_authorize.held_decisions import HeldDecisions
from doorward_authorize.kubernetes import LOOK_AGAIN_SECONDS
from doorward_authorize.log_file import LogFile
from doorward_authorize.principals import Principals
from doorward_authorize.service_accounts import ServiceAccounts
from doorward_authorize.sign_in_redirect import SignInRedirect
from doorward_authorize.snapshot import compile_snapshot
from doorward_authorize.upstream_tokens import UpstreamTokens

STAFF = "https://staff.example.com"
"""An identity provider whose people a directory describes."""
KIND = "hr.example/employee"
SPOILED = b"\xff"
"""What parses as no record."""
HEAD = f"""\
  - id: staff
    issuer: {STAFF}
    client_id: y
    client_secret: file:secret
    email_domains: [example.com]
directories:
  - id: people
    type: keycloak
    url: {STAFF}
    realm: corp
    client_id: c
    client_secret: file:secret
    identity_provider: staff
    stale_after: 1h
token_issuers:
  - {{id: ci, issuer: "{CI}", audiences: [doorward], claims: {{groups: teams}}}}
grants:
  - {{name: on-call, routes: [granted], longest: 4h}}
client_certificates: {{authorities: clients.crt}}
"""
ROUTE = "  - name: {name}\n    from: https://{name}.example.com\n    to: https://127.0.0.1:9003\n"
PARTS = {
    "granted": "    policy: [{allow: {and: [{grant: on-call}]}}]\n",
    "recorded": f'    policy: [{{allow: {{and: [{{record: {{type: {KIND}, field: level, ">=": 5}}}}]}}}}]\n',
    "asked": "    policy: [{allow: {or: [{http_header/x-team: blue}, {http_query/tenant: blue}, "
    "{source_ip: 192.0.2.0/24}]}}]\n",
    "machine": "    client_certificate: principal\n    continuous: true\n    set_request_headers:\n"
    '      x-machine: "${client_certificate/san_dns}"\n'
    "    policy: [{allow: {or: [{client_certificate: {san_dns: {ends_with: .example.com}}}, {email: alice@example.com}]}}]\n",
    "told": "    client_certificate: fact\n    set_request_headers:\n"
    '      x-both: "${email} by ${client_certificate/fingerprint}"\n      x-claim: "${claim/department}"\n'
    "    policy: [{allow: {or: [{accept: true}]}}]\n",
    "builds": "    token_issuers: [ci]\n    continuous: true\n    claim_headers: {x-groups: groups, x-session: session}\n"
    "    policy: [{allow: {or: [{claim/repository: org/app}, {groups: {has: admins}}]}}]\n",
    "passing": "    token_issuers: [ci]\n    pass_bearer: true\n    policy: [{allow: {and: [{authenticated_user: true}]}}]\n",
    "tokens": '    set_request_headers: {authorization: "Bearer ${access_token}", x-id: "${id_token}"}\n'
    "    policy: [{allow: {or: [{accept: true}]}}]\n",
    "cluster": "    kubernetes_service_account_token_file: cluster-token\n"
    "    policy: [{allow: {and: [{authenticated_user: true}]}}]\n",
    "recent": "    policy: [{allow: {and: [{authentication: {max_age: 15m, methods: [otp]}}]}}]\n",
}
EVERYTHING = CONFIG.replace("routes:\n", HEAD + "routes:\n") + "".join(
    ROUTE.format(name=name) + text for name, text in PARTS.items()
)
HOSTS = ("app", "admin", "public", *PARTS)
PEOPLE = {"alice": (ISSUER, "corp"), "dora": (STAFF, "staff")}


def session_id(name: str) -> str:
    return name.encode().hex().ljust(32, "0")[:32]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request: names of credentials, not their values, which change with the history."""

    route: str = "app"
    cookie: str = ""
    authorization: tuple[str, ...] = ()
    our_header: str = ""
    certificate: str = ""
    sni: str = ""
    """The name of another connection; empty for the route's own."""
    method: str = "GET"
    path: str = "/"
    address: str | None = "10.0.0.1"
    headers: dict[str, str] = field(default_factory=dict)


class Lived(World):
    """An authorizer with a past."""

    def __init__(self, folder: Path) -> None:
        self.authority = ClientAuthority(now=NOW)
        (folder / "clients.crt").write_text(self.authority.pem)
        (folder / "cluster-token").write_text("service-token-0")
        self.ci, self.stranger = TokenIssuer(), TokenIssuer()
        hour = dt.timedelta(hours=1)
        self.machines = {
            name: self.authority.client(name, names=(x509.DNSName(f"{name}.example.com"),), begins=begins, ends=ends)
            for name, begins, ends in (
                ("laptop", -hour, hour), ("phone", -hour, 30 * hour), ("later", hour, 30 * hour)
            )
        }  # fmt: skip
        self._certificates = {name: encoded(item) for name, item in self.machines.items()}
        self._read: dict[str, Settings] = {}
        self._mark = 0
        super().__init__(folder, EVERYTHING)
        self.start()

    def start(self) -> None:
        """As in the beginning; what the authorizer remembers stays."""
        self.clock.jump(NOW.timestamp())
        for kind, record_id in list(self.records.data):
            self.put(kind, record_id, None)
        self.records.age, self.records.arrives, self.records.fails = 0.0, None, None
        self.handle_keys.take_over(keyring(Purpose.SESSION_HANDLE))
        self.token_keys.take_over(keyring(Purpose.SERVICE_ACCOUNT))
        self.assertion_keys.take_over(keyring(Purpose.ASSERTION))
        self.reload(EVERYTHING)
        self.cookies: dict[tuple[str, str], str] = {}
        self.tokens: dict[str, str] = {}
        for name in PEOPLE:
            self.sign(name)
        self.entry()
        self.group("g-1", "admins")
        self.synchronise()
        self.programs()
        self.issue()
        self.level(5)
        self.grant()
        self.provider_token("one")
        self.cluster_token("service-token-1")

    def reload(self, config: str) -> None:
        """A new configuration is a new object, also when it says what an earlier one said."""
        if config not in self._read:
            self._read[config] = self.read(config)
        settings = copy.copy(self._read[config])
        self.evaluator.snapshot = compile_snapshot(settings, self.evaluator.snapshot, self.clock.monotonic())

    def put(self, kind: str, record_id: str, data: bytes | None) -> None:
        """As the replica applies a change: those that keep an index hear of it."""
        if data is None:
            self.records.data.pop((kind, record_id), None)
        else:
            self.records.data[kind, record_id] = data
        for reader in (self.principals._directories, self.principals._grants, self.principals._external):
            reader.on_record(kind, record_id)

    def sign(self, name: str) -> None:
        """Somebody signs in; their cookies are made when they are first wanted."""
        issuer, provider = PEOPLE[name]
        now = self.clock.now()
        user = User(
            id=user_id(issuer, name), issuer=issuer, subject=name, email=f"{name}@example.com", email_verified=True,
            name=name.title(), groups=frozenset({"admins"}),
            directory_user_id=directory_user_id("people", "sub", name) if provider == "staff" else "",
        )  # fmt: skip
        session = Session(
            id=session_id(name), user_id=user.id, identity_provider_id=provider, issued_at=now, expires_at=now + 3600,
            authenticated_at=now, methods=("otp",), claims_json=b'{"department":"eng"}',
        )  # fmt: skip
        self.put("User", user.id, user.to_bytes())
        self.put("Session", session.id, session.to_bytes())
        self.cookies = {key: value for key, value in self.cookies.items() if key[0] != name}

    def user(self, name: str = "alice", /, **fields: Any) -> None:
        data = self.records.data.get(("User", user_id(PEOPLE[name][0], name)))
        if data is not None and data != SPOILED:
            changed = replace(User.from_bytes(data), **fields)
            self.put("User", changed.id, changed.to_bytes())

    def session(self, name: str = "alice", /, **fields: Any) -> None:
        data = self.records.data.get(("Session", session_id(name)))
        if data is not None and data != SPOILED:
            changed = replace(Session.from_bytes(data), **fields)
            self.put("Session", changed.id, changed.to_bytes())

    def entry(self, **fields: Any) -> None:
        made = DirectoryUser(directory_id="people", entry_id="dora", join_value="dora", group_numbers=(1,))
        self.put("DirectoryUser", directory_user_id("people", "sub", "dora"), replace(made, **fields).to_bytes())

    def group(self, group: str, name: str) -> None:
        made = DirectoryGroup(directory_id="people", group_id=group, number=1, name=name)
        self.put("DirectoryGroup", "people/1", made.to_bytes())

    def synchronise(self, at: float | None = 0.0) -> None:
        state = DirectoryState(synchronised_at=None if at is None else self.clock.now() + at)
        self.put("DirectoryState", "people", state.to_bytes())

    def programs(self, groups: frozenset[str] = frozenset({"admins"})) -> None:
        self.tokens["robot"] = self.account("robot", groups=groups)
        self.tokens["owned"] = self.account("owned", groups=groups, owner_id=user_id(STAFF, "dora"))

    def issue(self, *, confirmed: float = 0.0) -> None:
        """Keys of the issuer, and a token that they signed."""
        now = self.clock.now()
        (kind, record_id), data = self.ci.record(now + confirmed)
        self.put(kind, record_id, data)
        self.tokens["ci"] = self.ci.token(now, repository="org/app", teams=["b", "a"])
        self.tokens["forged"] = self.stranger.token(now, repository="org/app")

    def level(self, level: int, *, stale: float | None = 7200.0) -> None:
        source = ExternalSource(
            kind=KIND, join="subject", issuer=ISSUER, synchronised_at=self.clock.now(), stale_seconds=stale
        )
        record_id = source.id_of_line("alice")
        assert record_id is not None
        self.put("ExternalSource", KIND, source.to_bytes())
        record = ExternalRecord(id=record_id, kind=KIND, json=json.dumps({"level": level}).encode())
        self.put("ExternalRecord", record_id, record.to_bytes())

    def grant(self, *, life: float = 1800.0, name: str = "on-call") -> None:
        now, holder = self.clock.now(), user_id(ISSUER, "alice")
        made = Grant(
            user_id=holder, name=name, reason="r", given_by="o", created_at=now, starts_at=now, ends_at=now + life
        )
        self.put("Grant", grant_id(holder, "0" * 32), made.to_bytes())

    def drop(self, *kinds: str) -> None:
        for key in [key for key in self.records.data if key[0] in kinds]:
            self.put(*key, None)

    def spoil(self, kind: str, record_id: str) -> None:
        if (kind, record_id) in self.records.data:
            self.put(kind, record_id, SPOILED)

    def provider_token(self, text: str, *, life: float = 300.0) -> None:
        ends = self.clock.now() + life
        token = UpstreamToken(
            session_id=session_id("alice"), access_token=f"access-{text}", access_expires_at=ends,
            id_token=f"id-{text}", id_expires_at=ends,
        )  # fmt: skip
        self.put("SessionUpstreamToken", session_id("alice"), token.to_bytes())

    def cluster_token(self, text: str | None) -> None:
        """Replaced, and looked at again only after a moment, as is said of it."""
        path = self.folder / "cluster-token"
        path.unlink(missing_ok=True)
        if text is not None:
            self._mark += 1
            path.write_text(text)
            os.utime(path, ns=(self._mark, self._mark))
        self.clock.advance(LOOK_AGAIN_SECONDS)

    def _cookie(self, name: str, route: str) -> str:
        """``alice`` has a session here; ``new`` one that only the databroker has heard of; ``foreign`` another host's."""
        host = f"{route}.example.com"
        who, number = ("alice", 1) if name == "foreign" else (name, 1_000 if name == "new" else 1)
        if name == "foreign":
            host = "admin.example.com" if route == "app" else "app.example.com"
        if (who, host) not in self.cookies:
            handle = SessionHandle(
                session_id=session_id(who),
                audience=host,
                expires_at=int(self.clock.now()) + 7200,
                epoch=1,
                number=number,
            )
            self.cookies[who, host] = f"__Host-doorward={self.handles.mint(handle)}"
        return self.cookies[who, host]

    def written(self, ask: Ask) -> bytes:
        """The serialized CheckRequest of ``ask``, as things are now."""
        message = CheckRequest.FromString(self.request(ask.route, method=ask.method, path=ask.path))
        message.attributes.tls_session.sni = f"{ask.sni or ask.route}.example.com"
        if ask.certificate:
            message.attributes.source.certificate = self._certificates[ask.certificate]
        lines = [(name, value) for name, value in ask.headers.items() if value]
        if ask.cookie:
            parts = [self._cookie(part, ask.route) if part in {"alice", "dora", "new", "foreign"} else part
                     for part in ask.cookie.split("; ")]  # fmt: skip
            lines.append(("cookie", "; ".join(parts)))
        lines += [("authorization", self._credential(name)) for name in ask.authorization]
        if ask.our_header:
            lines.append(("doorward-authorization", self._credential(ask.our_header)))
        headers = message.attributes.request.http.header_map.headers
        if ask.address is None:
            del headers[:]
        else:
            next(item for item in headers if item.key == CLIENT_ADDRESS_HEADER).raw_value = ask.address.encode()
        for name, value in lines:
            headers.add(key=name, raw_value=value.encode("latin-1"))
        return message.SerializeToString()

    def _credential(self, name: str) -> str:
        if name == "basic":
            return "Basic dGhlaXJzOm93bg=="
        return f"Bearer {self.tokens.get(name, name)}"

    def newborn(self) -> Checker:
        """An authorizer without a past."""
        directories = Directories(self.records, self.clock)
        grants, external = Grants(self.records.get), ExternalRecords(self.records.get, self.clock)
        for key in self.records.data:
            for reader in (directories, grants, external):
                reader.on_record(*key)
        principals = Principals(
            self.handles, self.records, self.records, self.clock, directories=directories, grants=grants,
            external=external, service_accounts=ServiceAccounts(self.records, self.hasher, self.clock),
            external_tokens=ExternalTokens(self.records, directories, self.clock),
        )  # fmt: skip
        encoder = RecordEncoder(keyring(Purpose.DECISION_FACTS), ())
        return Checker(
            authorizer_id="new",
            evaluator=Evaluator(self.evaluator.snapshot, principals, self.records, self.clock, self.metrics),
            responder=Responder(
                AssertionSigner(self.assertion_keys, self.clock),
                SignInRedirect(self.flows, self.signer, self.clock),
                self.clock,
                UpstreamTokens(self.records.get, self.clock),
            ),
            log=DecisionLog(LogFile(self.folder / "new.jsonl", 1 << 30, 1, 60.0), encoder, self.metrics),
            held=HeldDecisions(),
            explanations=self.explanations,
            gateways=self.gateways,
            data_version=lambda: self.records.version,
            clock=self.clock,
            metrics=self.metrics,
        )

    def ends_at(self, claims: dict[str, Any]) -> float:
        """When the session behind an assertion ends, as its record says now."""
        data = self.records.data.get(("Session", claims["sid"]))
        return float("inf") if data is None or data == SPOILED else Session.from_bytes(data).expires_at


def comparable(world: Lived, data: bytes) -> dict[str, Any]:
    """An answer without what differs between two authorizers: decision ids, what is sealed, when an assertion was signed."""
    response, now = CheckResponse.FromString(data), world.clock.now()
    if not passed(response):
        denied = response.denied_response
        headers = {option.header.key: option.header.value for option in denied.headers}
        decision_id = headers.pop("x-doorward-decision-id", "")
        headers |= dict.fromkeys(headers.keys() & {"location", "set-cookie"}, "sealed")
        body = denied.body.replace(decision_id, "ID") if decision_id else denied.body
        return {"status": denied.status.code, "headers": headers, "body": body}
    headers = set_headers(response)
    token = headers.pop("x-doorward-jwt-assertion", None)
    claims: dict[str, Any] = {}
    if token is not None:
        claims = claims_of(token)
        assert claims["nbf"] <= now < claims["exp"], "an assertion that does not hold now"
        assert claims["exp"] <= world.ends_at(claims), "an assertion that outlives its session"
        for name in ("iat", "nbf", "exp", "jti"):
            del claims[name]
    removed = sorted(response.ok_response.headers_to_remove)
    return {"headers": headers, "removed": removed, "claims": claims, "stream": _stream(response)}


def claims_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


def _stream(response: CheckResponse) -> dict[str, Any]:
    """What a guarded stream is described by."""
    if METADATA_STREAM not in response.dynamic_metadata.fields:
        return {}
    text = response.dynamic_metadata.fields[METADATA_STREAM].string_value
    described: dict[str, Any] = MessageToDict(StreamDescription.FromString(base64.b64decode(text)))
    del described["decisionId"]
    return described
