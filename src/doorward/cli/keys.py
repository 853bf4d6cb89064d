"""``doorward keys``: made, renewed, given out."""

import asyncio
import datetime as dt
import time
from collections.abc import Sequence
from pathlib import Path

from doorward.api.process.v1.process_pb2 import ReportRequest
from doorward.api.process.v1.process_pb2_grpc import ProcessServiceStub
from doorward.cli.access import Access
from doorward.clock import SystemClock
from doorward.config.document import parse_duration
from doorward.errors import ConfigurationError
from doorward.keys import rotation
from doorward.keys.plane_authority import (
    AUTHORITIES_FILE,
    CERTIFICATE_FILE,
    KEY_FILE,
    PlaneAuthority,
    Renewed,
)
from doorward.keys.private_file import write_private
from doorward.keys.store import HOLDERS, KeyStore, Purpose, create_missing_keys
from doorward.rpc.client import call
from doorward.rpc.credentials import read_certificate
from doorward.rpc.planes import Plane
from doorward.runtime.folder import private_folder

_LEAST_SECONDS = 15.0
"""A certificate that lives less could not be renewed in time."""
_LOOK_SECONDS = 1.0
_NOT_YET = 3
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


def rotate_key(purpose: str, data: Path, access: Access | None) -> int:
    """Do the next step of a rotation, and say which comes then; 3 when some plane does not hold the new key yet."""
    kind, folder = _purpose(purpose), data / "keys"
    state = rotation.read_state(folder, kind)
    if state.next_id is None and len(state.ids) > 1:
        dropped = rotation.retire(folder, kind)
        print(f"retired {', '.join(dropped)}; {state.ids[0]} signs alone")
        return 0
    if state.next_id is None:
        print(f"{rotation.add(folder, kind)} verifies now; give the file to the planes, then run this again")
        return 0
    missing = [] if access is None else _without_key(access, kind, state.next_id)
    if missing:
        print(f"{state.next_id} is not held yet by {', '.join(missing)}")
        return _NOT_YET
    print(
        f"{rotation.promote(folder, kind)} signs now; run this again when nothing that {state.ids[0]} signed lives any more"
    )
    return 0


def revoke_key(purpose: str, key_id: str, data: Path) -> int:
    """Drop one key at once, and say what that ends."""
    kind = _purpose(purpose)
    rotation.revoke(data / "keys", kind, key_id)
    print(f"dropped {key_id}: {rotation.ENDS[kind]}")
    return 0


def _purpose(text: str) -> Purpose:
    try:
        return Purpose(text)
    except ValueError:
        raise ConfigurationError([f"error: no purpose `{text}` (there are {', '.join(Purpose)})"]) from None


def _without_key(access: Access, purpose: Purpose, key_id: str) -> list[str]:
    """The running processes that are entitled to a purpose and do not report the key."""
    holders = [plane for plane, purposes in HOLDERS.items() if purpose in purposes]

    async def ask() -> list[str]:
        async with access.records() as channel:
            answer = await call(ProcessServiceStub(channel).Report(ReportRequest(), timeout=3))
        return [
            f"{process.plane}/{process.id}"
            for process in answer.processes
            if process.plane in holders and key_id not in process.keys[purpose].split()
        ]

    return asyncio.run(ask())


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
