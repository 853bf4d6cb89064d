"""The key pairs that sign statements to upstreams (ES256), and the set of public halves that upstreams fetch.

The private halves are a keyring as any other: the 32 bytes of a key are the private number of a pair on P-256. The first signs; all
are published, so that a key is known before it signs and while what it signed lives.
"""

import json
import re
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from doorward.errors import DataCorruptedError
from doorward.keys.keyring import KEY_BYTES, Key
from doorward.keys.sealed import to_text

LIFETIME_SECONDS = 300
"""How long a statement counts."""
PUBLISHED_SECONDS = 300
"""How long an upstream may keep the public keys that it fetched."""
_MEMBERS = ("crv", "kty", "x", "y")
_COORDINATE = re.compile(r"[A-Za-z0-9_-]{43}\Z", re.ASCII)


def new_pair() -> Key:
    """A fresh pair."""
    return key_of_pair(ec.generate_private_key(ec.SECP256R1()))


def key_of_pair(pair: ec.EllipticCurvePrivateKey) -> Key:
    """A pair on P-256 as an entry of a keyring."""
    return Key.from_bytes(pair.private_numbers().private_value.to_bytes(KEY_BYTES, "big"))


def pair_of_key(key: Key) -> ec.EllipticCurvePrivateKey:
    """The pair that an entry of the keyring stands for.

    Raises:
        DataCorruptedError: its bytes are no private number of the curve.
    """
    try:
        return ec.derive_private_key(int.from_bytes(key.secret.reveal(), "big"), ec.SECP256R1())
    except ValueError:
        raise DataCorruptedError(f"the key `{key.id.hex()}` is none that can sign assertions") from None


def public_id(key: Key) -> str:
    """The id by which upstreams know a key: the RFC 7638 thumbprint of its public half."""
    return jwk_thumbprint(_public_jwk(key))


def public_jwks(keys: Sequence[Key]) -> str:
    """The JWK set (RFC 7517) with the public halves of ``keys``."""
    return _set_of([_public_jwk(key) for key in keys])


def jwk_thumbprint(jwk: dict[str, str]) -> str:
    """RFC 7638 thumbprint of an EC public key given by exactly ``crv``, ``kty``, ``x`` and ``y``."""
    digest = Hash(SHA256())
    digest.update(json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode())
    return to_text(digest.finalize())


class PublishedKeys:
    """The public halves as a proxy publishes them. A rotation takes over another set at once.

    Raises:
        DataCorruptedError: the text is no set of public ES256 keys; one with a private half is none either.
    """

    __slots__ = ("ids", "text")

    def __init__(self, text: str) -> None:
        try:
            found = [_checked(entry) for entry in json.loads(text)["keys"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            found = []
        if not found:
            raise DataCorruptedError("the file of public keys for assertions is damaged (doorward keys init)")
        self.text = _set_of(found)
        """What upstreams get: a JWK set."""
        self.ids = [jwk_thumbprint(jwk) for jwk in found]
        """Their ids, the signing one first."""

    def take_over(self, other: "PublishedKeys") -> None:
        """Publish the keys of ``other`` from now on."""
        self.text, self.ids = other.text, other.ids


def _checked(entry: dict[str, object]) -> dict[str, str]:
    jwk = {name: str(entry[name]) for name in _MEMBERS}
    if "d" in entry or (jwk["kty"], jwk["crv"]) != ("EC", "P-256"):
        raise ValueError
    if not all(_COORDINATE.match(jwk[name]) for name in ("x", "y")):
        raise ValueError
    return jwk


def _public_jwk(key: Key) -> dict[str, str]:
    numbers = pair_of_key(key).public_key().public_numbers()
    return {
        "crv": "P-256",
        "kty": "EC",
        "x": to_text(numbers.x.to_bytes(KEY_BYTES, "big")),
        "y": to_text(numbers.y.to_bytes(KEY_BYTES, "big")),
    }


def _set_of(jwks: Sequence[dict[str, str]]) -> str:
    entries = [{**jwk, "kid": jwk_thumbprint(jwk), "use": "sig", "alg": "ES256"} for jwk in jwks]
    return json.dumps({"keys": entries})
