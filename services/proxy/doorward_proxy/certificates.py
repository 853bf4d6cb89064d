"""The listener's certificate: the operator's files, or one from the local authority for exactly the served hosts."""

from typing import Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from doorward.config.settings import Settings
from doorward.errors import ConfigurationError
from doorward.keys.local_authority import CertifiedKey


class Authority(Protocol):
    """Somebody who makes certificates."""

    def certificate_for(self, hosts: tuple[str, ...]) -> CertifiedKey:
        """A certificate for exactly ``hosts``."""
        ...


class Certificates:
    """Gives the certificate for settings; makes a new one only when the hosts have changed.

    Concurrency: one task.
    """

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._hosts: tuple[str, ...] = ()
        self._made: CertifiedKey | None = None

    def current(self, settings: Settings) -> CertifiedKey:
        """The certificate chain and key for ``settings``.

        Raises:
            ConfigurationError: the operator's files cannot be read, or do not belong together.
        """
        files = settings.tls
        if files.certificate_file is not None and files.key_file is not None:
            try:
                certified = CertifiedKey(files.certificate_file.read_bytes(), files.key_file.read_bytes())
            except OSError as error:
                raise ConfigurationError([f"tls: error: cannot be read: {error}"]) from error
            return _verified(certified)
        if self._made is None or self._hosts != settings.hosts:
            self._hosts = settings.hosts
            self._made = self._authority.certificate_for(settings.hosts)
        return self._made


def _verified(certified: CertifiedKey) -> CertifiedKey:
    try:
        certificates = x509.load_pem_x509_certificates(certified.certificate_pem)
        key = load_pem_private_key(certified.key_pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError([f"tls: error: not a PEM certificate and key: {error}"]) from error
    if certificates[0].public_key() != key.public_key():
        raise ConfigurationError(["tls: error: the key is not that of the certificate"])
    return certified
