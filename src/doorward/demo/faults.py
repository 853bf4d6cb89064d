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


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Everything off by default."""

    claims: dict[str, object] = field(default_factory=dict)
    """Claims to overwrite; ``None`` leaves one out."""
    algorithm: str = "RS256"
    """``none`` and ``HS256`` (with the public key as the secret) are the attacks that they look like."""
    header: dict[str, object] = field(default_factory=dict)
    authorization_error: str = ""
    response_issuer: str = ""
    no_response_issuer: bool = False
    metadata_issuer: str = ""
    token_status: int = 0
    userinfo_subject: str = ""
    garbage_keys: bool = False

    def sign(self, claims: dict[str, object], keys: Sequence[Key]) -> str:
        """An ID token with the faults in it."""
        merged = {name: value for name, value in {**claims, **self.claims}.items() if value is not None}
        rsa, ec = keys
        if self.header and self.algorithm == "RS256" and isinstance(rsa, RSAKey):
            # By hand: the library rightly refuses to make such tokens.
            signed = f"{_part({'alg': 'RS256', 'kid': 'rsa', **self.header})}.{_part(merged)}"
            private = rsa.private_key
            if private is None:
                raise ValueError("the signing key has no private half")
            tag = private.sign(signed.encode(), PKCS1v15(), SHA256())
            return f"{signed}.{base64.urlsafe_b64encode(tag).rstrip(b'=').decode()}"
        match self.algorithm:
            case "none":
                return f"{_part({'alg': 'none', **self.header})}.{_part(merged)}."
            case "HS256":
                signed = f"{_part({'alg': 'HS256', 'kid': 'rsa', **self.header})}.{_part(merged)}"
                secret = rsa.as_pem(private=False) if isinstance(rsa, RSAKey) else b""
                tag = hmac.digest(secret, signed.encode(), hashlib.sha256)
                return f"{signed}.{base64.urlsafe_b64encode(tag).rstrip(b'=').decode()}"
            case "ES256":
                return jwt.encode({"alg": "ES256", "kid": "ec"}, merged, ec)
            case _:
                return jwt.encode({"alg": "RS256", "kid": "rsa"}, merged, rsa)


def _part(value: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
