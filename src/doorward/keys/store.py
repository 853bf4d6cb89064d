"""The key folder: one file for each purpose, readable by its owner alone.

Each plane opens only the purposes that it is entitled to, so that a deployment can give each container only its files:

    session-handle   authenticate mints, authorize opens
    flow             authorize, authenticate, proxy
    one-time-code    authenticate
    records          databroker
    provider-tokens  authenticate
    pending-sign-in  authenticate (what survives the trip to an identity provider)
    decision-facts   authorize (keyed hashes of what a decision read)
    service-account  authorize, and the operator who makes tokens (keyed hashes of tokens)
    assertion        authorize (ES256 key pairs); ``assertion.jwks.json`` holds their public halves, which proxies publish
"""

import secrets
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from doorward.errors import ConfigurationError, DataCorruptedError, DoorwardError
from doorward.keys.assertion import PublishedKeys, key_of_pair, new_pair, pair_of_key, public_jwks
from doorward.keys.keyring import KEY_BYTES, Key, Keyring
from doorward.keys.private_file import is_private, write_private, write_public


class Purpose(StrEnum):
    """What a key is for; the value names its file and is bound into everything made with it."""

    SESSION_HANDLE = "session-handle"
    FLOW = "flow"
    ONE_TIME_CODE = "one-time-code"
    RECORDS = "records"
    PROVIDER_TOKENS = "provider-tokens"
    PENDING_SIGN_IN = "pending-sign-in"
    DECISION_FACTS = "decision-facts"
    SERVICE_ACCOUNT = "service-account"
    ASSERTION = "assertion"


HOLDERS: dict[str, tuple[Purpose, ...]] = {
    "authenticate": (
        Purpose.SESSION_HANDLE,
        Purpose.FLOW,
        Purpose.ONE_TIME_CODE,
        Purpose.PROVIDER_TOKENS,
        Purpose.PENDING_SIGN_IN,
    ),
    "authorize": (
        Purpose.SESSION_HANDLE,
        Purpose.FLOW,
        Purpose.DECISION_FACTS,
        Purpose.SERVICE_ACCOUNT,
        Purpose.ASSERTION,
    ),
    "proxy": (Purpose.FLOW,),
    "databroker": (Purpose.RECORDS,),
}
"""Which plane holds which keys; nobody else is given them."""

ASSERTION_JWKS_FILE = "assertion.jwks.json"
PUBLISHERS = ("proxy",)
"""Planes that are given the public halves of the keys for assertions."""
_EARLIER_ASSERTION_FILE = "assertion.pem"
"""Where the only key for assertions lay before it could be changed."""


