"""Tokens of other issuers, on routes that list them.

A token is looked at because of whose it claims to be, and believed because of its signature: keys come from records that authenticate
keeps, so that no decision asks anybody. What claims to be of another issuer, or is no token at all, is the application's.
"""

import hashlib
import json
from dataclasses import replace

from joserfc.jwk import Key

from doorward.clock import Clock
from doorward.config.directory_settings import DirectorySettings
from doorward.config.settings import Settings, TokenIssuerSettings
from doorward.errors import DataCorruptedError, InvalidTokenError
from doorward.identity import user as users
from doorward.identity.directory import directory_user_id, join_value
from doorward.identity.issuer_keys import KEEP_SECONDS, RECORD_TYPE, IssuerKeys, issuer_keys_id
from doorward.identity.session import Session
from doorward.identity.signed_token import (
    LEEWAY_SECONDS,
    PROTOCOL_CLAIMS,
    audiences_of,
    check_subject,
    check_validity,
    claimed_issuer,
    number_in,
    signed_claims,
)
from doorward.identity.user import User, user_id
from doorward.policy import PrincipalFacts
from doorward.route.route import Route
from doorward_authorize.check_request import CheckedRequest
from doorward_authorize.directories import Directories
from doorward_authorize.principal import Credential, ExternalToken, Principal, Records
from doorward_authorize.service_accounts import bearer

