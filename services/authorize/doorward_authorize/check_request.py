"""Envoy's CheckRequest as plain values; nothing here decides."""

import sys
from dataclasses import dataclass
from typing import TypeVar

from doorward.api.authorize.v1.check_view_pb2 import CheckView, TextEntry
from doorward.envoy_api.envoy.config.core.v3.base_pb2 import HeaderValue
from doorward.identity.cookies import parse_cookies
from doorward.policy import RequestFacts
from doorward.route.internal import CLIENT_ADDRESS_HEADER, CONTEXT_DIGEST, CONTEXT_HOST, CONTEXT_ROUTE
from doorward.route.paths import decoded_path
from doorward_authorize.certificate import VerifiedCertificate

_REMEMBERED = 8_192
"""Entries of each memory; a full one is emptied."""
_REMEMBERED_BYTES = 2_048
"""What is longer is decoded every time, so that nobody fills the memory."""
_UNIQUE = frozenset({":path", "x-request-id", "content-length", "traceparent", "if-none-match", "range", "date"})
"""Headers that seldom recur."""
_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(slots=True)
class CheckedRequest:
    """One request as Envoy describes it. Not changed after it was made; not frozen, because one is made for each check."""

    route_id: str
    digest: str
    host: str
    """The matched route's host, as the control plane wrote it; never the client's word."""
    method: str
    path: str
    """Without query, as the upstream will get it; empty for CONNECT."""
    query: str
    headers: dict[str, tuple[str, ...]]
    """Lower-case names; each value by itself, bytes as Latin-1."""
    cookies: tuple[tuple[bytes, bytes], ...]
    request_id: str
    client_address: str | None
    peer: bytes = b""
    """Who is connected, a serialized ``PeerView``; taken apart only where a route looks at certificates."""
    tls_session: bytes = b""
    certificate: VerifiedCertificate | None = None
    """The client's, where the route looks at it and it counts."""
    is_certificate_unknown: bool = False
    """Whether whoever asks is not believed about certificates."""
    is_certificate_looked_for: bool = False
    """Whether the route looks at one at all: where it does not, nobody knows that there is none."""
    gateway: str = ""
    """The gateway that asks, when it is not our own Envoy."""
    known_facts: RequestFacts | None = None
    """Made once, on first use."""

    def header(self, name: str) -> str | None:
        """The one value of a header; ``None`` when it is absent or repeated."""
        values = self.headers.get(name)
        return values[0] if values is not None and len(values) == 1 else None

    @property
    def is_upgrade(self) -> bool:
        """Whether it asks for another protocol: a WebSocket over HTTP/1.1 or HTTP/2, or a tunnel."""
        return "upgrade" in self.headers or self.method == "CONNECT"

    @property
    def is_grpc(self) -> bool:
        """Whether it is a gRPC call (gRPC over HTTP/2; gRPC-Web counts too, its clients read the same trailers)."""
        return any(value.startswith("application/grpc") for value in self.headers.get("content-type", ()))

    @property
    def is_kubernetes(self) -> bool:
        """Whether a client of a Kubernetes API asks; client-go names itself so, and asks for tables so."""
        agents = self.headers.get("user-agent", ())
        return any(" kubernetes/" in value for value in agents) or any(
            "g=meta.k8s.io" in value or "application/vnd.kubernetes" in value
            for value in self.headers.get("accept", ())
        )

    @property
    def is_navigation(self) -> bool:
        """Whether a browser goes to a page, so that it can be sent somewhere else."""
        if self.method not in {"GET", "HEAD"} or self.is_upgrade or self.is_grpc:
            return False
        destination = self.header("sec-fetch-dest")
        return destination == "document" if destination is not None else self.prefers_html

    @property
    def prefers_html(self) -> bool:
        """Whether `Accept` names HTML; ``*/*`` alone is what programs send."""
        return any("text/html" in value for value in self.headers.get("accept", ()))

    @property
    def target(self) -> str:
        """Path and query."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def with_certificate(self, certificate: VerifiedCertificate | None, *, is_looked_for: bool) -> None:
        """Note the certificate that counts for this request now; what policy may see is made anew if it is another."""
        if certificate is not self.certificate or is_looked_for is not self.is_certificate_looked_for:
            self.certificate, self.is_certificate_looked_for, self.known_facts = certificate, is_looked_for, None

    def facts(self) -> RequestFacts | None:
        """What policy may see; ``None`` when the path is no UTF-8 and so cannot be compared."""
        if self.known_facts is not None:
            return self.known_facts
        path = decoded_path(self.path)
        if path is None:
            return None
        self.known_facts = RequestFacts(
            method=self.method,
            host=self.host,
            path=path,
            raw_path=self.path,
            query=self.query,
            headers=self.headers,
            client_address=self.client_address,
            client_certificate=self.certificate.facts if self.certificate is not None else None,
            is_certificate_unknown=self.is_certificate_unknown or not self.is_certificate_looked_for,
            route=self.route_id,
        )
        return self.known_facts


EMPTY = CheckedRequest("", "", "", "", "", "", {}, (), "", None)
"""What is known of a request that was not read, or could not be."""


class CheckParser:
    """Takes serialized CheckRequests apart.

    Headers and cookies recur from request to request; what a few bytes were decoded to is remembered for exactly these bytes.
    Concurrency: belongs to one event loop.
    """

    def __init__(self) -> None:
        self._headers: dict[bytes, tuple[str, tuple[str, ...]]] = {}
        self._contexts: dict[tuple[bytes, ...], tuple[str, str, str]] = {}
        self._cookies: dict[tuple[str, ...], tuple[tuple[bytes, bytes], ...]] = {}

    def parse(self, data: bytes) -> CheckedRequest:
        """The request in a serialized CheckRequest.

        Raises:
            google.protobuf.message.DecodeError: the bytes are no CheckRequest.
        """
        attributes = CheckView.FromString(data).attributes
        http = attributes.request.http
        headers: dict[str, tuple[str, ...]] = {}
        known = self._headers
        for entry in http.header_map.headers:
            name, values = known.get(entry) or self._header(entry)
            if name in headers:
                headers[name] += values
            else:
                headers[name] = values
        entries = tuple(attributes.context_extensions)
        route_id, digest, host = self._contexts.get(entries) or self._context(entries)
        lines = headers.get("cookie")
        path, _, query = http.path.partition("?")
        address = headers.get(CLIENT_ADDRESS_HEADER)
        request_ids = headers.get("x-request-id")
        return CheckedRequest(
            route_id,
            digest,
            host,
            http.method,
            path,
            query,
            headers,
            () if lines is None else self._cookies.get(lines) or self._cookies_of(lines),
            request_ids[0] if request_ids else "",
            address[0] if address is not None and len(address) == 1 else None,
            attributes.source,
            attributes.tls_session,
        )

    def _header(self, entry: bytes) -> tuple[str, tuple[str, ...]]:
        header = HeaderValue.FromString(entry)
        raw = header.raw_value or header.value.encode("utf-8", "surrogateescape")
        name = header.key.lower()
        decoded = (sys.intern(name), (raw.decode("latin-1"),))
        if name not in _UNIQUE and len(entry) <= _REMEMBERED_BYTES:
            _remember(self._headers, entry, decoded)
        return decoded

    def _context(self, entries: tuple[bytes, ...]) -> tuple[str, str, str]:
        context = {entry.key: entry.value for entry in map(TextEntry.FromString, entries)}
        decoded = (context.get(CONTEXT_ROUTE, ""), context.get(CONTEXT_DIGEST, ""), context.get(CONTEXT_HOST, ""))
        _remember(self._contexts, entries, decoded)
        return decoded

    def _cookies_of(self, lines: tuple[str, ...]) -> tuple[tuple[bytes, bytes], ...]:
        cookies = tuple(parse_cookies(line.encode("latin-1") for line in lines))
        if sum(map(len, lines)) <= _REMEMBERED_BYTES:
            _remember(self._cookies, lines, cookies)
        return cookies


def _remember(known: dict[_K, _V], key: _K, value: _V) -> None:
    if len(known) >= _REMEMBERED:
        known.clear()
    known[key] = value
