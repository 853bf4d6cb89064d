"""The signed statement about who asks, for the upstream: a JWT (RFC 7519) under ES256.

Signed once for each session, host, state of the user and what the configuration makes of it, and again before it runs out.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.jwk import ECKey

from doorward.clock import Clock
from doorward.keys.assertion import LIFETIME_SECONDS, pair_of_key
from doorward.keys.keyring import Key, Keyring
from doorward_authorize.principal import Principal

RENEW_SECONDS = 60
"""A cached assertion is not used for its last minute."""
CACHE_LIMIT_BYTES = 32 * 1024 * 1024
_SKEW_SECONDS = 10
_Key = tuple[str, str, bytes, frozenset[str] | None, str | None, str]
"""Everything that an assertion is made of: the session, the host, the user, and what the configuration makes of them."""


class AssertionSigner:
    """Signs assertions with the first key of a keyring and keeps them while they last and that key is the first.

    Concurrency: belongs to one event loop.
    """

    def __init__(
        self,
        keys: Keyring,
        clock: Clock,
        random: Callable[[int], str] = secrets.token_hex,
        limit_bytes: int = CACHE_LIMIT_BYTES,
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._random = random
        self._limit = limit_bytes
        self._cache: OrderedDict[_Key, tuple[float, float, int, str]] = OrderedDict()
        self._bytes = 0
        self._follow(keys.primary)

    def sign(self, principal: Principal, issuer: str, audience: str) -> str:
        """The assertion for ``principal`` towards the host ``audience``."""
        now = self._clock.now()
        if self._keys.primary is not self._signs_with:
            self._follow(self._keys.primary)
        facts = principal.facts
        key = (principal.session.id, audience, principal.user_data, facts.groups, facts.email, issuer)
        cached = self._cache.get(key)
        # A session's end may have been moved to an earlier time since.
        if cached is not None and cached[0] <= now < cached[1] and cached[2] <= principal.session.expires_at:
            self._cache.move_to_end(key)
            return cached[3]
        issued_at = int(now)
        expires_at = min(issued_at + LIFETIME_SECONDS, int(principal.session.expires_at))
        text = jwt.encode(self._header, self._claims(principal, issuer, audience, issued_at, expires_at), self._key)
        # A clock that is set back must not leave an assertion that holds only later.
        self._remember(key, issued_at - _SKEW_SECONDS, expires_at, text)
        return text

    def _follow(self, key: Key) -> None:
        """Sign with ``key`` from now on; what the one before signed is sent no more, for it may have been revoked."""
        pair = pair_of_key(key).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._key = ECKey.import_key(pair)
        self._header = {"alg": "ES256", "typ": "JWT", "kid": self._key.thumbprint()}
        self._cache.clear()
        self._bytes = 0
        self._signs_with = key

    def _claims(
        self, principal: Principal, issuer: str, audience: str, issued_at: int, expires_at: int
    ) -> dict[str, object]:
        claims: dict[str, object] = {
            "iss": issuer,
            "aud": audience,
            "sub": principal.user.id,
            "sid": principal.session.id,
            "iat": issued_at,
            "nbf": issued_at - _SKEW_SECONDS,
            "exp": expires_at,
            "jti": self._random(16),
        }
        if principal.facts.email is not None:
            claims["email"] = principal.facts.email
        if principal.user.name:
            claims["name"] = principal.user.name
        if principal.facts.groups is not None:
            claims["groups"] = sorted(principal.facts.groups)
        return claims

    def _remember(self, key: _Key, since: float, expires_at: int, text: str) -> None:
        old = self._cache.pop(key, None)
        if old is not None:
            self._bytes -= _size(key, old[3])
        self._cache[key] = (since, expires_at - RENEW_SECONDS, expires_at, text)
        self._bytes += _size(key, text)
        while self._bytes > self._limit and self._cache:
            dropped, (_, _, _, dropped_text) = self._cache.popitem(last=False)
            self._bytes -= _size(dropped, dropped_text)


def _size(key: _Key, text: str) -> int:
    return len(text) + len(key[2]) + 300
