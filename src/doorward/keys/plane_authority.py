"""Certificates by which the planes know each other: one authority, and one certificate for each plane.

The name of the plane stands in the certificate twice: as a URI, which servers and Envoy compare, and as a DNS name, which
is all that a gRPC client can compare. Whoever holds a certificate of one plane is that plane and no other.

    FOLDER/authority.crt, authority.key   made by ``keys init``; the key stays where certificates are renewed
    FOLDER/<plane>/tls.crt, tls.key       the plane's own; names as Kubernetes and its certificate managers use them
    FOLDER/<plane>/ca.crt                 the authorities that it trusts
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from doorward.clock import Clock
from doorward.keys.local_authority import BACKDATE, LocalAuthority
from doorward.keys.private_file import write_private

CERTIFICATE_FILE = "tls.crt"
KEY_FILE = "tls.key"
AUTHORITIES_FILE = "ca.crt"
DEFAULT_LIFE = dt.timedelta(days=30)
_URI_PREFIX = "doorward://plane/"
_DOMAIN = ".plane.doorward"


def plane_uri(plane: str) -> str:
    """The URI that names ``plane`` in its certificate."""
    return _URI_PREFIX + plane


def plane_host(plane: str) -> str:
    """The DNS name that names ``plane`` in its certificate; it resolves nowhere."""
    return plane + _DOMAIN


def plane_of(certificate: x509.Certificate) -> str | None:
    """The one plane that ``certificate`` names, or ``None`` when it names none, or several."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return None
    return plane_of_uris(names.get_values_for_type(x509.UniformResourceIdentifier))


def plane_of_uris(uris: Sequence[str]) -> str | None:
    """The one plane among the URIs of a certificate that somebody else has verified; ``None`` for none or several."""
    planes = {uri.removeprefix(_URI_PREFIX) for uri in uris if uri.startswith(_URI_PREFIX)}
    return planes.pop() if len(planes) == 1 else None


@dataclass(frozen=True, slots=True)
class Renewed:
    """A certificate that was made."""

    plane: str
    expires_at: dt.datetime


class PlaneAuthority:
    """Issues the planes' certificates below ``folder``.

    Concurrency: one process at a time; planes read what it writes.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._authority = LocalAuthority(folder, clock, name="Doorward planes")

    def renew(self, planes: Sequence[str], life: dt.timedelta, *, all_of_them: bool = False) -> list[Renewed]:
        """Make the certificates that are missing, damaged, of another authority or two thirds through their life."""
        return [self._issue(plane, life) for plane in planes if all_of_them or self._is_due(plane)]

    def _is_due(self, plane: str) -> bool:
        folder = self._folder / plane
        try:
            certificate = x509.load_pem_x509_certificates((folder / CERTIFICATE_FILE).read_bytes())[0]
            trusted = (folder / AUTHORITIES_FILE).read_bytes()
            private = (folder / KEY_FILE).is_file()
        except (OSError, ValueError):
            return True
        if not private or plane_of(certificate) != plane or trusted != self._authority.ca_file.read_bytes():
            return True
        return self._now() >= renewal_time(certificate)

    def _issue(self, plane: str, life: dt.timedelta) -> Renewed:
        certified = self._authority.issue(
            f"doorward {plane}",
            [x509.UniformResourceIdentifier(plane_uri(plane)), x509.DNSName(plane_host(plane))],
            [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
            life,
        )
        folder = self._folder / plane
        folder.mkdir(mode=0o700, exist_ok=True)
        # Readers take a pair only when it belongs together, so a moment between the two does no harm.
        write_private(folder / KEY_FILE, certified.key_pem.decode())
        write_private(folder / CERTIFICATE_FILE, certified.certificate_pem.decode())
        write_private(folder / AUTHORITIES_FILE, self._authority.ca_file.read_text())
        certificate = x509.load_pem_x509_certificate(certified.certificate_pem)
        return Renewed(plane, certificate.not_valid_after_utc)

    def _now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._clock.now(), dt.UTC)


def renewal_time(certificate: x509.Certificate) -> dt.datetime:
    """Two thirds of the life of a certificate of ours, counted from when it was made."""
    made = certificate.not_valid_before_utc + BACKDATE
    return made + (certificate.not_valid_after_utc - made) * 2 / 3