class KeyStore:
    """Reads keys from a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._given: dict[Purpose, Keyring] = {}
        self._published: PublishedKeys | None = None

    def keyring(self, purpose: Purpose) -> Keyring:
        """The keys of one purpose.

        Raises:
            ConfigurationError: the file is missing or readable by others.
            DataCorruptedError: the file is damaged.
        """
        keyring = self._given.get(purpose)
        if keyring is None:
            keyring = self._given[purpose] = self._keyring(purpose)
        return keyring

    def published(self) -> PublishedKeys:
        """The public keys that verify upstream assertions.

        Raises:
            ConfigurationError: the file is missing.
            DataCorruptedError: the file is damaged.
        """
        if self._published is None:
            self._published = self._public_keys()
        return self._published

    @property
    def ids(self) -> dict[str, list[str]]:
        """Ids of the keys that were given out, by purpose, the signing one first; no secret.

        Where only public halves were given out, the ids are those by which the public knows them.
        """
        ids = {str(purpose): keyring.ids for purpose, keyring in self._given.items()}
        if self._published is not None:
            ids.setdefault(str(Purpose.ASSERTION), self._published.ids)
        return ids

    def look(self) -> list[str]:
        """Take over what the files hold now; returns the purposes that have changed.

        One bad file keeps no other from being taken over: a key that is revoked there must not go on counting.

        Raises:
            ConfigurationError: a file is missing or readable by others; what was held of its purpose stays.
            DataCorruptedError: a file is damaged; what was held of its purpose stays.
        """
        changed = []
        failed: DoorwardError | None = None
        # What is published first: a key that signs already must not be unknown for longer than it takes to read the others.
        looks: list[Callable[[], str | None]] = [self._look_at_published]
        looks += [partial(self._look_at, purpose, keyring) for purpose, keyring in self._given.items()]
        for look in looks:
            try:
                name = look()
            except DoorwardError as error:
                failed = failed or error
                continue
            if name is not None:
                changed.append(name)
        if failed is not None:
            raise failed
        return changed

    def _look_at(self, purpose: Purpose, keyring: Keyring) -> str | None:
        found = self._keyring(purpose)
        if found.ids == keyring.ids:
            return None
        keyring.take_over(found)
        return str(purpose)

    def _look_at_published(self) -> str | None:
        if self._published is None:
            return None
        found = self._public_keys()
        if found.text == self._published.text:
            return None
        self._published.take_over(found)
        return ASSERTION_JWKS_FILE

    def files_of(self, plane: str) -> dict[str, str]:
        """The content of every key file that ``plane`` is entitled to, by name.

        Raises:
            ConfigurationError: one is missing, or readable by others.
        """
        files = {f"{purpose}.json": self._read(f"{purpose}.json") for purpose in HOLDERS.get(plane, ())}
        if plane in PUBLISHERS:
            files[ASSERTION_JWKS_FILE] = self.published().text + "\n"
        return files

    def _keyring(self, purpose: Purpose) -> Keyring:
        keyring = Keyring.from_json(self._read(f"{purpose}.json"), purpose)
        if purpose is Purpose.ASSERTION:
            for key in keyring.keys:
                pair_of_key(key)
        return keyring

    def _public_keys(self) -> PublishedKeys:
        return PublishedKeys(self._read(ASSERTION_JWKS_FILE, private=False))

    def _read(self, name: str, *, private: bool = True) -> str:
        path = self._folder / name
        try:
            if private and not is_private(path):
                raise ConfigurationError([f"{path}: error: others may read this key (chmod 600 {path})"])
            return path.read_text()
        except FileNotFoundError:
            raise ConfigurationError([f"{path}: error: no such key (doorward keys init)"]) from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataCorruptedError(f"cannot read the key file `{name}`: {error}") from error


def new_key(purpose: Purpose) -> Key:
    """A fresh key for ``purpose``."""
    return new_pair() if purpose is Purpose.ASSERTION else Key.from_bytes(secrets.token_bytes(KEY_BYTES))


def write_keyring(folder: Path, keyring: Keyring, text: str | None = None) -> None:
    """Write the key file of a purpose, in the form ``text`` where it holds more than the keys.

    The public halves of keys for assertions are written first: nothing is signed with what nobody could verify.
    """
    if keyring.purpose == Purpose.ASSERTION:
        write_public(folder / ASSERTION_JWKS_FILE, public_jwks(keyring.keys) + "\n")
    write_private(folder / f"{keyring.purpose}.json", keyring.to_json() if text is None else text)


def create_missing_keys(folder: Path) -> list[str]:
    """Make every key that ``folder`` lacks and return the names of the files written; keeps what is there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    created = []
    for purpose in Purpose:
        path = folder / f"{purpose}.json"
        if not path.exists():
            earlier = _earlier_assertion_key(folder) if purpose is Purpose.ASSERTION else None
            write_keyring(folder, Keyring(purpose, [earlier or new_key(purpose)]))
            created.append(path.name)
    if not (folder / ASSERTION_JWKS_FILE).exists():
        # Whoever lost the public halves gets them again; without them no upstream could verify anything.
        write_keyring(folder, KeyStore(folder).keyring(Purpose.ASSERTION))
        created.append(ASSERTION_JWKS_FILE)
    return created


def _earlier_assertion_key(folder: Path) -> Key | None:
    try:
        pem = (folder / _EARLIER_ASSERTION_FILE).read_bytes()
    except FileNotFoundError:
        return None
    try:
        pair = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise DataCorruptedError(f"`{_EARLIER_ASSERTION_FILE}` holds no private key: {error}") from error
    if not isinstance(pair, ec.EllipticCurvePrivateKey) or not isinstance(pair.curve, ec.SECP256R1):
        raise DataCorruptedError(f"`{_EARLIER_ASSERTION_FILE}` holds no key on the curve P-256")
    return key_of_pair(pair)
