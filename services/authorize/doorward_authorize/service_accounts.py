"""Programs that present a token of ours, in ``Authorization`` or, where that is the application's, in a header of ours.

Any other ``Authorization`` belongs to the application: it is not read and not removed.
"""

from dataclasses import dataclass

from doorward.clock import Clock
from doorward.errors import DataCorruptedError
from doorward.identity.service_account import ID_PREFIX, RECORD_TYPE, ServiceAccount
from doorward.identity.session import Session
from doorward.identity.user import User
from doorward.keys.keyring import Key
from doorward.keys.service_token import PREFIX, TokenHasher, parse_token
from doorward.policy import PrincipalFacts
from doorward.route.internal import TOKEN_HEADER
from doorward_authorize.check_request import CheckedRequest
from doorward_authorize.principal import Credential, Principal, Records

ISSUER = "doorward:service-accounts"
"""Stands where a person's identity provider stands; no configured issuer can be written so."""
CACHE_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class _Known:
    data: bytes
    principal: Principal


class ServiceAccounts:
    """Finds out which program asks. Concurrency: belongs to one event loop."""

    def __init__(self, records: Records, hasher: TokenHasher, clock: Clock) -> None:
        self._records = records
        self._hasher = hasher
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._known_by = hasher.keys

    def of_token(self, token: str) -> Principal | None:
        """Whose token it is, as things are now; ``None`` when it is nobody's."""
        parsed = parse_token(token)
        if parsed is None:
            return None
        number, secret = parsed
        data = self._records.get(RECORD_TYPE, ID_PREFIX + number)
        if self._hasher.keys is not self._known_by:
            # A key may have been revoked: tokens that were hashed with it are nobody's now.
            self._known.clear()
            self._known_by = self._hasher.keys
        known = self._known.get(token)
        if known is not None and known.data == data:
            return None if known.principal.session.is_expired(self._clock.now()) else known.principal
        # A token of no account costs what a wrong one does, so that the time does not tell which accounts there are.
        account = _account(_NOBODY if data is None else data)
        key = None if account is None else self._hasher.match(number, secret, account.token_hash)
        if account is None or key is None or data is None:
            return None
        principal = self._principal(account, data, key)
        if principal is not None:
            if len(self._known) >= CACHE_LIMIT:
                self._known.clear()
            self._known[token] = _Known(data, principal)
        return principal

    def of_id(self, account_id: str) -> Principal | None:
        """The account with this id, as things are now; for streams that are decided again."""
        data = self._records.get(RECORD_TYPE, account_id)
        account = _account(data) if data is not None else None
        return self._principal(account, data) if account is not None and data is not None else None

    @property
    def keys(self) -> tuple[Key, ...]:
        """See ``TokenHasher.keys``."""
        return self._hasher.keys

    def holds(self, key_id: bytes) -> bool:
        """See ``TokenHasher.holds``."""
        return self._hasher.holds(key_id)

    def _principal(self, account: ServiceAccount, data: bytes, key: bytes = b"") -> Principal | None:
        if account.is_expired(self._clock.now()):
            return None
        session = Session(
            id=account.id,
            user_id=account.id,
            identity_provider_id="",
            issued_at=account.created_at,
            expires_at=account.expires_at,
            authenticated_at=account.created_at,
        )
        user = User(id=account.id, issuer=ISSUER, subject=account.id, name=account.name, groups=account.groups)
        facts = PrincipalFacts(user_id=account.id, subject=account.id, groups=account.groups, session_id=account.id)
        return Principal(session, user, facts, data, credential=Credential.TOKEN, key=key, owner_id=account.owner_id)


def presented_tokens(request: CheckedRequest) -> tuple[str, ...]:
    """What is presented as a token of ours, each once; what does not parse is presented too, and is nobody's."""
    found = dict.fromkeys(bearer(value) or value for value in request.headers.get(TOKEN_HEADER, ()))
    for value in request.headers.get("authorization", ()):
        token = bearer(value)
        if token is not None and token.startswith(PREFIX):
            found[token] = None
    return tuple(found)


def is_in_authorization(request: CheckedRequest) -> bool:
    """Whether `Authorization` holds a token of ours, which must not reach the upstream."""
    return any((bearer(value) or "").startswith(PREFIX) for value in request.headers.get("authorization", ()))


def bearer(value: str) -> str | None:
    """The credentials of ``Bearer`` (RFC 6750, section 2.1), or ``None`` for another scheme."""
    scheme, _, rest = value.strip(" \t").partition(" ")
    return rest.strip(" \t") if scheme.lower() == "bearer" else None


_NOBODY = ServiceAccount(
    id=f"{ID_PREFIX}{'0' * 32}", name="nobody", groups=frozenset(), token_hash=bytes(32), created_at=0.0, expires_at=0.0
).to_bytes()
"""An account that no token opens: it has no record, and so is never answered with."""


def _account(data: bytes) -> ServiceAccount | None:
    try:
        return ServiceAccount.from_bytes(data)
    except DataCorruptedError:
        return None  # what cannot be read cannot speak for anybody
