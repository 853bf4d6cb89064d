"""Certificates by which the planes know each other: one authority, and one certificate for each plane and each other gateway.

The name of the plane stands in the certificate twice: as a URI, which servers and Envoy compare, and as a DNS name, which
is all that a gRPC client can compare. Whoever holds a certificate of one plane is that plane and no other. A gateway is named
``gateway/<name>``; its certificate is good for asking alone, so that no gateway can answer as if it were a plane.

    FOLDER/authority.crt, authority.key   made by ``keys init``; the key stays where certificates are renewed
    FOLDER/authority-next/                an authority that is trusted already and issues nothing yet
    FOLDER/authority-earlier.crt          the one that issued before, still trusted
    FOLDER/<plane>/tls.crt, tls.key       the plane's own; names as Kubernetes and its certificate managers use them
    FOLDER/<plane>/ca.crt                 the authorities that it trusts
    FOLDER/gateway/<name>/...             the same of a gateway

An authority changes in the steps of any other key: ``add`` one that all come to trust, ``promote`` it so that it issues, ``retire``
the one before. Each step makes every certificate again.
"""

import datetime as dt
import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID

from doorward.clock import Clock
from doorward.errors import ConfigurationError
from doorward.keys.local_authority import BACKDATE, LocalAuthority
from doorward.keys.private_file import write_private

CERTIFICATE_FILE = "tls.crt"
KEY_FILE = "tls.key"
AUTHORITIES_FILE = "ca.crt"
PLANE_AUTHORITY = "plane-authority"
"""What the authority is called where keys are listed."""
AUTHORITY_KEY_FILE = "authority.key"
DEFAULT_LIFE = dt.timedelta(days=30)
_AUTHORITY_FILE = "authority.crt"
_NEXT_FOLDER = "authority-next"
_EARLIER_FILE = "authority-earlier.crt"
_NAME = "Doorward planes"
_OLD = dt.timedelta(days=180)
"""With less life left than this it is time to begin with another authority."""
GATEWAY_PREFIX = "gateway/"
"""How the identity of another gateway begins, among the names of planes."""
_PLANE_URI = "doorward://plane/"
_GATEWAY_URI = "doorward://gateway/"
_PLANE_DOMAIN = ".plane.doorward"
_GATEWAY_DOMAIN = ".gateway.doorward"


def plane_uri(plane: str) -> str:
    """The URI that names ``plane``, or a gateway, in its certificate."""
    if plane.startswith(GATEWAY_PREFIX):
        return _GATEWAY_URI + plane.removeprefix(GATEWAY_PREFIX)
    return _PLANE_URI + plane


def plane_host(plane: str) -> str:
    """The DNS name that names ``plane``, or a gateway, in its certificate; it resolves nowhere."""
    if plane.startswith(GATEWAY_PREFIX):
        return plane.removeprefix(GATEWAY_PREFIX) + _GATEWAY_DOMAIN
    return plane + _PLANE_DOMAIN


