"""Certificates of planes for tests, good ones and every kind of bad one."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.support.fake_clock import FakeClock

from doorward.clock import Clock, SystemClock
from doorward.keys.local_authority import LocalAuthority
from doorward.keys.plane_authority import AUTHORITIES_FILE, CERTIFICATE_FILE, KEY_FILE, PlaneAuthority
from doorward.keys.private_file import write_private
from doorward.rpc.credentials import PlaneIdentity
from doorward.rpc.planes import Gateway, Plane


class Planes:
    """An authority in a folder, and the planes that it has certified."""

    def __init__(self, folder: Path, clock: Clock | None = None, life: dt.timedelta = dt.timedelta(days=30)) -> None:
        self.folder = folder
        self.clock = clock or SystemClock()
        self.life = life
        folder.mkdir(mode=0o700, exist_ok=True)
        self.authority = PlaneAuthority(folder, self.clock)
        self.authority.renew(tuple(Plane), life)

    def gateway(self, name: str) -> PlaneIdentity:
        """That of another gateway, made now."""
        self.authority.renew([str(Gateway(name))], self.life)
        return self.identity(str(Gateway(name)))

    def identity(self, plane: str, folder: Path | None = None) -> PlaneIdentity:
        return PlaneIdentity(folder or self.folder / plane, plane, self.clock)

    def renew(self, *identities: PlaneIdentity) -> None:
        """New certificates for all, and these take them over."""
        self.authority.renew(tuple(Plane), self.life, all_of_them=True)
        for identity in identities:
            identity.look()


def odd_certificate(
    folder: Path, authority_folder: Path, uris: Sequence[str], *, now: float | None = None, life: int = 3600
) -> Path:
    """A plane's folder whose certificate names ``uris``, made by the authority in ``authority_folder`` at ``now``."""
    clock = SystemClock() if now is None else FakeClock(now)
    issuer = LocalAuthority(authority_folder, SystemClock(), name="Doorward planes")
    issuer._clock = clock
    names = [x509.UniformResourceIdentifier(uri) for uri in uris]
    certified = issuer.issue(
        "odd",
        [*names, x509.DNSName("databroker.plane.doorward")],
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
        dt.timedelta(seconds=life),
    )
    folder.mkdir(mode=0o700, exist_ok=True)
    write_private(folder / KEY_FILE, certified.key_pem.decode())
    write_private(folder / CERTIFICATE_FILE, certified.certificate_pem.decode())
    write_private(folder / AUTHORITIES_FILE, issuer.ca_file.read_text())
    return folder
