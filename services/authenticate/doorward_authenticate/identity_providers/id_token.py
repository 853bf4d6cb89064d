"""Strict verification of ID tokens (OpenID Connect Core 1.0, sections 2 and 3.1.3.7), without any I/O.

The algorithm comes from the configuration and never from the token; `none` and symmetric ones do not exist here. Keys named in the
token itself (`jwk`, `jku`, `x5u`, `x5c`) are not looked at; unknown critical headers refuse it. Everything that is compared is compared
exactly, and what is missing refuses.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import Key

from doorward_authenticate.errors import TokenRejectedError

VerifiedClaims = NewType("VerifiedClaims", dict[str, object])
"""Claims of a token that verified; nothing else may be called so."""

LEEWAY_SECONDS = 30
MAX_AGE_SECONDS = 600
"""An ID token that was issued longer ago was not made for this sign-in."""
TOKEN_LIMIT = 64 * 1024
_SUBJECT_LIMIT = 255
ASYMMETRIC = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
_HASHES = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}

PROTOCOL_CLAIMS = frozenset(
    {
        "iss", "sub", "aud", "azp", "exp", "iat", "nbf", "nonce", "at_hash", "c_hash", "s_hash", "jti", "auth_time", "acr",
        "amr", "sid",
    }
)  # fmt: skip
"""Claims that belong to the protocol; everything else describes the person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a token must be."""

    issuer: str
    client_id: str
    nonce: str | None
    """``None`` for a token from a refresh, which need not carry the sign-in's (section 12.2)."""
    algorithms: frozenset[str]
    """Configured and announced; only asymmetric ones count."""
    access_token: str | None
    now: float
    """Seconds since the Unix epoch."""


def key_id_of(token: str) -> str | None:
    """The `kid` in a token's header, unverified: good for finding a key and for nothing else.

    Raises:
        TokenRejectedError: the token is malformed.
    """
    value = _header(token).get("kid")
    if value is not None and not isinstance(value, str):
        raise TokenRejectedError("`kid` is no string")
    return value


def verify_id_token(token: str, keys: Sequence[Key], expected: Expectation) -> VerifiedClaims:
    """The claims of ``token``.

    Raises:
        TokenRejectedError: anything at all is not as it must be.
    """
    header = _header(token)
    algorithm = header.get("alg")
    allowed = expected.algorithms & ASYMMETRIC
    if not isinstance(algorithm, str) or algorithm not in allowed:
        raise TokenRejectedError("the signature algorithm is not an accepted one")
    if "crit" in header or "b64" in header:
        raise TokenRejectedError("the token demands an extension that is not understood")
    if header.get("typ", "JWT") not in {"JWT", "jwt"}:
        raise TokenRejectedError("the token is of another type")
    key = _key_for(keys, header.get("kid"), algorithm)
    try:
        signed = jws.deserialize_compact(token, key, algorithms=[algorithm])
    except (JoseError, ValueError, TypeError) as error:
        raise TokenRejectedError(f"the signature does not verify ({type(error).__name__})") from None
    claims = _object(signed.payload)
    _check_parties(claims, expected)
    _check_times(claims, expected.now)
    if expected.nonce is not None:
        nonce = claims.get("nonce")
        if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), expected.nonce.encode()):
            raise TokenRejectedError("`nonce` is not the one of this sign-in")
    _check_access_token_hash(claims, algorithm, expected.access_token)
    return VerifiedClaims(claims)


def _header(token: str) -> dict[str, object]:
    if len(token) > TOKEN_LIMIT or not token.isascii() or token.count(".") != 2:
        raise TokenRejectedError("not a signed token")
    part = token.split(".", 1)[0]
    try:
        return _object(base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True))
    except ValueError:
        raise TokenRejectedError("the token's header is not base64url") from None


def _object(data: bytes) -> dict[str, object]:
    """A JSON object in which no name stands twice."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise TokenRejectedError("a name stands twice in the token")
        return dict(pairs)

    try:
        value = json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise TokenRejectedError("the token holds no JSON") from None
    if not isinstance(value, dict):
        raise TokenRejectedError("the token holds no JSON object")
    return value


def _key_for(keys: Sequence[Key], key_id: object, algorithm: str) -> Key:
    """The one key that may have signed; a token without `kid` needs the choice to be clear."""
    suitable = []
    for key in keys:
        fields = key.as_dict(private=False)
        if fields.get("kty") != _KEY_TYPES[algorithm[:2]] or fields.get("alg", algorithm) != algorithm:
            continue
        if algorithm in _CURVES and fields.get("crv") != _CURVES[algorithm]:
            continue
        if key_id is None or fields.get("kid") == key_id:
            suitable.append(key)
    if len(suitable) != 1:
        raise TokenRejectedError("no key, or more than one, could have signed the token")
    return suitable[0]


def _check_parties(claims: dict[str, object], expected: Expectation) -> None:
    if claims.get("iss") != expected.issuer:
        raise TokenRejectedError("`iss` is another issuer")
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or expected.client_id not in audiences:
        raise TokenRejectedError("`aud` does not name this client")
    # Section 3.1.3.7, points 4 and 5.
    if ("azp" in claims or len(audiences) > 1) and claims.get("azp") != expected.client_id:
        raise TokenRejectedError("`azp` is another client")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _SUBJECT_LIMIT:
        raise TokenRejectedError("`sub` is missing, empty or too long")


def _check_times(claims: dict[str, object], now: float) -> None:
    expires_at, issued_at = _number(claims, "exp"), _number(claims, "iat")
    if now >= expires_at + LEEWAY_SECONDS:
        raise TokenRejectedError("the token has expired")
    if issued_at > now + LEEWAY_SECONDS:
        raise TokenRejectedError("the token was issued in the future")
    if issued_at < now - MAX_AGE_SECONDS:
        raise TokenRejectedError("the token was issued too long ago")
    if "nbf" in claims and _number(claims, "nbf") > now + LEEWAY_SECONDS:
        raise TokenRejectedError("the token is not valid yet")
    if "auth_time" in claims and _number(claims, "auth_time") > now + LEEWAY_SECONDS:
        raise TokenRejectedError("`auth_time` lies in the future")


def _number(claims: dict[str, object], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise TokenRejectedError(f"`{name}` is missing or no time")
    return float(value)


def _check_access_token_hash(claims: dict[str, object], algorithm: str, access_token: str | None) -> None:
    """Section 3.1.3.6; in the code flow the hash may be absent, but one that is there must fit."""
    if "at_hash" not in claims:
        return
    # EdDSA with Ed25519 hashes with SHA-512.
    digest = _HASHES.get("512" if algorithm == "EdDSA" else algorithm[2:])
    if digest is None or access_token is None:
        raise TokenRejectedError("`at_hash` cannot be checked")
    full = digest(access_token.encode("ascii", "replace")).digest()
    wanted = base64.urlsafe_b64encode(full[: len(full) // 2]).rstrip(b"=").decode()
    found = claims["at_hash"]
    if not isinstance(found, str) or not hmac.compare_digest(found.encode(), wanted.encode()):
        raise TokenRejectedError("`at_hash` does not fit the access token")
