"""Authorities and certificates of clients, good ones and every kind of bad one, made for a test."""

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
_DAY = dt.timedelta(days=1)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...] = ()
    """What is sent behind it."""

    @property
    def pem(self) -> bytes:
        """The certificate and what follows it."""
        return b"".join(item.public_bytes(Encoding.PEM) for item in (self.certificate, *self.chain))

    def write(self, folder: Path, name: str) -> tuple[str, str]:
        """Chain and key as files."""
        chain, key = folder / f"{name}.crt", folder / f"{name}.key"
        chain.write_bytes(self.pem)
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return str(chain), str(key)


@dataclass
class ClientAuthority:
    """Somebody who makes certificates for clients. ``now`` is when "now" is for it."""

    name: str = "Clients"
    now: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    parent: "ClientAuthority | None" = None
    issued: Issued = field(init=False)

    def __post_init__(self) -> None:
        self.issued = (self.parent or self)._made(self.name, authority=True, own=self.parent is None)

    @property
    def pem(self) -> str:
        """Its certificate."""
        return self.issued.certificate.public_bytes(Encoding.PEM).decode()

    def client(
        self,
        name: str = "laptop",
        *,
        usages: tuple[x509.ObjectIdentifier, ...] = (CLIENT,),
        names: tuple[x509.GeneralName, ...] = (),
        begins: dt.timedelta = -_DAY,
        ends: dt.timedelta = 30 * _DAY,
        authority: bool = False,
    ) -> Issued:
        """A certificate for a client, or one that is wrong in the given way."""
        chain = (self.issued.certificate,) if self.parent is not None else ()
        found = self._made(name, authority=authority, usages=usages, names=names, begins=begins, ends=ends)
        return Issued(found.certificate, found.key, chain)

    def revocation_list(self, *revoked: Issued, ends: dt.timedelta = _DAY) -> str:
        """A list that takes certificates back."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.issued.certificate.subject)
            .last_update(self.now - 2 * _DAY)
            .next_update(self.now + ends)
        )
        for item in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(item.certificate.serial_number)
                .revocation_date(self.now - _DAY)
                .build()
            )
        return builder.sign(self.issued.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def _made(
        self,
        name: str,
        *,
        authority: bool,
        own: bool = False,
        usages: tuple[x509.ObjectIdentifier, ...] = (),
        names: tuple[x509.GeneralName, ...] = (),
        begins: dt.timedelta = -_DAY,
        ends: dt.timedelta = 30 * _DAY,
    ) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer, signer = (_name(name), key) if own else (self.issued.certificate.subject, self.issued.key)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now + begins)
            .not_valid_after(self.now + ends)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return Issued(builder.sign(signer, hashes.SHA256()), key)