ID_PREFIX = "token-"
"""How the ids of sessions begin that such a token stands for."""
CACHE_LIMIT = 10_000
_AHEAD_SECONDS = 60.0
"""How far the clock of whoever fetched the keys may be ahead of ours."""
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""Plain tokens, and access tokens (RFC 9068)."""


class ExternalTokens:
    """Finds out whose token it is. Concurrency: belongs to one event loop."""

    def __init__(self, records: Records, directories: Directories, clock: Clock) -> None:
        self._records = records
        self._directories = directories
        self._clock = clock
        self._keys: dict[str, tuple[bytes, float, tuple[Key, ...]]] = {}
        self._verified: dict[tuple[str, str], tuple[TokenIssuerSettings, bytes, ExternalToken, float]] = {}
        self._principals: dict[str, tuple[bytes | None, object, Settings, bytes, Principal]] = {}

    def of(self, request: CheckedRequest, route: Route, settings: Settings) -> tuple[Principal | None, ...]:
        """Whose tokens ``request`` presents, each once; ``None`` for one that does not count."""
        presented = presented_externally(request, route, settings)
        return tuple(self._of_token(text, issuer, settings) for text, issuer in presented.items())

    def again(self, token: ExternalToken, route: Route, settings: Settings) -> Principal | None:
        """Whose token it is that opened a stream, as things are now; ``None`` when it does not count any more.

        Raises:
            DataCorruptedError: what is known of its issuer or subject cannot be read.
        """
        issuer = next((item for item in settings.token_issuers if item.issuer == token.issuer), None)
        if issuer is None or issuer.id not in route.token_issuers:
            return None
        try:
            return self.principal(token, issuer, settings)
        except InvalidTokenError:
            return None

    def _of_token(self, text: str, issuer: TokenIssuerSettings, settings: Settings) -> Principal | None:
        try:
            token = self._verify(text, issuer)
            return self.principal(token, issuer, settings)
        except (InvalidTokenError, DataCorruptedError):
            return None

    def _verify(self, text: str, issuer: TokenIssuerSettings) -> ExternalToken:
        """The token in ``text``, verified once for the issuer's keys and settings; its times are checked every time.

        Raises:
            InvalidTokenError: it does not count.
            DataCorruptedError: the issuer's keys cannot be read.
        """
        now = self._clock.now()
        data, keys, _ = self._keys_of(issuer)
        known = self._verified.get((issuer.id, text))
        if known is not None and known[0] is issuer and known[1] is data:
            if not known[3] - LEEWAY_SECONDS <= now < known[2].expires_at + LEEWAY_SECONDS:
                raise InvalidTokenError("the token has expired, or is not valid yet")
            return known[2]
        claims, algorithm, key = signed_claims(text, keys, issuer.signing_algorithms, _TYPES)
        if claims.get("iss") != issuer.issuer:
            raise InvalidTokenError("`iss` is another issuer")
        audiences = frozenset(item for item in audiences_of(claims) if isinstance(item, str))
        if issuer.audiences.isdisjoint(audiences):
            raise InvalidTokenError("`aud` names nobody that this route is")
        subject = check_subject(claims)
        token = ExternalToken(
            issuer=issuer.issuer,
            subject=subject,
            key=key.thumbprint(),
            expires_at=check_validity(claims, now),
            claims=json.dumps({name: value for name, value in claims.items() if name not in PROTOCOL_CLAIMS}).encode(),
            session_id=ID_PREFIX + hashlib.sha256(text.encode()).hexdigest()[:32],
            audiences=audiences,
            algorithm=algorithm,
        )
        if len(self._verified) >= CACHE_LIMIT:
            self._verified.clear()
        begins_at = max(number_in(claims, name) if name in claims else 0.0 for name in ("nbf", "iat"))
        self._verified[issuer.id, text] = (issuer, data, token, begins_at)
        return token

    def principal(self, token: ExternalToken, issuer: TokenIssuerSettings, settings: Settings) -> Principal | None:
        """Who ``token`` speaks for, as things are now; ``None`` when it does not count any more.

        Raises:
            InvalidTokenError: its issuer's keys are not known.
            DataCorruptedError: they, or what is known of its subject, cannot be read.
        """
        keys_data, keys, confirmed_until = self._keys_of(issuer)
        now = self._clock.now()
        if now >= token.expires_at + LEEWAY_SECONDS or all(key.thumbprint() != token.key for key in keys):
            return None
        # The configuration may have changed since it was verified. Streams that an older version described name neither.
        if token.audiences and issuer.audiences.isdisjoint(token.audiences):
            return None
        if token.algorithm and token.algorithm not in issuer.signing_algorithms:
            return None
        number = user_id(token.issuer, token.subject)
        user_data = self._records.get(users.RECORD_TYPE, number)
        user = User.from_bytes(user_data) if user_data is not None else None
        if user is not None and not user.active:
            return None
        provider = next((item for item in settings.identity_providers if item.issuer == token.issuer), None)
        directory = settings.directory_of(provider.id) if provider is not None else None
        known = self._principals.get(token.session_id)
        speaker = User(
            id=number,
            issuer=token.issuer,
            subject=token.subject,
            name="",
            directory_user_id=user.directory_user_id if user is not None else _entry_of(token, directory),
        )
        mark = self._directories.mark(speaker, directory) if directory is not None else None
        if (
            known is not None
            and (known[0] is user_data and known[1] == mark and known[2] is settings and known[3] is keys_data)
            and now < known[4].good_until
        ):
            return known[4]
        claims = json.loads(token.claims)
        groups = _groups(claims, issuer.groups_claim)
        # A stream that the token opened is to be asked about again when its keys no longer count.
        good_until = confirmed_until
        if directory is not None:
            # The directory's word replaces the token's, also when it has none and also for whoever never signed in here.
            standing = self._directories.standing(speaker, directory)
            if not standing.is_active:
                return None
            groups, good_until = standing.groups, min(good_until, standing.good_until)
        session = Session(
            id=token.session_id,
            user_id=number,
            identity_provider_id=issuer.id,
            issued_at=now,
            expires_at=token.expires_at + LEEWAY_SECONDS,
            authenticated_at=now,
            claims_json=token.claims,
        )
        facts = PrincipalFacts(
            user_id=number,
            subject=token.subject,
            groups=groups,
            claims=claims,
            session_id=token.session_id,
            identity_provider_id=issuer.id,
        )
        found = Principal(
            session,
            replace(speaker, groups=groups),
            facts,
            token.claims,
            mark,
            good_until,
            credential=Credential.TOKEN,
            external=token,
        )
        if len(self._principals) >= CACHE_LIMIT:
            self._principals.clear()
        self._principals[token.session_id] = (user_data, mark, settings, keys_data, found)
        return found

    def _keys_of(self, issuer: TokenIssuerSettings) -> tuple[bytes, tuple[Key, ...], float]:
        """The record that the issuer's keys are from, the keys, and the time until which they count if nobody confirms them again.

        Raises:
            InvalidTokenError: there are none, or nobody has confirmed them for too long.
            DataCorruptedError: they cannot be read.
        """
        data = self._records.get(RECORD_TYPE, issuer_keys_id(issuer.issuer))
        if data is None:
            raise InvalidTokenError("the issuer's keys are not known")
        known = self._keys.get(issuer.issuer)
        if known is None or known[0] != data:
            stored = IssuerKeys.from_bytes(data)
            if stored.issuer != issuer.issuer:
                raise DataCorruptedError("the keys are another issuer's")
            known = (data, stored.confirmed_at, stored.usable())
            self._keys[issuer.issuer] = known
        if not -_AHEAD_SECONDS <= self._clock.now() - known[1] < KEEP_SECONDS:
            raise InvalidTokenError("the issuer has not confirmed its keys for too long, or will only")
        return known[0], known[2], known[1] + KEEP_SECONDS


def presented_externally(request: CheckedRequest, route: Route, settings: Settings) -> dict[str, TokenIssuerSettings]:
    """The bearer tokens that claim to be of an issuer that ``route`` lists, each with that issuer."""
    if not route.token_issuers:
        return {}
    trusted = {item.issuer: item for item in settings.token_issuers if item.id in route.token_issuers}
    found: dict[str, TokenIssuerSettings] = {}
    for value in request.headers.get("authorization", ()):
        text = bearer(value)
        issuer = trusted.get(claimed_issuer(text) or "") if text is not None else None
        if text is not None and issuer is not None:
            found[text] = issuer
    return found


def _entry_of(token: ExternalToken, directory: DirectorySettings | None) -> str:
    """The record id of the directory's entry for somebody who never signed in here; an address in a token names nobody."""
    if directory is None or directory.joins_by_email:
        return ""
    value = join_value(directory.join, {**json.loads(token.claims), "iss": token.issuer, "sub": token.subject})
    return "" if value is None else directory_user_id(directory.id, directory.join, value)


def _groups(claims: dict[str, object], name: str | None) -> frozenset[str] | None:
    """The groups that a claim lists completely; ``None`` when they are not known."""
    value = claims.get(name) if name is not None else None
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        return None
    overage = claims.get("_claim_names")
    if claims.get("hasgroups") or (isinstance(overage, dict) and name in overage):
        return None
    return frozenset(value)
