"""Ways in which the demo's identity provider can be told to misbehave, for tests of those who must not believe it."""

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwt
from joserfc.jwk import Key, RSAKey

FOREIGN_KEYS_PATH = "/_foreign-keys"
"""Where a lying token says that its key is; nobody should ever look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Everything off by default."""

    claims: dict[str, object] = field(default_factory=dict)
    """Claims to overwrite; ``None`` leaves one out."""
    algorithm: str = "RS256"
    """``none`` and ``HS256`` (with the public key as the secret) are the attacks that they look like."""
    public_key_form: str = "pem"
    """How the public key serves as the secret: ``pem``, ``der`` or ``jwk``."""
    header: dict[str, object] = field(default_factory=dict)
    foreign_key: str = ""
    """Sign with a key that is not published, and name it in this header: ``jwk``, ``jku``, ``x5u``, ``x5c`` or ``kid`` (nowhere)."""
    authorization_error: str = ""
    response_issuer: str = ""
    no_response_issuer: bool = False
    metadata_issuer: str = ""
    token_status: int = 0
    token_body: str = ""
    """What the token endpoint answers instead."""
    userinfo_subject: str = ""
    garbage_keys: bool = False

    def sign(self, claims: dict[str, object], keys: Sequence[Key]) -> str:
        """An ID token with the faults in it."""
        merged = {name: value for name, value in {**claims, **self.claims}.items() if value is not None}
        rsa, ec = keys
        if self.foreign_key:
            return self._foreign(merged)
        if self.header and self.algorithm == "RS256" and isinstance(rsa, RSAKey):
            return _by_hand({"alg": "RS256", "kid": "rsa", **self.header}, merged, rsa)
        match self.algorithm:
            case "none" | "None" | "NONE" | "":
                return f"{_part({'alg': self.algorithm, **self.header})}.{_part(merged)}."
            case "HS256":
                signed = f"{_part({'alg': 'HS256', 'kid': 'rsa', **self.header})}.{_part(merged)}"
                tag = hmac.digest(self._public_as_secret(rsa), signed.encode(), hashlib.sha256)
                return f"{signed}.{base64.urlsafe_b64encode(tag).rstrip(b'=').decode()}"
            case "ES256":
                return jwt.encode({"alg": "ES256", "kid": "ec"}, merged, ec)
            case _:
                return jwt.encode({"alg": "RS256", "kid": "rsa"}, merged, rsa)

    def _foreign(self, claims: dict[str, object]) -> str:
        key = RSAKey.generate_key(2048)
        naming: dict[str, object] = {
            "kid": "rsa",
            "jwk": key.as_dict(private=False),
            "jku": f"{claims.get('iss')}{FOREIGN_KEYS_PATH}",
            "x5u": f"{claims.get('iss')}{FOREIGN_KEYS_PATH}",
            "x5c": [base64.b64encode(key.as_der(private=False)).decode()],
        }
        header = {"alg": "RS256", "kid": "rsa", self.foreign_key: naming[self.foreign_key]}
        return _by_hand(header, claims, key)

    def _public_as_secret(self, key: Key) -> bytes:
        if not isinstance(key, RSAKey):
            return b""
        match self.public_key_form:
            case "der":
                return key.as_der(private=False)
            case "jwk":
                return json.dumps(key.as_dict(private=False)).encode()
            case _:
                return key.as_pem(private=False)


def _by_hand(header: dict[str, object], claims: dict[str, object], key: RSAKey) -> str:
    """A signed token that the library rightly refuses to make."""
    signed = f"{_part(header)}.{_part(claims)}"
    private = key.private_key
    if private is None:
        raise ValueError("the signing key has no private half")
    tag = private.sign(signed.encode(), PKCS1v15(), SHA256())
    return f"{signed}.{base64.urlsafe_b64encode(tag).rstrip(b'=').decode()}"


def _part(value: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
