"""What a client's certificate is at a decision.

Envoy has verified its chain, dates, usage and revocation when the connection began, and hands the certificate on. A connection lives
long, so dates and revocation lists are looked at again here, every time; and what Envoy should never have let through (a certificate
for servers, an authority's own) does not count even if it did.

    no certificate, or none that counts    nobody: `client_certificate` is unknown, `invalid_client_certificate` holds
    a connection that was not asked        misdirected: the client must connect anew, under the host's own name
"""

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from doorward.api.authorize.v1.check_view_pb2 import PeerView, TlsSessionView
from doorward.config.settings import Settings
from doorward.identity.session import Session
from doorward.identity.user import User
from doorward.policy import PrincipalFacts
from doorward.route.route import CertificateUse, Route
from doorward_authorize.certificate import VerifiedCertificate, parse_certificate
from doorward_authorize.check_request import CheckedRequest
from doorward_authorize.principal import Credential, Principal

ID_PREFIX = "cert-"
"""How ids of principals begin that a certificate speaks for; no session or account is called so."""
ISSUER = "doorward:client-certificates"
"""Stands where a person's identity provider stands."""
CACHE_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Misdirected:
    """A request over a connection that was not asked for a certificate, or was asked for another host's sake."""


class ClientCertificates:
    """Finds out which certificate a request came with. Concurrency: belongs to one event loop."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._known: dict[str, VerifiedCertificate | None] = {}
        self._principals: dict[str, tuple[VerifiedCertificate, Principal]] = {}
        self._hosts: frozenset[str] = frozenset()
        self._hosts_of: Settings | None = None

    def of(self, request: CheckedRequest, route: Route, settings: Settings) -> VerifiedCertificate | Misdirected | None:
        """The certificate that counts for ``request``; ``None`` when there is none, or the route does not look."""
        if route.client_certificate is CertificateUse.IGNORED or settings.client_certificates is None:
            return None
        if request.is_certificate_unknown:
            return None
        try:
            name = TlsSessionView.FromString(request.tls_session).sni.lower()
            text = PeerView.FromString(request.peer).certificate
        except DecodeError:
            return Misdirected()
        if self._hosts_of is not settings:
            self._hosts, self._hosts_of = frozenset(settings.certificate_hosts), settings
        if name not in self._hosts:
            return Misdirected()
        found = self._parsed(text) if text else None
        return found if found is not None and found.counts(settings, self._now()) else None

    def principal(self, certificate: VerifiedCertificate) -> Principal:
        """Who a certificate speaks for; the same object again for the same certificate, since answers are kept by it."""
        known = self._principals.get(certificate.facts.fingerprint)
        if known is not None and known[0] is certificate:
            return known[1]
        found = principal_of(certificate)
        if len(self._principals) >= CACHE_LIMIT:
            self._principals.clear()
        self._principals[certificate.facts.fingerprint] = (certificate, found)
        return found

    def _parsed(self, text: str) -> VerifiedCertificate | None:
        if text in self._known:
            return self._known[text]
        found = parse_certificate(text)
        if len(self._known) >= CACHE_LIMIT:
            self._known.clear()
        self._known[text] = found
        return found


def principal_of(certificate: VerifiedCertificate) -> Principal:
    """Who a certificate speaks for, where it says who asks: the holder of its key; nothing more is known of them."""
    facts = certificate.facts
    name = ID_PREFIX + facts.fingerprint
    session = Session(
        id=name,
        user_id=name,
        identity_provider_id="",
        issued_at=facts.not_before_at,
        expires_at=facts.not_after_at,
        authenticated_at=facts.not_before_at,
    )
    user = User(id=name, issuer=ISSUER, subject=facts.fingerprint, name="", groups=frozenset())
    known = PrincipalFacts(user_id=name, subject=facts.fingerprint, groups=frozenset(), session_id=name)
    return Principal(session, user, known, name.encode(), credential=Credential.CERTIFICATE)
