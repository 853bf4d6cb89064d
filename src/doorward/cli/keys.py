"""``doorward keys``: made, renewed, given out."""

import asyncio
import datetime as dt
import math
import re
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from doorward.api.process.v1.process_pb2 import Process, ReportRequest
from doorward.api.process.v1.process_pb2_grpc import ProcessServiceStub
from doorward.cli.access import Access
from doorward.clock import SystemClock
from doorward.config.words import NAME, parse_duration
from doorward.errors import ConfigurationError
from doorward.keys import rotation
from doorward.keys.assertion import public_id
from doorward.keys.plane_authority import (
    AUTHORITIES_FILE,
    AUTHORITY_KEY_FILE,
    CERTIFICATE_FILE,
    GATEWAY_PREFIX,
    KEY_FILE,
    PLANE_AUTHORITY,
    PlaneAuthority,
    Renewed,
    open_authority,
)
from doorward.keys.private_file import write_private
from doorward.keys.store import HOLDERS, PUBLISHERS, KeyStore, Purpose, create_missing_keys
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
    length = certificate_life(life)  # before anything is made
    folder = private_folder(data) / "keys"
    created = create_missing_keys(folder)
    print(f"made {', '.join(created)}" if created else "every key is there already")
    if planes:
        with _authority(data) as authority:
            _report(authority.renew(_PLANES, length))
    return 0


def issue_gateway(name: str, data: Path, *, life: str) -> int:
    """Make the certificate of another gateway, or renew it when it is due; what it opens is the configuration's to say."""
    if not re.match(NAME, name):
        raise ConfigurationError([f"error: `{name}` is no name of a gateway (expected `{NAME}`)"])
    with _existing_authority(data) as authority:
        made = authority.renew([GATEWAY_PREFIX + name], certificate_life(life))
    _report(made)
    if not made:
        print(f"the certificate of `{GATEWAY_PREFIX}{name}` is not due yet")
    return 0


def renew_certificates(data: Path, *, life: str, watch: bool, all_of_them: bool) -> int:
    """Renew the planes' certificates that are two thirds through their life; with ``watch``, go on doing so."""
    with _existing_authority(data) as authority:
        if authority.is_old:
            print(f"the authority expires on {authority.expires_at:%Y-%m-%d}: doorward keys rotate {PLANE_AUTHORITY}")
        _report(authority.renew(_everybody(authority), certificate_life(life), all_of_them=all_of_them))
    while watch:
        time.sleep(_LOOK_SECONDS)
        with _existing_authority(data) as authority:
            _report(authority.renew(_everybody(authority), certificate_life(life)))
    return 0


def export_plane(plane: str, data: Path, target: Path) -> int:
    """Write to ``target`` what ``plane`` is given, and nothing else: its certificate and the keys that it is entitled to.

    A gateway, ``gateway/<name>``, is entitled to none.
    """
    is_gateway = plane.startswith(GATEWAY_PREFIX) and re.match(NAME, plane.removeprefix(GATEWAY_PREFIX)) is not None
    if not is_gateway and plane not in _PLANES:
        there_are = ", ".join([*_PLANES, f"{GATEWAY_PREFIX}NAME"])
        raise ConfigurationError([f"error: no plane `{plane}` (there are {there_are})"])
    files = {} if is_gateway else KeyStore(data / "keys").files_of(plane)
    certificate = read_certificate(data / "planes" / plane, plane, time.time())
    private_folder(target)
    keys = private_folder(target / "keys")
    for name, text in files.items():
        write_private(keys / name, text)
    own = private_folder(target / "planes")
    for part in plane.split("/"):
        own = private_folder(own / part)
    write_private(own / KEY_FILE, certificate.key_pem.decode())
    write_private(own / CERTIFICATE_FILE, certificate.certificate_pem.decode())
    write_private(own / AUTHORITIES_FILE, certificate.authorities_pem.decode())
    print(f"{target}: {', '.join([*sorted(files), CERTIFICATE_FILE, KEY_FILE, AUTHORITIES_FILE])}")
    return 0


def rotate_key(purpose: str, data: Path, access: Access | None) -> int:
    """Do the next step of a rotation, and say which comes then; 3 when it is not due yet."""
    if purpose == PLANE_AUTHORITY:
        with _existing_authority(data) as authority:
            return _rotate_authority(authority, access)
    kind, folder = _purpose(purpose), data / "keys"
    state = rotation.read_state(folder, kind)
    if state.next_id is None and len(state.ids) == 1:
        print(
            f"{rotation.add(folder, kind, time.time())} verifies now; give the file to the planes, then run this again"
        )
        return 0
    wanted = state.next_id or state.ids[0]
    missing = [] if access is None else _without_key(access, kind, state)
    if missing:
        verb = "held yet by" if state.next_id is not None else "what signs yet at"
        print(f"{wanted} is not {verb} {', '.join(missing)}")
        return _NOT_YET
    left = state.seconds_left(time.time())
    if left > 0:
        reason = "upstreams may not know it before" if state.next_id is not None else "what the old key signed lives on"
        print(f"{wanted}: not for another {math.ceil(left)} s; {reason}")
        return _NOT_YET
    if state.next_id is None:
        dropped = rotation.retire(folder, kind, time.time())
        print(f"retired {', '.join(dropped)}; {state.ids[0]} signs alone")
    else:
        promoted = rotation.promote(folder, kind, time.time())
        print(f"{promoted} signs now; run this again when nothing that {state.ids[0]} signed lives any more")
    return 0


