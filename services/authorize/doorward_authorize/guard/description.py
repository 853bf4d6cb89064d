"""What Check says about a stream: enough to decide it again, carried by Envoy and the guard, out of any client's reach."""

import base64
from collections.abc import Callable, Collection
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from doorward.api.authorize.v1.authorize_pb2 import HeaderValues
from doorward.api.authorize.v1.authorize_pb2 import RequestFacts as RequestMessage
from doorward.api.guard.v1.guard_pb2 import ExternalToken as TokenMessage
from doorward.api.guard.v1.guard_pb2 import StreamDescription
from doorward.errors import DataCorruptedError, NotFoundError
from doorward.identity.cookies import SESSION_COOKIE, single_cookie
from doorward.keys.handle import key_of_handle
from doorward.policy import RequestFacts
from doorward.route.internal import METADATA_STREAM
from doorward.route.paths import decoded_path
from doorward.telemetry.tracing import parse_traceparent
from doorward_authorize.certificate import VerifiedCertificate
from doorward_authorize.check_request import CheckedRequest
from doorward_authorize.cross_origin import listed_origin
from doorward_authorize.outcome import Outcome
from doorward_authorize.principal import Credential, ExternalToken
from doorward_authorize.snapshot import CompiledRoute

_HEADER_READ = "http_header/"
"""How a policy declares that it reads a header."""


@dataclass(frozen=True, slots=True)
class Description:
    """A stream as Check let it pass."""

    decision_id: str
    route: str
    digest: str
    session_id: str
    """Empty for somebody who is not signed in."""
    user_id: str
    facts: RequestFacts
    external: ExternalToken | None = None
    """The token of another issuer that says who asks."""
    certificate: VerifiedCertificate | None = None
    """The client's, where the route looks at it."""
    request_id: str = ""
    """Envoy's; joins the records of all decisions about the stream."""
    traceparent: str = ""
    """Of the check, where that was in a sampled trace."""
    key: bytes = b""
    """Id of the key that the cookie was sealed with, or the token of ours hashed; empty where neither said who asks."""
    listed_origin: str = ""
    """The other site's origin that it came from, where only the route's list of origins let that be done with a cookie."""


def described(request: CheckedRequest, outcome: Outcome, decision_id: str, traceparent: str = "") -> Struct:
    """Dynamic metadata for a request that is let through on a guarded route, as part of ``traceparent`` if that is sampled."""
    parent = parse_traceparent(traceparent)
    reads = outcome.route.policy.reads if outcome.route is not None else frozenset()
    wanted = _headers_among(reads)
    route = outcome.route.route if outcome.route is not None else None
    message = StreamDescription(
        decision_id=decision_id,
        digest=request.digest,
        session_id=outcome.session_id or "",
        user_id=outcome.user_id or "",
        request_id=request.request_id,
        traceparent=str(parent) if parent is not None and parent.is_sampled else "",
        external_token=_described_token(outcome),
        client_certificate=request.certificate.described() if request.certificate is not None else None,
        read_headers=sorted(wanted),
        names_headers=True,
        certificate_unknown=request.is_certificate_unknown or not request.is_certificate_looked_for,
        listed_origin=listed_origin(request, route, by_cookie=_is_by_cookie(outcome)) if route is not None else "",
        key=_key(request, outcome),
        request=RequestMessage(
            route_id=request.route_id,
            method=request.method,
            path=request.path,
            query=request.query,
            client_address=request.client_address or "",
            headers={name: HeaderValues(values=values) for name, values in request.headers.items() if name in wanted},
        ),
    )
    metadata = Struct()
    # A Struct holds text alone.
    metadata.fields[METADATA_STREAM].string_value = base64.b64encode(message.SerializeToString()).decode("ascii")
    return metadata


def _is_by_cookie(outcome: Outcome) -> bool:
    """Whether a browser may have sent what vouches for somebody without its user's doing."""
    principal = outcome.principal
    return bool(outcome.session_id) and (principal is None or principal.credential is not Credential.TOKEN)


def _key(request: CheckedRequest, outcome: Outcome) -> bytes:
    principal = outcome.principal
    if not outcome.session_id or principal is None or principal.credential is not Credential.COOKIE:
        return b"" if principal is None else principal.key
    return key_of_handle(single_cookie(request.cookies, SESSION_COOKIE) or "")


def _described_token(outcome: Outcome) -> TokenMessage | None:
    token = outcome.principal.external if outcome.principal is not None else None
    if token is None:
        return None
    return TokenMessage(
        issuer=token.issuer,
        subject=token.subject,
        key=token.key,
        expires_at=token.expires_at,
        claims=token.claims,
        audiences=sorted(token.audiences),
        algorithm=token.algorithm,
    )


def _external(message: StreamDescription) -> ExternalToken:
    token = message.external_token
    return ExternalToken(
        token.issuer,
        token.subject,
        token.key,
        token.expires_at,
        token.claims,
        message.session_id,
        frozenset(token.audiences),
        token.algorithm,
    )


def _headers_among(reads: Collection[str]) -> frozenset[str]:
    return frozenset(name.removeprefix(_HEADER_READ) for name in reads if name.startswith(_HEADER_READ))


def read_description(data: bytes, route_of: Callable[[str], CompiledRoute | None]) -> Description:
    """The stream that Check described; ``route_of`` finds a route by its id.

    Raises:
        DataCorruptedError: Check never wrote this.
        NotFoundError: its route is gone.
    """
    try:
        message = StreamDescription.FromString(data)
    except DecodeError as error:
        raise DataCorruptedError("a stream's description does not parse") from error
    request = message.request
    path, route = decoded_path(request.path), route_of(request.route_id)
    if route is None:
        raise NotFoundError("no such route")
    if not message.digest or path is None:
        raise DataCorruptedError("a stream's description lacks its digest or its path")
    # An older version kept what its policy read, and what is missing was not sent: else an update would end such streams. What another
    # policy reads after this one is unknown of them, too.
    told = frozenset(message.read_headers) if message.names_headers else _headers_among(route.policy.reads)
    certificate = None
    if message.HasField("client_certificate"):
        certificate = VerifiedCertificate.of_description(message.client_certificate)
    return Description(
        decision_id=message.decision_id,
        route=request.route_id,
        digest=message.digest,
        session_id=message.session_id,
        user_id=message.user_id,
        facts=RequestFacts(
            method=request.method,
            host=route.route.host,
            path=path,
            raw_path=request.path,
            query=request.query,
            headers={name: tuple(values.values) for name, values in request.headers.items()},
            client_address=request.client_address or None,
            known_headers=told | request.headers.keys(),
            client_certificate=certificate.facts if certificate is not None else None,
            is_certificate_unknown=message.certificate_unknown,
            route=request.route_id,
        ),
        certificate=certificate,
        external=_external(message) if message.HasField("external_token") else None,
        request_id=message.request_id,
        traceparent=message.traceparent,
        listed_origin=message.listed_origin,
        key=message.key,
    )
