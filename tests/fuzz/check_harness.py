"""What must hold for every CheckRequest, whoever wrote it; run by atheris, and by Hypothesis in the tests.

No bytes give a yes unless policy did. The oracle shares no code with the decision: it reads Envoy's own message, takes nobody for
signed in whose secret is not in the request, and asks the slow interpreter.
"""

import asyncio
import random
import re
import tempfile
import urllib.parse
from functools import cache
from pathlib import Path

from google.protobuf.message import DecodeError
from tests.support.token_issuer import CI
from tests.unit.authorize.builders import World
from tests.unit.authorize.test_client_certificates import encoded
from tests.unit.authorize.test_credential_pairs import Everything

from doorward.api.authorize.v1.check_view_pb2 import CheckView, PeerView, TlsSessionView
from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from doorward.identity.user import user_id
from doorward.keys.handle import HandleSealer
from doorward.keys.sealed import Sealer
from doorward.policy import Effect, Facts, PrincipalFacts, RequestFacts, interpret_policy
from doorward_authorize.certificate import parse_certificate
from doorward_authorize.principal import Principal
from doorward_authorize.transport import CHECK_METHOD, check_methods

RULES = """\
  - name: rules
    from: https://rules.example.com
    to: http://127.0.0.1:9009
    policy:
      - allow:
          or:
            - and: [{http_method: GET}, {http_path: {starts_with: /public/}}]
            - and: [{http_header/x-team: red}, {authenticated_user: true}]
            - and: [{source_ip: 10.0.0.0/8}, {groups: {has: admins}}]
        deny: {or: [{http_path: {starts_with: /public/secret}}]}
"""
_OUR_COOKIE = re.compile(rb"(?:^|;)[= \t]*__host-doorward", re.IGNORECASE)
"""A cookie of ours, also under a spelling that only some applications take for it."""
INTERNAL = ("@pages", "@sign-in", "@unmatched", "@broken")
ROUTES = ("app", "admin", "public", "closed", "open", "rules", *INTERNAL, "", "nothing")
METHODS = ("GET", "POST", "CONNECT", "OPTIONS", "get", "")
PATHS = (
    "/", "/public/a", "/public/secret", "/public/%73ecret", "/public/../admin", "//public/x", "/a;b", "/%2e%2e/", "*", "",
    "https://x/y", "/public/a?x=1", "/public/\x00", "/public/secret#/", "/%c3%28",
)  # fmt: skip
NAMES = (
    "cookie", "Cookie", "authorization", "doorward-authorization", "x-team", "X-Team", "origin", "sec-fetch-site", "upgrade",
    "x-doorward-client-address", "x-doorward-jwt-assertion", "content-type", "accept", "access-control-request-method",
)  # fmt: skip


@cache
def world() -> "Fuzzed":
    """One world for all inputs; nothing that an input does may change it."""
    return Fuzzed(Path(tempfile.mkdtemp(prefix="dw-fuzz-")))


