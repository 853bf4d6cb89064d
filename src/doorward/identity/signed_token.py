"""What every token of somebody else's must be (RFC 7515, RFC 7519, RFC 8725), without any I/O.

The algorithm comes from the configuration and never from the token; `none` and symmetric ones do not exist here. Keys named in the
token itself (`jwk`, `jku`, `x5u`, `x5c`) are not looked at; unknown critical headers refuse it. Everything that is compared is compared
exactly, and what is missing refuses.
"""

import base64
import json
from collections.abc import Sequence

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import Key

from doorward.errors import InvalidTokenError

LEEWAY_SECONDS = 30
TOKEN_LIMIT = 64 * 1024
ASYMMETRIC = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
PROTOCOL_CLAIMS = frozenset(
    {
        "iss", "sub", "aud", "azp", "exp", "iat", "nbf", "nonce", "at_hash", "c_hash", "s_hash", "jti", "auth_time", "acr",
        "amr", "sid",
    }
)  # fmt: skip
"""Claims that belong to the protocol; everything else describes who it is about."""
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_SUBJECT_LIMIT = 255


def token_header(token: str) -> dict[str, object]:
    """The header of a signed token, unverified.

    Raises:
        InvalidTokenError: the token is malformed.
    """
    return _part(token, 0)


def claimed_issuer(token: str) -> str | None:
    """The `iss` of a signed token, unverified: good for finding out whose word it claims to be; ``None`` when it is no such token."""
    try:
        token_header(token)
        issuer = _part(token, 1).get("iss")
    except InvalidTokenError:
        return None
    return issuer if isinstance(issuer, str) else None


def key_id_of(token: str) -> str | None:
    """The `kid` in a token's header, unverified: good for finding a key and for nothing else.

    Raises:
        InvalidTokenError: the token is malformed.
    """
    value = token_header(token).get("kid")
    if value is not None and not isinstance(value, str):
        raise InvalidTokenError("`kid` is no string")
    return value


def signed_claims(
    token: str, keys: Sequence[Key], algorithms: frozenset[str], types: frozenset[str]
) -> tuple[dict[str, object], str, Key]:
    """The claims of ``token``, its algorithm and the key that signed it; nothing about the claims is checked yet.

    Raises:
        InvalidTokenError: it does not verify.
    """
    header = token_header(token)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms & ASYMMETRIC:
        raise InvalidTokenError("the signature algorithm is not an accepted one")
    if "crit" in header or "b64" in header:
        raise InvalidTokenError("the token demands an extension that is not understood")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in types:
        raise InvalidTokenError("the token is of another type")
    key = _key_for(keys, header.get("kid"), algorithm)
    try:
        signed = jws.deserialize_compact(token, key, algorithms=[algorithm])
    except (JoseError, ValueError, TypeError) as error:
        raise InvalidTokenError(f"the signature does not verify ({type(error).__name__})") from None
    return _object(signed.payload), algorithm, key


def audiences_of(claims: dict[str, object]) -> list[object]:
    """The list under `aud`; one text is a list of one, and anything else is empty."""
    audience = claims.get("aud")
    if isinstance(audience, str):
        return [audience]
    return audience if isinstance(audience, list) else []


def check_subject(claims: dict[str, object]) -> str:
    """The `sub`.

    Raises:
        InvalidTokenError: it is missing, empty or too long.
    """
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _SUBJECT_LIMIT:
        raise InvalidTokenError("`sub` is missing, empty or too long")
    return subject


def check_validity(claims: dict[str, object], now: float) -> float:
    """When the token expires; it is valid at ``now``.

    Raises:
        InvalidTokenError: it has expired, is not valid yet, or does not say.
    """
    expires_at = number_in(claims, "exp")
    if now >= expires_at + LEEWAY_SECONDS:
        raise InvalidTokenError("the token has expired")
    if "nbf" in claims and number_in(claims, "nbf") > now + LEEWAY_SECONDS:
        raise InvalidTokenError("the token is not valid yet")
    if "iat" in claims and number_in(claims, "iat") > now + LEEWAY_SECONDS:
        raise InvalidTokenError("the token was issued in the future")
    return expires_at


def number_in(claims: dict[str, object], name: str) -> float:
    """A time among the claims.

    Raises:
        InvalidTokenError: it is missing or no time.
    """
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise InvalidTokenError(f"`{name}` is missing or no time")
    return float(value)


def _part(token: str, position: int) -> dict[str, object]:
    if len(token) > TOKEN_LIMIT or not token.isascii() or token.count(".") != 2:
        raise InvalidTokenError("not a signed token")
    part = token.split(".")[position]
    try:
        return _object(base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True))
    except ValueError:
        raise InvalidTokenError("a part of the token is not base64url") from None


def _object(data: bytes) -> dict[str, object]:
    """A JSON object in which no name stands twice."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise InvalidTokenError("a name stands twice in the token")
        return dict(pairs)

    try:
        value = json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise InvalidTokenError("the token holds no JSON") from None
    if not isinstance(value, dict):
        raise InvalidTokenError("the token holds no JSON object")
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
        raise InvalidTokenError("no key, or more than one, could have signed the token")
    return suitable[0]
