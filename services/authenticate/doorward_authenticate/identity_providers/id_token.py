"""Strict verification of ID tokens (OpenID Connect Core 1.0, sections 2 and 3.1.3.7), without any I/O.

On top of what every signed token must be (``doorward.identity.signed_token``): that it was made for this client and this sign-in.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType

from joserfc.jwk import Key

from doorward.errors import InvalidTokenError
from doorward.identity import signed_token
from doorward.identity.signed_token import LEEWAY_SECONDS, audiences_of, check_subject, check_validity, number_in
from doorward_authenticate.errors import TokenRejectedError

VerifiedClaims = NewType("VerifiedClaims", dict[str, object])
"""Claims of a token that verified; nothing else may be called so."""

MAX_AGE_SECONDS = 600
"""An ID token that was issued longer ago was not made for this sign-in."""
_TYPES = frozenset({"jwt"})
_HASHES = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}


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
    try:
        return signed_token.key_id_of(token)
    except InvalidTokenError as error:
        raise TokenRejectedError(str(error)) from None


def verify_id_token(token: str, keys: Sequence[Key], expected: Expectation) -> VerifiedClaims:
    """The claims of ``token``.

    Raises:
        TokenRejectedError: anything at all is not as it must be.
    """
    try:
        claims, algorithm, _ = signed_token.signed_claims(token, keys, expected.algorithms, _TYPES)
        _check_parties(claims, expected)
        check_subject(claims)
        _check_times(claims, expected.now)
    except InvalidTokenError as error:
        raise TokenRejectedError(str(error)) from None
    if expected.nonce is not None:
        nonce = claims.get("nonce")
        if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), expected.nonce.encode()):
            raise TokenRejectedError("`nonce` is not the one of this sign-in")
    _check_access_token_hash(claims, algorithm, expected.access_token)
    return VerifiedClaims(claims)


def _check_parties(claims: dict[str, object], expected: Expectation) -> None:
    if claims.get("iss") != expected.issuer:
        raise InvalidTokenError("`iss` is another issuer")
    audiences = audiences_of(claims)
    if expected.client_id not in audiences:
        raise InvalidTokenError("`aud` does not name this client")
    # Section 3.1.3.7, points 4 and 5.
    if ("azp" in claims or len(audiences) > 1) and claims.get("azp") != expected.client_id:
        raise InvalidTokenError("`azp` is another client")


def _check_times(claims: dict[str, object], now: float) -> None:
    check_validity(claims, now)
    if number_in(claims, "iat") < now - MAX_AGE_SECONDS:
        raise InvalidTokenError("the token was issued too long ago")
    if "auth_time" in claims and number_in(claims, "auth_time") > now + LEEWAY_SECONDS:
        raise InvalidTokenError("`auth_time` lies in the future")


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