class Fuzzed(Everything):
    """A world in which everybody has a secret, and the inputs may use them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # The same secrets in every run: an input that is kept from an earlier one must not hold one that this one does not know.
        self.handles = HandleSealer(Sealer(self.handle_keys, random.Random(1).randbytes))
        self.reload((folder / "doorward.yaml").read_text() + RULES)
        hosts = [f"{name}.example.com" for name in ("app", "admin", "closed", "rules")]
        self.cookies = {
            f"{name}@{host}": self.sign_in(name, host=host, groups=groups)
            for host in hosts
            for name, groups in (("alice", frozenset({"admins"})), ("bob", frozenset({"eng"})))
        }
        self.tokens = {"robot": self.account("robot"), "plain": self.account("plain", groups=frozenset())}
        self.external = self.ci.token(self.clock.now())
        self.certificate = encoded(self.authority.client())

    def pieces(self) -> dict[str, str]:
        """What an input may name: the secrets, whole."""
        bearers = {name: f"Bearer {text}" for name, text in {**self.tokens, "build": self.external}.items()}
        return {**self.cookies, **bearers, "certificate": self.certificate}

    def holders(self, request: bytes, certificate: str) -> list[PrincipalFacts | None]:
        """Nobody, everybody whose secret is in these bytes, and who holds the certificate that Envoy vouches for."""
        found: list[PrincipalFacts | None] = [None]
        settings = self.evaluator.snapshot.settings
        for name, text in self.cookies.items():
            if text.partition("=")[2].encode() in request:
                session = name.partition("@")[0].encode().hex().ljust(32, "0")
                found += _facts(self.principals.of_session(session, settings))
        for text in self.tokens.values():
            if text.encode() in request:
                found += _facts(self.accounts.of_token(text))
        if self.external.encode() in request:
            found.append(PrincipalFacts(user_id=user_id(CI, "build-7"), subject="build-7"))
        known = parse_certificate(certificate) if certificate else None
        if known is not None:
            found.append(PrincipalFacts(user_id=f"cert-{known.facts.fingerprint}", groups=frozenset()))
        return found


def _facts(found: object) -> list[PrincipalFacts | None]:
    return [found.facts] if isinstance(found, Principal) else []


def check_of_bytes(data: bytes) -> None:
    """Any bytes as a CheckRequest."""
    made = world()
    answer = check_methods(made.checker, lambda: True).unary[CHECK_METHOD.encode()](data)
    said = answer if isinstance(answer, bytes) else asyncio.run(_waited(answer))
    response = CheckResponse.FromString(said)
    if response.status.code == 0:
        assert response.HasField("ok_response")
        assert _may(made, data), "a yes that policy did not give"
        _hands_on_nothing_of_ours(made, response)
    else:
        assert response.HasField("denied_response")
        assert int(response.denied_response.status.code) >= 200


async def _waited(answer: object) -> bytes:
    found = await answer  # type: ignore[misc]
    assert isinstance(found, bytes)
    return found


def request_of_bytes(data: bytes) -> None:
    """Pieces between NUL bytes: route, method, path, then names and values of headers; bytes choose, or stand for themselves."""
    check_of_bytes(request_of(data).SerializeToString())


def request_of(data: bytes) -> CheckRequest:
    """The request that ``data`` spells."""
    made, parts = world(), data.split(b"\x00")
    message = CheckRequest()
    route = _chosen(parts[0], ROUTES)
    compiled = made.evaluator.snapshot.routes.get(route)
    context = message.attributes.context_extensions
    context["route"] = route
    context["digest"] = compiled.route.digest if compiled is not None else "internal"
    context["host"] = compiled.route.host if compiled is not None else ""
    http = message.attributes.request.http
    http.method = _chosen(parts[1] if len(parts) > 1 else b"", METHODS)
    http.path = _chosen(parts[2] if len(parts) > 2 else b"", PATHS)
    http.header_map.headers.add(
        key="x-doorward-client-address", raw_value=b"10.0.0.1" if len(data) % 2 else b"192.0.2.1"
    )
    for name, value in zip(parts[3::2], parts[4::2], strict=False):
        text = _chosen(value, tuple(made.pieces().values()))
        if text == made.certificate:
            message.attributes.source.certificate = text
            message.attributes.tls_session.sni = context["host"]
            continue
        header = http.header_map.headers.add(key=_chosen(name, NAMES))
        header.raw_value = text.encode("utf-8", "surrogateescape")
    return message


def _chosen(part: bytes, choices: tuple[str, ...]) -> str:
    """One byte chooses; more stand for themselves."""
    if len(part) < 2:
        return choices[(part or b"\x00")[0] % len(choices)]
    return part.decode("utf-8", "replace")


def _may(made: World, data: bytes) -> bool:
    """Whether anybody whose secret is in ``data`` is let in by the policy of the route that it names, by the slow interpreter."""
    assert isinstance(made, Fuzzed)
    message = _read(data)
    if message is None:
        return False
    context, http = message.attributes.context_extensions, message.attributes.request.http
    if context["route"] in INTERNAL:
        return context["digest"] == "internal"
    routes = {item.route.id: item for item in made.evaluator.snapshot.settings.routes}
    item = routes.get(context["route"])
    if item is None or context["digest"] != item.route.digest:
        return False
    path, _, query = http.path.partition("?")
    if http.method != "CONNECT" and (
        not path.startswith("/") or any(odd in path.lower() for odd in (";", "%3b", "%5c", "\\"))
    ):
        return False
    headers: dict[str, tuple[str, ...]] = {}
    for header in http.header_map.headers:
        raw = header.raw_value or header.value.encode()
        headers[header.key.lower()] = (*headers.get(header.key.lower(), ()), raw.decode("latin-1"))
    addresses = headers.get("x-doorward-client-address", ())
    known = parse_certificate(message.attributes.source.certificate) if message.attributes.source.certificate else None
    facts = RequestFacts(
        method=http.method,
        host=context["host"],
        path=urllib.parse.unquote(path, errors="strict"),
        raw_path=path,
        query=query,
        headers=headers,
        client_address=addresses[0] if len(addresses) == 1 else None,
        client_certificate=known.facts if known is not None else None,
        route=item.route.id,
    )
    return any(
        interpret_policy(item.policy, Facts(principal=holder, request=facts, now=made.clock.now())).effect
        is Effect.ALLOW
        for holder in made.holders(data, message.attributes.source.certificate)
    )


def _read(data: bytes) -> CheckRequest | None:
    """Envoy's own message. What no decision reads may be spoiled; where that is who is connected, nobody has a certificate."""
    try:
        return CheckRequest.FromString(data)
    except DecodeError:
        pass
    try:
        view = CheckView.FromString(data)
        view.DiscardUnknownFields()
        view.attributes.source = _whole(PeerView, view.attributes.source)
        view.attributes.tls_session = _whole(TlsSessionView, view.attributes.tls_session)
        return CheckRequest.FromString(view.SerializeToString())
    except DecodeError:
        return None


def _whole(kind: type[PeerView | TlsSessionView], data: bytes) -> bytes:
    """What a decision reads of a part that stands by itself; nothing of a spoiled one."""
    try:
        part = kind.FromString(data)
    except DecodeError:
        return b""
    part.DiscardUnknownFields()
    return part.SerializeToString()


def _hands_on_nothing_of_ours(made: "Fuzzed", response: CheckResponse) -> None:
    """What an application gets is none of the secrets that are for us."""
    removed = {name.lower() for name in response.ok_response.headers_to_remove}
    named = {option.header.key.lower(): option.header for option in response.ok_response.headers}
    assert not removed & named.keys(), "Envoy would deliver neither"
    assert "doorward-authorization" in removed or not response.ok_response.headers_to_remove
    for name, header in named.items():
        value = header.raw_value or header.value.encode()
        # Somebody may put a secret of theirs into a cookie of another name; that is the application's then.
        if name == "cookie":
            assert not _OUR_COOKIE.search(value)
            continue
        assert b"__host-doorward" not in value.lower()
        assert not any(text.encode() in value for text in made.tokens.values())
