"""Who we are to the other planes: a certificate that may be replaced at any time, and what it is worth.

The files are looked at every second. A pair that belongs together and is in force replaces the one before; whoever opens or
accepts a connection from then on uses it, and connections that are open go on. Anything else is reported and not used.

Concurrency: belongs to one event loop; ``current`` may be read from any thread (gRPC asks from its own).
"""

import asyncio
import datetime as dt
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from doorward.clock import Clock
from doorward.errors import ConfigurationError
from doorward.keys.plane_authority import AUTHORITIES_FILE, CERTIFICATE_FILE, KEY_FILE, authority_id, plane_of
from doorward.keys.private_file import is_private

_LOOK_SECONDS = 1.0
_REMIND_SECONDS = 60.0

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PlaneCertificate:
    """A plane's certificate, its key, and the authorities that it trusts; all PEM, checked to belong together."""

    plane: str
    """A plane, or a gateway as ``gateway/<name>``."""
    certificate_pem: bytes
    key_pem: bytes
    authorities_pem: bytes
    expires_at: float
    """Seconds since the Unix epoch."""
    authority_ids: tuple[str, ...] = ()
    """Ids of the authorities: the one that has issued it first, then the others that it trusts."""

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a client."""
        return grpc.ssl_channel_credentials(self.authorities_pem, self.key_pem, self.certificate_pem)

    def server_context(self) -> ssl.SSLContext:
        """For a server of ours: demands a certificate of whoever connects."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(["h2"])
        context.num_tickets = 0  # a resumed session would not be looked at again
        context.load_verify_locations(cadata=self.authorities_pem.decode())
        with tempfile.NamedTemporaryFile(prefix="doorward-") as file:  # of mode 0600; there is no other way in
            file.write(self.key_pem + self.certificate_pem)
            file.flush()
            context.load_cert_chain(file.name)
        return context

    def server_configuration(self) -> grpc.ServerCertificateConfiguration:
        """For a server, which asks for it at every handshake."""
        return grpc.ssl_server_certificate_configuration([(self.key_pem, self.certificate_pem)], self.authorities_pem)


def read_certificate(folder: Path, plane: str, now: float) -> PlaneCertificate:
    """The certificate in ``folder``.

    Raises:
        ConfigurationError: missing, readable by others, damaged, not that of ``plane``, not in force, or not of an authority
            that is trusted; the text says which, and what to do.
    """
    certificate_file, key_file = folder / CERTIFICATE_FILE, folder / KEY_FILE
    try:
        if not is_private(key_file):
            raise _error(key_file, f"others may read this key (chmod 600 {key_file})")
        certificate_pem, key_pem = certificate_file.read_bytes(), key_file.read_bytes()
        authorities_pem = (folder / AUTHORITIES_FILE).read_bytes()
    except OSError as error:
        raise _error(
            Path(error.filename or folder), f"cannot be read: {error.strerror} (doorward keys init --planes)"
        ) from error
    try:
        certificates = x509.load_pem_x509_certificates(certificate_pem)
        key = load_pem_private_key(key_pem, None)
        authorities = x509.load_pem_x509_certificates(authorities_pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _error(folder, f"not a PEM certificate and key: {error}") from error
    leaf = certificates[0]
    if leaf.public_key() != key.public_key():
        raise _error(key_file, f"not the key of `{certificate_file.name}`")
    named = plane_of(leaf)
    if named != plane:
        said = f"the certificate of the plane `{named}`" if named else "a certificate that names no plane"
        raise _error(certificate_file, f"{said}, and this is `{plane}`")
    moment = dt.datetime.fromtimestamp(now, dt.UTC)
    if moment >= leaf.not_valid_after_utc:
        raise _error(certificate_file, f"expired at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M:%S} (doorward keys renew)")
    if moment < leaf.not_valid_before_utc:
        raise _error(certificate_file, f"begins at {leaf.not_valid_before_utc:%Y-%m-%d %H:%M:%S}; is the clock right?")
    issuer = next((authority for authority in authorities if _issued(leaf, authority)), None)
    if issuer is None:
        raise _error(certificate_file, f"not issued by an authority in `{AUTHORITIES_FILE}`")
    ids = dict.fromkeys(map(authority_id, (issuer, *authorities)))
    expires_at = leaf.not_valid_after_utc.timestamp()
    return PlaneCertificate(plane, certificate_pem, key_pem, authorities_pem, expires_at, tuple(ids))


class PlaneIdentity:
    """The certificate of this process, kept up with the files in ``folder``.

    Raises:
        ConfigurationError: there is no usable one to start with.
    """

    def __init__(self, folder: Path, plane: str, clock: Clock) -> None:
        self._folder = folder
        self._plane = plane
        self._clock = clock
        self._listeners: list[Callable[[PlaneCertificate], None]] = []
        self.current = read_certificate(folder, plane, clock.now())
        """What counts now."""

    def subscribe(self, listener: Callable[[PlaneCertificate], None]) -> None:
        """Call ``listener`` with each later certificate."""
        self._listeners.append(listener)

    def server_credentials(self) -> grpc.ServerCredentials:
        """For a gRPC server: demands a certificate of whoever connects, and uses the newest of ours."""
        credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            self.current.server_configuration(),
            lambda: self.current.server_configuration(),
            require_client_authentication=True,
        )
        return credentials

    def look(self) -> None:
        """Take over what the files hold now.

        Raises:
            ConfigurationError: it is not usable; what counts stays as it was.
        """
        found = read_certificate(self._folder, self._plane, self._clock.now())
        if found != self.current:
            self.current = found
            _log.info("the certificate is replaced", plane=str(self._plane), expires_at=found.expires_at)
            for listener in self._listeners:
                listener(found)

    async def run(self) -> None:
        """Look at the files every second until cancelled."""
        reported, reported_at = "", 0.0
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                self.look()
                reported = ""
            except ConfigurationError as error:
                now = self._clock.monotonic()
                if str(error) != reported or now - reported_at > _REMIND_SECONDS:
                    _log.error("the certificate cannot be replaced", problem=str(error))
                    reported, reported_at = str(error), now


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _error(path: Path, text: str) -> ConfigurationError:
    return ConfigurationError([f"{path}: error: {text}"])
