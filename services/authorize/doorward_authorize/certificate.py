"""A client's certificate, taken apart: what policy may see of it, and when it counts."""

import base64
import hashlib
import urllib.parse
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from doorward.api.guard.v1.guard_pb2 import ClientCertificate
from doorward.config.settings import Settings
from doorward.policy import ClientCertificateFacts

LIMIT_BYTES = 32 * 1024
_CLIENT_USAGES = frozenset({ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})


@dataclass(frozen=True, slots=True)
class VerifiedCertificate:
    """A certificate that Envoy verified, taken apart."""

    facts: ClientCertificateFacts
    issuer: bytes
    """The name, in DER."""
    serial_number: int
    subject: str = field(default="", compare=False)
    """Its holder's name (RFC 4514), empty where it has none; for upstreams alone, so it does not travel with a stream."""
    pem: str = field(default="", compare=False)
    """As Envoy handed it on, percent-encoded; for upstreams alone too."""

    def counts(self, settings: Settings, now: float) -> bool:
        """Whether it does at ``now``: within its dates, not taken back, and by lists that have not run out."""
        clients = settings.client_certificates
        return (
            clients is not None
            and self.facts.not_before_at <= now <= self.facts.not_after_at
            and now < clients.lists_end_at
            and (self.issuer, self.serial_number) not in clients.revoked
        )

    def ends_at(self, settings: Settings) -> float:
        """When it stops to count, as far as is known."""
        clients = settings.client_certificates
        return min(self.facts.not_after_at, clients.lists_end_at if clients is not None else 0.0)

    def described(self) -> ClientCertificate:
        """As it travels with an open stream."""
        facts = self.facts
        return ClientCertificate(
            fingerprint=facts.fingerprint,
            spki_hash=facts.spki_hash,
            san_dns=facts.san_dns,
            san_email=facts.san_email,
            san_uri=facts.san_uri,
            not_before_at=facts.not_before_at,
            not_after_at=facts.not_after_at,
            issuer=self.issuer,
            serial_number=self.serial_number.to_bytes((self.serial_number.bit_length() + 7) // 8, "big"),
        )

    @staticmethod
    def of_description(message: ClientCertificate) -> "VerifiedCertificate":
        """The certificate of an open stream."""
        facts = ClientCertificateFacts(
            fingerprint=message.fingerprint,
            spki_hash=message.spki_hash,
            san_dns=tuple(message.san_dns),
            san_email=tuple(message.san_email),
            san_uri=tuple(message.san_uri),
            not_before_at=message.not_before_at,
            not_after_at=message.not_after_at,
        )
        return VerifiedCertificate(facts, message.issuer, int.from_bytes(message.serial_number, "big"))


def parse_certificate(text: str) -> VerifiedCertificate | None:
    """The certificate in percent-encoded PEM; ``None`` for what is no client's certificate or can be read in two ways."""
    if len(text) > LIMIT_BYTES:
        return None
    try:
        certificate = x509.load_pem_x509_certificate(urllib.parse.unquote_to_bytes(text))
        if not _is_for_clients(certificate):
            return None
        names = _alternative_names(certificate)
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        facts = ClientCertificateFacts(
            fingerprint=hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
            spki_hash=base64.b64encode(hashlib.sha256(key).digest()).decode(),
            san_dns=_plain(names, x509.DNSName),
            san_email=_plain(names, x509.RFC822Name),
            san_uri=_plain(names, x509.UniformResourceIdentifier),
            not_before_at=certificate.not_valid_before_utc.timestamp(),
            not_after_at=certificate.not_valid_after_utc.timestamp(),
        )
        return VerifiedCertificate(
            facts,
            certificate.issuer.public_bytes(),
            certificate.serial_number,
            subject=certificate.subject.rfc4514_string(),
            pem=text,
        )
    except (ValueError, TypeError, x509.DuplicateExtension, UnsupportedAlgorithm):
        return None


def _is_for_clients(certificate: x509.Certificate) -> bool:
    """Whether it may prove a client (RFC 5280, section 4.2.1.12), and is no authority's own."""
    try:
        if certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
    except x509.ExtensionNotFound:
        pass
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return not _CLIENT_USAGES.isdisjoint(usages)


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def _plain(
    names: x509.SubjectAlternativeName | None,
    kind: type[x509.DNSName] | type[x509.RFC822Name] | type[x509.UniformResourceIdentifier],
) -> tuple[str, ...]:
    """Names of one kind, and of no other: an e-mail address in a DNS name is a DNS name.

    Raises:
        ValueError: one of them holds what no such name holds; two programs would read it differently.
    """
    found = tuple(names.get_values_for_type(kind)) if names is not None else ()
    for name in found:
        if not all("!" <= character <= "~" for character in name):
            raise ValueError("a name that is not plain")
    return found
