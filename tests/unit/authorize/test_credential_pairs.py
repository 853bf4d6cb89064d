"""Every pair of kinds of credentials, each in every state: one table, and what the application sees of its own. (S28, S49)

valid      it speaks for somebody
expired    it did until a moment ago
malformed  it is cut short
foreign    another host's cookie, another account's secret, another issuer's token, a certificate that was asked for elsewhere
"""

import datetime as dt
import itertools
from pathlib import Path

import pytest
from tests.support.client_certificates import ClientAuthority
from tests.support.token_issuer import CI, TokenIssuer
from tests.unit.authorize.builders import CONFIG, ISSUER, World, passed, set_headers, status
from tests.unit.authorize.test_client_certificates import NOW, encoded
from tests.unit.authorize.test_credentials import OTHER, ROBOT, cookie, token, who

from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from doorward.identity.user import user_id
from doorward_authorize.certificate import parse_certificate

KINDS = ("cookie", "token", "token in our header", "external token", "certificate")
STATES = ("valid", "expired", "malformed", "foreign")
PAIRS = [
    (one, first, other, second)
    for one, other in itertools.combinations(KINDS, 2)
    for first, second in itertools.product(STATES, STATES)
]
HEAD = f"""\
client_certificates: {{authorities: clients.crt}}
token_issuers:
  - {{id: ci, issuer: "{CI}", audiences: [doorward]}}
"""
ROUTE = """\
  - name: {name}
    from: https://{name}.example.com
    to: http://127.0.0.1:9003
    token_issuers: [ci]
    client_certificate: principal
    policy: [{{allow: {{and: [{{{criterion}: true}}]}}}}]
"""
DAY = dt.timedelta(days=1)


class Everything(World):
    """A world with a route that takes everybody's word."""

    def __init__(self, folder: Path) -> None:
        self.ci = TokenIssuer()
        self.authority = ClientAuthority(now=NOW)
        self.presented: list[str] = []
        (folder / "clients.crt").write_text(self.authority.pem)
        routes = ROUTE.format(name="closed", criterion="authenticated_user") + ROUTE.format(
            name="open", criterion="accept"
        )
        super().__init__(folder, CONFIG.replace("routes:\n", HEAD + "routes:\n") + routes)
        key, data = self.ci.record(self.clock.now())
        self.records.data[key] = data

    def present(self, message: CheckRequest, kind: str, state: str, route: str) -> str | None:
        """Put a credential into a request; whom it would speak for if it is valid."""
        match kind:
            case "cookie":
                self._header(message, "cookie", cookie(self, state, route)["cookie"])
                return user_id(ISSUER, "alice")
            case "certificate":
                return self._certificate(message, state)
            case "external token":
                self._header(message, "authorization", f"Bearer {self._external(state)}")
                return user_id(CI, "build-7")
            case _:
                name, account = ("authorization", "robot") if kind == "token" else ("doorward-authorization", "other")
                self._header(message, name, f"Bearer {token(self, state, account)}")
                return ROBOT if account == "robot" else OTHER

    def _external(self, state: str) -> str:
        now = self.clock.now()
        match state:
            case "expired":
                return self.ci.token(now, exp=now - 60)
            case "malformed":
                return self.ci.token(now)[:-5]
            case "foreign":
                return TokenIssuer("https://elsewhere.example").token(now)
            case _:
                return self.ci.token(now)

    def _certificate(self, message: CheckRequest, state: str) -> str:
        ends = -DAY if state == "expired" else DAY
        issued = self.authority.client(begins=-2 * DAY, ends=ends)
        text = encoded(issued)
        message.attributes.source.certificate = text[:-200] if state == "malformed" else text
        if state == "foreign":
            message.attributes.tls_session.sni = "app.example.com"
        found = parse_certificate(text)
        assert found is not None
        return f"cert-{found.facts.fingerprint}"

    @staticmethod
    def _header(message: CheckRequest, name: str, value: str) -> None:
        message.attributes.request.http.header_map.headers.add(key=name, raw_value=value.encode())

    def blank(self, route: str) -> CheckRequest:
        message = CheckRequest.FromString(self.request(route))
        message.attributes.tls_session.sni = f"{route}.example.com"
        return message

    async def told(self, message: CheckRequest) -> CheckResponse:
        return CheckResponse.FromString(await self.answer(message.SerializeToString()))


@pytest.fixture
def world(tmp_path: Path) -> Everything:
    return Everything(tmp_path)


def expected(presented: list[tuple[str, str, str | None]], route: str) -> tuple[int, str | None]:
    """Status (0: passed) and whom the application is told of; ``presented`` as kind, state and whom it would speak for."""
    if ("certificate", "foreign") in {(kind, state) for kind, state, _ in presented}:
        return 421, None
    nobody = (0, None) if route == "open" else (401, None)
    for kind, state, _ in presented:
        ours = kind.startswith("token") or (kind == "external token" and state != "foreign")
        if ours and state != "valid":
            return nobody
    speakers = {speaker for _, state, speaker in presented if state == "valid"}
    if len(speakers) > 1:
        return 400, None
    return (0, speakers.pop()) if speakers else nobody


@pytest.mark.parametrize("route", ["closed", "open"])
@pytest.mark.parametrize(("one", "first", "other", "second"), PAIRS)
async def test_s28_s49_two_credentials_at_once(
    world: Everything, route: str, one: str, first: str, other: str, second: str
):
    message = world.blank(route)
    presented = [
        (kind, state, world.present(message, kind, state, route)) for kind, state in ((one, first), (other, second))
    ]
    response = await world.told(message)
    assert (status(response), who(response)) == expected(presented, route)
    if passed(response):
        removed = set(response.ok_response.headers_to_remove)
        ours = {kind for kind, state, _ in presented if not (kind == "external token" and state == "foreign")}
        assert ("authorization" in removed) is bool(ours & {"token", "external token"})
        assert "doorward-authorization" in removed
        assert "__Host-doorward" not in set_headers(response).get("cookie", "")


@pytest.mark.parametrize(
    "value", ["Basic YWxpY2U6c2VjcmV0", "Bearer opaque-token", "Bearer a.b.c", "Bearer", "Digest x=1"]
)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", ["cookie", "token in our header", "certificate"])
async def test_an_applications_own_value_arrives_unchanged_beside_any_credential(
    world: Everything, kind: str, state: str, value: str
):
    for route in ("closed", "open"):
        message = world.blank(route)
        world._header(message, "authorization", value)
        presented = [(kind, state, world.present(message, kind, state, route))]
        response = await world.told(message)
        assert (status(response), who(response)) == expected(presented, route)
        if passed(response):
            assert "authorization" not in set_headers(response)
            assert "authorization" not in response.ok_response.headers_to_remove
