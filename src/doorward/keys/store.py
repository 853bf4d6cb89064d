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
    assertion        authorize (an ES256 key pair); ``assertion.jwks.json`` is its public half
"""

import json
import secrets
from enum import StrEnum
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from doorward.errors import ConfigurationError, DataCorruptedError, DoorwardError
from doorward.keys.keyring import KEY_BYTES, Key, Keyring
from doorward.keys.private_file import is_private, write_private
from doorward.keys.sealed import to_text


class Purpose(StrEnum):
    """What a symmetric key is for; the value names its file and is bound into everything made with it."""

    SESSION_HANDLE = "session-handle"
    FLOW = "flow"
    ONE_TIME_CODE = "one-time-code"
    RECORDS = "records"
    PROVIDER_TOKENS = "provider-tokens"
    PENDING_SIGN_IN = "pending-sign-in"
    DECISION_FACTS = "decision-facts"
    SERVICE_ACCOUNT = "service-account"


HOLDERS: dict[str, tuple[Purpose, ...]] = {
    "authenticate": (
        Purpose.SESSION_HANDLE,
        Purpose.FLOW,
        Purpose.ONE_TIME_CODE,
        Purpose.PROVIDER_TOKENS,
        Purpose.PENDING_SIGN_IN,
    ),
    "authorize": (Purpose.SESSION_HANDLE, Purpose.FLOW, Purpose.DECISION_FACTS, Purpose.SERVICE_ACCOUNT),
    "proxy": (Purpose.FLOW,),
    "databroker": (Purpose.RECORDS,),
}
"""Which plane holds which symmetric keys; nobody else is given them."""

ASSERTION_KEY_FILE = "assertion.pem"
ASSERTION_JWKS_FILE = "assertion.jwks.json"


class KeyStore:
    """Reads keys from a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._given: dict[Purpose, Keyring] = {}

    def keyring(self, purpose: Purpose) -> Keyring:
        """The keys of one purpose.

        Raises:
            ConfigurationError: the file is missing or readable by others.
            DataCorruptedError: the file is damaged.
        """
        keyring = self._given.get(purpose)
        if keyring is None:
            keyring = self._given[purpose] = Keyring.from_json(self._read(f"{purpose}.json"), purpose)
        return keyring

    @property
    def ids(self) -> dict[str, list[str]]:
        """Ids of the keys that were given out, by purpose, the signing one first; no secret."""
        return {str(purpose): keyring.ids for purpose, keyring in self._given.items()}

    def look(self) -> list[str]:
        """Take over what the files hold now; returns the purposes that have changed.

        One bad file keeps no other from being taken over: a key that is revoked there must not go on counting.

        Raises:
            ConfigurationError: a file is missing or readable by others; what was held of its purpose stays.
            DataCorruptedError: a file is damaged; what was held of its purpose stays.
        """
        changed = []
        failed: DoorwardError | None = None
        for purpose, keyring in self._given.items():
            try:
                found = Keyring.from_json(self._read(f"{purpose}.json"), purpose)
            except DoorwardError as error:
                failed = failed or error
                continue
            if found.ids != keyring.ids:
                keyring.take_over(found)
                changed.append(str(purpose))
        if failed is not None:
            raise failed
        return changed

    def assertion_key_pem(self) -> str:
        """The private key that signs upstream assertions, as PKCS #8 PEM."""
        return self._read(ASSERTION_KEY_FILE)

    def assertion_jwks(self) -> str:
        """The public keys that verify upstream assertions, as a JWK set (RFC 7517)."""
        return self._read(ASSERTION_JWKS_FILE, private=False)

    def files_of(self, plane: str) -> dict[str, str]:
        """The content of every key file that ``plane`` is entitled to, by name.

        Raises:
            ConfigurationError: one is missing, or readable by others.
        """
        files = {f"{purpose}.json": self._read(f"{purpose}.json") for purpose in HOLDERS.get(plane, ())}
        if plane == "authorize":
            files[ASSERTION_KEY_FILE] = self.assertion_key_pem()
        if plane in {"authorize", "proxy"}:
            files[ASSERTION_JWKS_FILE] = self.assertion_jwks()
        return files

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


def create_missing_keys(folder: Path) -> list[str]:
    """Make every key that ``folder`` lacks and return the names of the files written; keeps what is there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    created = []
    for purpose in Purpose:
        path = folder / f"{purpose}.json"
        if not path.exists():
            keyring = Keyring(purpose, [Key.from_bytes(secrets.token_bytes(KEY_BYTES))])
            write_private(path, keyring.to_json())
            created.append(path.name)
    if not (folder / ASSERTION_KEY_FILE).exists():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        # The public half first: a crash between the two leaves a set without a private key, which is made again.
        (folder / ASSERTION_JWKS_FILE).write_text(public_jwks(key) + "\n")
        write_private(folder / ASSERTION_KEY_FILE, pem)
        created += [ASSERTION_KEY_FILE, ASSERTION_JWKS_FILE]
    elif not (folder / ASSERTION_JWKS_FILE).exists():
        # Whoever lost the public half gets it again; without it no upstream could verify anything.
        kept = load_pem_private_key((folder / ASSERTION_KEY_FILE).read_bytes(), None)
        if not isinstance(kept, ec.EllipticCurvePrivateKey):
            raise DataCorruptedError(f"`{ASSERTION_KEY_FILE}` holds no elliptic-curve key")
        (folder / ASSERTION_JWKS_FILE).write_text(public_jwks(kept) + "\n")
        created.append(ASSERTION_JWKS_FILE)
    return created


def public_jwks(key: ec.EllipticCurvePrivateKey) -> str:
    """The JWK set (RFC 7517) with the public half of an ES256 key; the key id is its RFC 7638 thumbprint."""
    numbers = key.public_key().public_numbers()
    jwk = {
        "crv": "P-256",
        "kty": "EC",
        "x": to_text(numbers.x.to_bytes(32, "big")),
        "y": to_text(numbers.y.to_bytes(32, "big")),
    }
    return json.dumps({"keys": [{**jwk, "kid": jwk_thumbprint(jwk), "use": "sig", "alg": "ES256"}]})


def jwk_thumbprint(jwk: dict[str, str]) -> str:
    """RFC 7638 thumbprint of an EC public key given by exactly ``crv``, ``kty``, ``x`` and ``y``."""
    digest = Hash(SHA256())
    digest.update(json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode())
    return to_text(digest.finalize())
