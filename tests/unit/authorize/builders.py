"""Checks, sessions and an authorizer without any network, for the plane's unit tests."""

import asyncio
import functools
import itertools
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tests.support.fake_clock import FakeClock
from tests.support.key_material import keyring
from tests.support.records import StoreRecords

from doorward.config.load import load_settings
from doorward.config.settings import Settings
from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from doorward.errors import DoorwardError, NotFoundError
from doorward.identity.service_account import ServiceAccount
from doorward.identity.session import Session
from doorward.identity.user import User, user_id
from doorward.keys.flow import FlowSealer, SignInSigner
from doorward.keys.handle import HandleSealer, SessionHandle
from doorward.keys.sealed import Sealer
from doorward.keys.service_token import TokenHasher, new_token
from doorward.keys.store import Purpose
from doorward.records.record import RecordVersion
from doorward.route.internal import CLIENT_ADDRESS_HEADER
from doorward_authorize.asked_decisions import AskedDecisions
from doorward_authorize.assertion import AssertionSigner
from doorward_authorize.check_response import Responder
from doorward_authorize.checker import Checker
from doorward_authorize.decision_log import DecisionLog
from doorward_authorize.decision_record import RecordEncoder
from doorward_authorize.directories import Directories
from doorward_authorize.evaluator import Evaluator
from doorward_authorize.explanations import Explanations
from doorward_authorize.external_tokens import ExternalTokens
from doorward_authorize.gateways import Gateways
from doorward_authorize.held_decisions import HeldDecisions
from doorward_authorize.log_file import LogFile
from doorward_authorize.metrics import AuthorizeMetrics
from doorward_authorize.outcome import NOT_RECORDED
from doorward_authorize.principals import Principals
from doorward_authorize.service_accounts import ServiceAccounts
from doorward_authorize.sign_in_redirect import SignInRedirect
from doorward_authorize.snapshot import compile_snapshot
from doorward_authorize.transport import CHECK_METHOD, check_methods
from doorward_authorize.upstream_tokens import UpstreamTokens

ISSUER = "https://idp.example.com"
CONFIG = """\
version: 1
authenticate_url: https://sign-in.example.com
identity_providers:
  - id: corp
    issuer: https://idp.example.com
    client_id: x
    client_secret: file:secret
    email_domains: [example.com]
    claims: {groups: groups}
routes:
  - name: app
    from: https://app.example.com
    to: http://127.0.0.1:9000
    claim_headers: {x-who: email, x-groups: groups}
    allowed_origins: ["https://friend.example.com"]
    policy: [{allow: {and: [{authenticated_user: true}]}}]
  - name: admin
    from: https://admin.example.com
    to: http://127.0.0.1:9001
    sensitive: true
    explanation: Ask for <admins>.
    policy: [{allow: {and: [{groups: {has: admins}}]}}]
  - name: public
    from: https://public.example.com
    to: http://127.0.0.1:9002
    policy: [{allow: {or: [{accept: true}]}}]
"""


@dataclass
class FakeRecords:
    """A replica under the test's control."""

    version: RecordVersion = field(default_factory=lambda: RecordVersion(1, 100))
    data: dict[tuple[str, str], bytes] = field(default_factory=dict)
    age: float = 0.0
    is_following: bool = True
    arrives: bytes | None = None
    fails: DoorwardError | None = None
    asked: int = 0
    hangs: bool = False

    def get(self, record_type: str, record_id: str) -> bytes | None:
        return self.data.get((record_type, record_id))

    def is_fresh(self, limit_seconds: float | None = None) -> bool:
        return self.age < (5.0 if limit_seconds is None else limit_seconds)

    async def wait_for_version(self, version: RecordVersion, timeout_seconds: float) -> bool:
        del timeout_seconds
        return version <= self.version

    async def session(self, session_id: str) -> bytes:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails is not None:
            raise self.fails
        if self.arrives is None:
            raise NotFoundError(session_id)
        return self.arrives


_NOT_NAMED_IN_IT = {".yaml", ".jsonl"}
"""Files that no configuration here reads: itself, and decision logs."""


@functools.lru_cache(maxsize=16)
def _settings(path: Path, config: str, beside: frozenset[tuple[str, bytes]]) -> Settings:
    """The settings of a file with this text and these files beside it; reading them costs most of what a world costs."""
    del config, beside
    return load_settings(path)