def revoke_key(purpose: str, key_id: str, data: Path) -> int:
    """Drop one key at once, and say what that ends."""
    if purpose == PLANE_AUTHORITY:
        with _existing_authority(data) as authority:
            authority.revoke(key_id)
            _report(authority.renew(_everybody(authority), None))
        print(f"dropped {key_id}: planes refuse each other until each has its new files; open connections go on")
        return 0
    kind = _purpose(purpose)
    rotation.revoke(data / "keys", kind, key_id, time.time())
    print(f"dropped {key_id}: {rotation.ENDS[kind]}")
    return 0


def _rotate_authority(authority: PlaneAuthority, access: Access | None) -> int:
    next_id, ids = authority.next_id, authority.ids
    if next_id is None and len(ids) == 1:
        said = f"{authority.add()} is trusted now; give the certificates to the planes, then run this again"
    else:
        wanted = next_id or ids[0]
        missing = [] if access is None else _without_authority(access, wanted, issuing=next_id is None)
        if missing:
            verb = "what issued the certificate of" if next_id is None else "trusted yet by"
            print(f"{wanted} is not {verb} {', '.join(missing)}")
            return _NOT_YET
        if next_id is None:
            said = f"retired {', '.join(authority.retire())}; give the certificates to the planes"
        else:
            said = f"{authority.promote()} issues now; give the certificates to the planes, then run this again"
    _report(authority.renew(_everybody(authority), None))
    print(said)
    return 0


def _without_authority(access: Access, wanted: str, *, issuing: bool) -> list[str]:
    """The running processes that do not trust an authority, or whose certificate is not from it."""
    processes = _running(access)
    return [
        f"{process.plane}/{process.id}"
        for process in processes
        if wanted not in (process.keys[PLANE_AUTHORITY].split()[: 1 if issuing else None])
    ] or ([] if processes else ["any plane: none has reported itself"])


def _purpose(text: str) -> Purpose:
    try:
        return Purpose(text)
    except ValueError:
        raise ConfigurationError(
            [f"error: no purpose `{text}` (there are {', '.join([*Purpose, PLANE_AUTHORITY])})"]
        ) from None


def _without_key(access: Access, purpose: Purpose, state: rotation.RotationState) -> list[str]:
    """The running processes that are entitled to a purpose and do not report the key that waits, or do not sign with the first."""
    holders = {plane for plane, purposes in HOLDERS.items() if purpose in purposes}
    wanted = next(key for key in state.keyring.keys if key.id.hex() == (state.next_id or state.ids[0]))
    names = {wanted.id.hex()}
    if purpose is Purpose.ASSERTION:
        holders |= set(PUBLISHERS)
        names.add(public_id(wanted))

    def lacks(process: Process) -> bool:
        held = process.keys[purpose].split()
        return names.isdisjoint(held if state.next_id is not None else held[:1])

    processes = _running(access)
    silent = sorted(holders - {process.plane for process in processes})
    late = [f"{process.plane}/{process.id}" for process in processes if process.plane in holders and lacks(process)]
    return [*late, *(f"{plane} (none has reported itself)" for plane in silent)]


def _running(access: Access) -> Sequence[Process]:
    """Every process that reports itself."""

    async def ask() -> Sequence[Process]:
        async with access.records() as channel:
            answer = await call(ProcessServiceStub(channel).Report(ReportRequest(), timeout=3))
        return answer.processes

    return asyncio.run(ask())


def _existing_authority(data: Path) -> AbstractContextManager[PlaneAuthority]:
    if not (data / "planes" / AUTHORITY_KEY_FILE).is_file():
        raise ConfigurationError([f"{data}: error: no authority for planes here (doorward keys init --planes)"])
    return _authority(data)


def _everybody(authority: PlaneAuthority) -> tuple[str, ...]:
    """The planes, and the gateways that have been given a certificate."""
    return (*_PLANES, *authority.gateways)


def _authority(data: Path) -> AbstractContextManager[PlaneAuthority]:
    return open_authority(private_folder(private_folder(data) / "planes"), SystemClock())


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
