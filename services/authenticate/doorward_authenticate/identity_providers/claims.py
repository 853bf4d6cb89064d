"""What verified claims say about a person."""

import json
from dataclasses import dataclass, replace

from doorward.config.directory_settings import DirectorySettings
from doorward.config.settings import IdentityProviderSettings
from doorward.identity.directory import directory_user_id, join_value
from doorward.identity.signed_token import PROTOCOL_CLAIMS
from doorward.identity.user import User, user_id
from doorward_authenticate.identity_providers.id_token import VerifiedClaims

CLAIMS_LIMIT_BYTES = 64 * 1024
_TEXT_LIMIT = 320
_GROUP_LIMIT = 20_000
_OVERAGE = ("_claim_names", "hasgroups")
"""An identity provider that says so has left groups out: then they are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Authentication:
    """How and when somebody was authenticated."""

    authenticated_at: float | None
    """``None`` when the identity provider does not say: then only a sign-in that asks for `max_age` can be called fresh."""
    methods: tuple[str, ...]
    context_class: str
    provider_session_id: str


def user_from(
    settings: IdentityProviderSettings,
    claims: VerifiedClaims,
    userinfo: dict[str, object],
    now: float,
    directory: DirectorySettings | None = None,
) -> User:
    """The user record for somebody; the ID token's own claims win over userinfo."""
    merged = {**userinfo, **claims}
    subject = str(claims["sub"])
    user = User(
        id=user_id(settings.issuer, subject),
        issuer=settings.issuer,
        subject=subject,
        email=_text(merged.get("email")),
        # Only the boolean: "true" as a string is what some send for addresses that they never verified.
        email_verified=merged.get("email_verified") is True,
        name=_text(merged.get("name")),
        groups=_groups(settings, merged),
        refreshed_at=now,
    )
    if directory is None:
        return user
    value = (
        user.trusted_email(settings.email_domains) if directory.joins_by_email else join_value(directory.join, merged)
    )
    return replace(
        user, directory_user_id="" if value is None else directory_user_id(directory.id, directory.join, value)
    )


def authentication_from(claims: VerifiedClaims) -> Authentication:
    """When and how, from the ID token alone."""
    at, methods = claims.get("auth_time"), claims.get("amr")
    return Authentication(
        authenticated_at=float(at) if isinstance(at, int | float) and not isinstance(at, bool) else None,
        methods=tuple(item for item in methods if isinstance(item, str)) if isinstance(methods, list) else (),
        context_class=_text(claims.get("acr")),
        provider_session_id=_text(claims.get("sid")),
    )


def personal_claims(claims: VerifiedClaims, userinfo: dict[str, object]) -> bytes:
    """Every claim that describes the person, as JSON; without the protocol's own. Too many are dropped altogether."""
    merged = {name: value for name, value in {**userinfo, **claims}.items() if name not in PROTOCOL_CLAIMS}
    text = json.dumps(merged).encode()
    return text if len(text) <= CLAIMS_LIMIT_BYTES else b"{}"


def _groups(settings: IdentityProviderSettings, claims: dict[str, object]) -> frozenset[str] | None:
    if settings.groups_claim is None or any(name in claims for name in _OVERAGE):
        return None
    value = claims.get(settings.groups_claim)
    if not isinstance(value, list) or len(value) > _GROUP_LIMIT:
        return None
    if not all(isinstance(item, str) and item for item in value):
        return None
    return frozenset(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= _TEXT_LIMIT else ""