class World:
    """An authorizer and everything round it."""

    def __init__(self, folder: Path, config: str = CONFIG) -> None:
        self.folder = folder
        (folder / "secret").write_text("s")
        self.clock = FakeClock()
        self.records = FakeRecords()
        self.handle_keys = keyring(Purpose.SESSION_HANDLE)
        self.handles = HandleSealer(Sealer(self.handle_keys))
        self.registry = CollectorRegistry()
        self.metrics = AuthorizeMetrics(self.registry)
        self.token_keys = keyring(Purpose.SERVICE_ACCOUNT)
        self.hasher = TokenHasher(self.token_keys)
        self.accounts = ServiceAccounts(self.records, self.hasher, self.clock)
        directories = Directories(self.records, self.clock)
        self.principals = Principals(
            self.handles,
            self.records,
            self.records,
            self.clock,
            directories=directories,
            service_accounts=self.accounts,
            external_tokens=ExternalTokens(self.records, directories, self.clock),
        )
        self.settings = self.read(config)
        self.evaluator = Evaluator(
            compile_snapshot(self.settings, None, self.clock.monotonic()),
            self.principals,
            self.records,
            self.clock,
            self.metrics,
        )
        flow = keyring(Purpose.FLOW)
        self.flows = FlowSealer(Sealer(flow))
        self.signer = SignInSigner(flow)
        self.assertion_keys = keyring(Purpose.ASSERTION)
        self.assertions = AssertionSigner(self.assertion_keys, self.clock)
        self.held = HeldDecisions()
        self.log = DecisionLog(
            LogFile(folder / "decisions.jsonl", 1 << 30, 3, 3600.0),
            RecordEncoder(keyring(Purpose.DECISION_FACTS), ()),
            self.metrics,
            on_refused=self.not_recorded,
        )
        self.stored = StoreRecords(self.clock)
        self.explanations = Explanations(self.held, self.stored, self.clock, self.metrics)
        asked = itertools.count(1)
        self.asked = AskedDecisions(
            self.log,
            self.held,
            lambda: f"test-q-{next(asked):x}",
            lambda: self.records.version,
            self.clock,
            self.metrics,
        )
        self.gateways = Gateways(lambda: self.evaluator.snapshot, self.metrics, self.clock)
        self.checker = Checker(
            authorizer_id="test",
            evaluator=self.evaluator,
            responder=Responder(
                self.assertions,
                SignInRedirect(self.flows, self.signer, self.clock),
                self.clock,
                UpstreamTokens(self.records.get, self.clock),
            ),
            log=self.log,
            held=self.held,
            explanations=self.explanations,
            gateways=self.gateways,
            data_version=lambda: self.records.version,
            clock=self.clock,
            metrics=self.metrics,
        )

    def not_recorded(self, decision_id: str) -> None:
        self.held.refuse(decision_id, NOT_RECORDED)

    def read(self, config: str) -> Settings:
        path = self.folder / "doorward.yaml"
        path.write_text(config)
        beside = [item for item in self.folder.iterdir() if item.is_file() and item.suffix not in _NOT_NAMED_IN_IT]
        return _settings(path, config, frozenset((item.name, item.read_bytes()) for item in beside))

    def reload(self, config: str) -> None:
        self.evaluator.snapshot = compile_snapshot(self.read(config), self.evaluator.snapshot, self.clock.monotonic())

    def sign_in(
        self,
        name: str = "alice",
        *,
        groups: frozenset[str] | None = frozenset({"admins"}),
        host: str = "app.example.com",
        verified: bool = True,
        active: bool = True,
        provider: str = "corp",
        number: int = 1,
    ) -> str:
        """Store a session and return the cookie of ``host``."""
        user = User(
            id=user_id(ISSUER, name),
            issuer=ISSUER,
            subject=name,
            email=f"{name}@example.com",
            email_verified=verified,
            name=name.title(),
            groups=groups,
            active=active,
        )
        now = self.clock.now()
        session = Session(
            id=name.encode().hex().ljust(32, "0")[:32],
            user_id=user.id,
            identity_provider_id=provider,
            issued_at=now,
            expires_at=now + 3600,
            authenticated_at=now,
            claims_json=b'{"department":"eng"}',
        )
        self.records.data["User", user.id] = user.to_bytes()
        self.records.data["Session", session.id] = session.to_bytes()
        handle = SessionHandle(session_id=session.id, audience=host, expires_at=int(now) + 3600, epoch=1, number=number)
        return f"__Host-doorward={self.handles.mint(handle)}"

    def account(
        self,
        name: str = "robot",
        *,
        groups: frozenset[str] = frozenset({"admins"}),
        life: float = 3600,
        owner_id: str = "",
    ) -> str:
        """Store a service account and return its token."""
        number, secret = name.encode().ljust(16, b"0")[:16], name.encode().ljust(32, b"1")[:32]
        now = self.clock.now()
        account = ServiceAccount(
            id=f"sa-{number.hex()}",
            name=name,
            groups=groups,
            token_hash=self.hasher.hash(number.hex(), secret),
            created_at=now,
            expires_at=now + life,
            owner_id=owner_id,
        )
        self.records.data["ServiceAccount", account.id] = account.to_bytes()
        return new_token(number, secret)

    def request(
        self, route: str = "app", *, digest: str | None = None, method: str = "GET", path: str = "/", **headers: str
    ) -> bytes:
        """A serialized CheckRequest; header names are written with underscores for dashes."""
        compiled = self.evaluator.snapshot.routes.get(route)
        message = CheckRequest()
        http = message.attributes.request.http
        http.method, http.path = method, path
        context = message.attributes.context_extensions
        context["route"] = route
        context["digest"] = digest if digest is not None else compiled.route.digest if compiled else "internal"
        context["host"] = compiled.route.host if compiled else headers.pop("host", "app.example.com")
        for name, value in {CLIENT_ADDRESS_HEADER: "10.0.0.1", **headers}.items():
            header = http.header_map.headers.add(key=name.replace("_", "-"))
            header.raw_value = value.encode("latin-1")
        return message.SerializeToString()

    async def check(self, route: str = "app", **options: str) -> CheckResponse:
        return CheckResponse.FromString(await self.answer(self.request(route, **options)))  # type: ignore[arg-type]

    async def answer(self, data: bytes) -> bytes:
        """What Envoy is told, at once or later."""
        answer = check_methods(self.checker, lambda: True).unary[CHECK_METHOD.encode()](data)
        return answer if isinstance(answer, bytes) else await answer


def passed(response: CheckResponse) -> bool:
    return response.status.code == 0 and response.HasField("ok_response")


def status(response: CheckResponse) -> int:
    """The HTTP status of a refusal; 0 when the request passed."""
    return 0 if passed(response) else int(response.denied_response.status.code)


def set_headers(response: CheckResponse) -> dict[str, str]:
    return {option.header.key: option.header.value for option in response.ok_response.headers}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)
