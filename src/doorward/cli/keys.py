"""``doorward keys``: made, renewed, given out."""

import datetime as dt
import time
from collections.abc import Sequence
from pathlib import Path

from doorward.clock import SystemClock
from doorward.config.document import parse_duration
from doorward.errors import ConfigurationError
from doorward.keys.plane_authority import (
    AUTHORITIES_FILE,
    CERTIFICATE_FILE,
    KEY_FILE,
    PlaneAuthority,
    Renewed,
)
from doorward.keys.private_file import write_private
from doorward.keys.store import KeyStore, create_missing_keys
from doorward.rpc.credentials import read_certificate
from doorward.rpc.planes import Plane
from doorward.runtime.folder import private_folder

_LEAST_SECONDS = 15.0
"""A certificate that lives less could not be renewed in time."""
_LOOK_SECONDS = 1.0
_PLANES = tuple(Plane)


def init_keys(data: Path, *, planes: bool, life: str) -> int:
    """Make the missing keys below ``data`` and say which; with ``planes``, certificates for the planes too."""
    folder = private_folder(data) / "keys"
    created = create_missing_keys(folder)
    print(f"made {', '.join(created)}" if created else "every key is there already")
    if planes:
        _report(_authority(data).renew(_PLANES, certificate_life(life)))
    return 0


def renew_certificates(data: Path, *, life: str, watch: bool, all_of_them: bool) -> int:
    """Renew the planes' certificates that are two thirds through their life; with ``watch``, go on doing so."""
    if not (data / "planes" / "authority.key").is_file():
        raise ConfigurationError([f"{data}: error: no authority for planes here (doorward keys init --planes)"])
    _report(_authority(data).renew(_PLANES, certificate_life(life), all_of_them=all_of_them))
    while watch:
        time.sleep(_LOOK_SECONDS)
        made = _authority(data).renew(_PLANES, certificate_life(life))
        if made:
            _report(made)
    return 0


def export_plane(plane: str, data: Path, target: Path) -> int:
    """Write to ``target`` what ``plane`` is given, and nothing else: its certificate and the keys that it is entitled to."""
    if plane not in _PLANES:
        raise ConfigurationError([f"error: no plane `{plane}` (there are {', '.join(_PLANES)})"])
    files = KeyStore(data / "keys").files_of(plane)
    certificate = read_certificate(data / "planes" / plane, Plane(plane), time.time())
    private_folder(target)
    keys = private_folder(target / "keys")
    for name, text in files.items():
        write_private(keys / name, text)
    private_folder(target / "planes")
    own = private_folder(target / "planes" / plane)
    write_private(own / KEY_FILE, certificate.key_pem.decode())
    write_private(own / CERTIFICATE_FILE, certificate.certificate_pem.decode())
    write_private(own / AUTHORITIES_FILE, certificate.authorities_pem.decode())
    print(f"{target}: {', '.join([*sorted(files), CERTIFICATE_FILE, KEY_FILE, AUTHORITIES_FILE])}")
    return 0


def _authority(data: Path) -> PlaneAuthority:
    return PlaneAuthority(private_folder(private_folder(data) / "planes"), SystemClock())


def certificate_life(text: str) -> dt.timedelta:
    """A certificate's life from the command line.

    Raises:
        ConfigurationError: no duration, or one in which nobody could renew it.
    """
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise ConfigurationError([f"--life: error: `{text}`: {error}"]) from None
    if seconds < _LEAST_SECONDS:
        raise ConfigurationError([f"--life: error: `{text}` is too short (at least {_LEAST_SECONDS:.0f}s)"])
    return dt.timedelta(seconds=seconds)


def _report(made: Sequence[Renewed]) -> None:
    for item in made:
        print(f"certificate of `{item.plane}`, until {item.expires_at:%Y-%m-%d %H:%M:%S} UTC", flush=True)
