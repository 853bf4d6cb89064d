"""Envoy's CheckRequest as plain values; nothing here decides."""

from dataclasses import dataclass

from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from doorward.identity.cookies import parse_cookies
from doorward.policy import RequestFacts
from doorward.route.internal import CLIENT_ADDRESS_HEADER, CONTEXT_DIGEST, CONTEXT_HOST, CONTEXT_ROUTE
from doorward.route.paths import decoded_path


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
        )
        return self.known_facts


def parse_check(data: bytes) -> CheckedRequest:
    """The request in a serialized CheckRequest.

    Raises:
        google.protobuf.message.DecodeError: the bytes are no CheckRequest.
    """
    attributes = CheckRequest.FromString(data).attributes
    http = attributes.request.http
    context = attributes.context_extensions
    collected: dict[str, list[str]] = {}
    cookie_lines: list[bytes] = []
    for header in http.header_map.headers:
        raw = header.raw_value or header.value.encode("utf-8", "surrogateescape")
        name = header.key.lower()
        if name == "cookie":
            cookie_lines.append(raw)
        collected.setdefault(name, []).append(raw.decode("latin-1"))
    headers = {name: tuple(values) for name, values in collected.items()}
    path, _, query = http.path.partition("?")
    address = headers.get(CLIENT_ADDRESS_HEADER)
    request_ids = headers.get("x-request-id")
    return CheckedRequest(
        route_id=context.get(CONTEXT_ROUTE, ""),
        digest=context.get(CONTEXT_DIGEST, ""),
        host=context.get(CONTEXT_HOST, ""),
        method=http.method,
        path=path,
        query=query,
        headers=headers,
        cookies=tuple(parse_cookies(cookie_lines)),
        request_id=request_ids[0] if request_ids else "",
        client_address=address[0] if address is not None and len(address) == 1 else None,
    )