def plane_of(certificate: x509.Certificate) -> str | None:
    """The one plane that ``certificate`` names, or ``None`` when it names none, or several."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return None
    return plane_of_uris(names.get_values_for_type(x509.UniformResourceIdentifier))


def plane_of_uris(uris: Sequence[str]) -> str | None:
    """The one plane or gateway among the URIs of a certificate that somebody else has verified; ``None`` for none or several."""
    planes = {uri.removeprefix(_PLANE_URI) for uri in uris if uri.startswith(_PLANE_URI)}
    gateways = {uri.removeprefix(_GATEWAY_URI) for uri in uris if uri.startswith(_GATEWAY_URI)}
    if len(planes) + len(gateways) != 1 or any("/" in name for name in (*planes, *gateways)):
        return None
    return planes.pop() if planes else GATEWAY_PREFIX + gateways.pop()


def authority_id(authority: x509.Certificate) -> str:
    """By what an authority is told from others: the first eight digits of the SHA-256 of its certificate."""
    return authority.fingerprint(SHA256()).hex()[:8]


@dataclass(frozen=True, slots=True)
class Renewed:
    """A certificate that was made."""

    plane: str
    expires_at: dt.datetime


class PlaneAuthority:
    """Issues the planes' certificates below ``folder``; makes an authority there when there is none, or it has expired.

    Concurrency: one process at a time (``open_authority``); planes read what it writes.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._next = folder / _NEXT_FOLDER
        self._earlier = folder / _EARLIER_FILE
        self._finish_promotion()
        self._authority = self._open(folder)

    @property
    def ids(self) -> list[str]:
        """Ids of the authorities that are trusted, the one that issues first."""
        return [authority_id(authority) for authority in x509.load_pem_x509_certificates(self._trusted().encode())]

    @property
    def next_id(self) -> str | None:
        """Id of the one that is to issue, if one waits."""
        return _id_in(self._next / _AUTHORITY_FILE) if self._next.is_dir() else None

    @property
    def gateways(self) -> list[str]:
        """The gateways that have a certificate here, each as ``gateway/<name>``, sorted."""
        folder = self._folder / GATEWAY_PREFIX
        return sorted(GATEWAY_PREFIX + path.name for path in folder.iterdir()) if folder.is_dir() else []

    @property
    def expires_at(self) -> dt.datetime:
        """When the one that issues expires."""
        return x509.load_pem_x509_certificate(self._authority.ca_file.read_bytes()).not_valid_after_utc

    @property
    def is_old(self) -> bool:
        """Whether it is time to begin with another one."""
        return self.expires_at - self._now() < _OLD

    def add(self) -> str:
        """Make an authority that is to be trusted and issues nothing yet; returns its id. A second one is not made."""
        self._open(self._next)
        return str(self.next_id)

    def promote(self) -> str:
        """Let the one that waits issue; returns its id.

        Raises:
            ConfigurationError: none waits.
        """
        if self.next_id is None:
            raise ConfigurationError([f"{self._folder}: error: no authority waits to issue"])
        write_private(self._earlier, self._authority.ca_file.read_text())
        (self._next / AUTHORITY_KEY_FILE).replace(self._folder / AUTHORITY_KEY_FILE)
        self._finish_promotion()
        self._authority = self._open(self._folder)
        return self.ids[0]

    def retire(self) -> list[str]:
        """Trust the one before no more; returns its id in a list, or an empty one."""
        if not self._earlier.exists():
            return []
        dropped = _id_in(self._earlier)
        self._earlier.unlink()
        return [dropped]

    def revoke(self, dropped: str) -> None:
        """Trust an authority no more, at once; another one issues if it was the one that did.

        Raises:
            ConfigurationError: there is no such authority.
        """
        if dropped not in self.ids:
            raise ConfigurationError(
                [f"error: no key `{dropped}` for `{PLANE_AUTHORITY}` (there are {', '.join(self.ids)})"]
            )
        if dropped == self.next_id:
            for path in self._next.iterdir():
                path.unlink()
            self._next.rmdir()
        elif dropped == self.ids[0]:
            self.add()
            self.promote()
            self.retire()
        else:
            self.retire()

    def renew(self, planes: Sequence[str], life: dt.timedelta | None, *, all_of_them: bool = False) -> list[Renewed]:
        """Make the certificates that are missing, damaged, of another authority or two thirds through their life.

        Without a ``life`` each lives as long as the one before.
        """
        return [
            self._issue(plane, life or self._life_of(plane)) for plane in planes if all_of_them or self._is_due(plane)
        ]

    def _is_due(self, plane: str) -> bool:
        folder = self._folder / plane
        try:
            certificate = x509.load_pem_x509_certificates((folder / CERTIFICATE_FILE).read_bytes())[0]
            trusted = (folder / AUTHORITIES_FILE).read_text()
            private = (folder / KEY_FILE).is_file()
        except (OSError, ValueError):
            return True
        if not private or plane_of(certificate) != plane or trusted != self._trusted():
            return True
        return self._now() >= renewal_time(certificate)

    def _issue(self, plane: str, life: dt.timedelta) -> Renewed:
        certified = self._authority.issue(
            f"doorward {plane}",
            [x509.UniformResourceIdentifier(plane_uri(plane)), x509.DNSName(plane_host(plane))],
            [ExtendedKeyUsageOID.CLIENT_AUTH]
            if plane.startswith(GATEWAY_PREFIX)
            else [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
            life,
        )
        folder = self._folder / plane
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        # Readers take a pair only when it belongs together, so a moment between the two does no harm.
        write_private(folder / KEY_FILE, certified.key_pem.decode())
        write_private(folder / CERTIFICATE_FILE, certified.certificate_pem.decode())
        write_private(folder / AUTHORITIES_FILE, self._trusted())
        certificate = x509.load_pem_x509_certificate(certified.certificate_pem)
        return Renewed(plane, certificate.not_valid_after_utc)

    def _trusted(self) -> str:
        """The certificates of all authorities that planes are to trust, the one that issues first."""
        others = [self._next / _AUTHORITY_FILE, self._earlier]
        return "".join(path.read_text() for path in (self._authority.ca_file, *others) if path.exists())

    def _life_of(self, plane: str) -> dt.timedelta:
        try:
            pem = (self._folder / plane / CERTIFICATE_FILE).read_bytes()
            certificate = x509.load_pem_x509_certificates(pem)[0]
        except (OSError, ValueError):
            return DEFAULT_LIFE
        return certificate.not_valid_after_utc - certificate.not_valid_before_utc - BACKDATE

    def _open(self, folder: Path) -> LocalAuthority:
        # Only an expired one is replaced without further ado: nothing that it issued counts any more.
        return LocalAuthority(folder, self._clock, name=_NAME, replaced_before=dt.timedelta(0))

    def _finish_promotion(self) -> None:
        """The key moves first; who was interrupted then finds a folder without a key and moves the rest."""
        if self._next.is_dir() and not (self._next / AUTHORITY_KEY_FILE).exists():
            if (self._next / _AUTHORITY_FILE).exists():
                (self._next / _AUTHORITY_FILE).replace(self._folder / _AUTHORITY_FILE)
            self._next.rmdir()

    def _now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._clock.now(), dt.UTC)


@contextmanager
def open_authority(folder: Path, clock: Clock) -> Iterator[PlaneAuthority]:
    """The authority in ``folder``, held against other commands: one may renew for days while another changes a key."""
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield PlaneAuthority(folder, clock)


def _id_in(path: Path) -> str:
    return authority_id(x509.load_pem_x509_certificate(path.read_bytes()))


def renewal_time(certificate: x509.Certificate) -> dt.datetime:
    """Two thirds of the life of a certificate of ours, counted from when it was made."""
    made = certificate.not_valid_before_utc + BACKDATE
    return made + (certificate.not_valid_after_utc - made) * 2 / 3
