"""A certificate authority for one machine: made on first start, so that a demo or a laptop has TLS.

Its certificates name exactly the hosts that are asked for. A wildcard for ``*.localhost`` would be refused by most
clients, and one for a wider name would be a needless power.
"""

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from doorward.clock import Clock
from doorward.errors import DataCorruptedError

_CA_LIFE = dt.timedelta(days=825)
_LEAF_LIFE = dt.timedelta(days=90)
BACKDATE = dt.timedelta(hours=1)
"""Certificates begin an hour early, for clients whose clock is behind."""


@dataclass(frozen=True, slots=True)
class CertifiedKey:
    """A certificate chain and its private key, both PEM."""

    certificate_pem: bytes
    key_pem: bytes


class LocalAuthority:
    """The authority whose key lies in ``folder``; made there when it is missing or has less life left than ``replaced_before``.

    Concurrency: one process makes it (the one that holds the data folder); any number may use it afterwards.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        *,
        name: str = "Doorward local authority",
        replaced_before: dt.timedelta = _LEAF_LIFE,
    ) -> None:
        self._clock = clock
        self._replaced_before = replaced_before
        self._name = name
        self._key_file = folder / "authority.key"
        self.ca_file = folder / "authority.crt"
        """The certificate that clients are to trust, PEM."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._key, self._certificate = self._open()

    def certificate_for(self, hosts: Sequence[str]) -> CertifiedKey:
        """A fresh certificate for exactly ``hosts`` (names or addresses), valid for 90 days.

        Raises:
            ValueError: ``hosts`` is empty.
        """
        if not hosts:
            raise ValueError("a certificate needs at least one host")
        names = [_alternative_name(host) for host in hosts]
        return self.issue(hosts[0], names, [ExtendedKeyUsageOID.SERVER_AUTH], _LEAF_LIFE)

    def issue(
        self,
        common_name: str,
        names: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
        life: dt.timedelta,
    ) -> CertifiedKey:
        """A fresh key and certificate for exactly ``names`` and ``usages``; ends with the authority at the latest."""
        now = self._now()
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(min(now + life, self._certificate.not_valid_after_utc))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        chain = certificate.public_bytes(Encoding.PEM) + self._certificate.public_bytes(Encoding.PEM)
        return CertifiedKey(chain, _pem(key))

    def _open(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        if self._key_file.exists() and self.ca_file.exists():
            key, certificate = self._read()
            if certificate.not_valid_after_utc - self._now() > self._replaced_before:
                return key, certificate
        self._create()
        return self._read()

    def _read(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        try:
            key = load_pem_private_key(self._key_file.read_bytes(), None)
            certificate = x509.load_pem_x509_certificate(self.ca_file.read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise DataCorruptedError(f"cannot read the local authority at `{self.ca_file}`: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise DataCorruptedError(f"key and certificate of the local authority at `{self.ca_file}` do not match")
        return key, certificate

    def _create(self) -> None:
        now = self._now()
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + _CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(sign_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.ca_file.unlink(missing_ok=True)
        self._key_file.unlink(missing_ok=True)
        descriptor = os.open(self._key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_pem(key))
        self.ca_file.write_bytes(certificate.public_bytes(Encoding.PEM))

    def _now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._clock.now(), dt.UTC)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
