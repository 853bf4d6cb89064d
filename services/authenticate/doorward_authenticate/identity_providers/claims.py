"""What verified claims say about a person."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from doorward.config.directory_settings import DirectorySettings
from doorward.config.settings import IdentityProviderSettings
from doorward.identity.address import canonical_email
from doorward.identity.directory import directory_user_id, join_value
from doorward.identity.session import CLAIMS_NOT_KNOWN
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
    known: User | None = None,
) -> User:
    """The user record for somebody; the ID token's own claims win over userinfo.

    ``known`` is what has been heard of them since the ID token was made: then it counts more than that, and userinfo more than both.
    """
    merged = merged_claims(claims, userinfo)
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
    if known is not None:
        user = _with_what_is_newer(settings, user, known, claims, userinfo)
    if directory is None:
        return user
    value = (
        user.trusted_email(settings.email_domains) if directory.joins_by_email else join_value(directory.join, merged)
    )
    return replace(
        user, directory_user_id="" if value is None else directory_user_id(directory.id, directory.join, value)
    )


def merged_claims(first: Mapping[str, object], then: Mapping[str, object]) -> dict[str, object]:
    """What two documents say of one person; where both speak, ``first`` counts.

    `email_verified` speaks of the address beside it (OpenID Connect Core, section 5.1): it never vouches for another document's.
    """
    merged = {**then, **first}
    if merged.pop("email_verified", None) is not None:
        address = _address(merged)
        about_it = [document for document in (first, then) if address is not None and _address(document) == address]
        merged |= next(({"email_verified": one["email_verified"]} for one in about_it if "email_verified" in one), {})
    return merged


def _address(document: Mapping[str, object]) -> str | None:
    email = document.get("email")
    return (canonical_email(email) or email) if isinstance(email, str) else None


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
    """Every claim that describes the person, as JSON; without the protocol's own. Too many are not kept, and then none is known."""
    merged = {name: value for name, value in merged_claims(claims, userinfo).items() if name not in PROTOCOL_CLAIMS}
    text = json.dumps(merged).encode()
    return text if len(text) <= CLAIMS_LIMIT_BYTES else CLAIMS_NOT_KNOWN


def _with_what_is_newer(
    settings: IdentityProviderSettings, user: User, known: User, claims: VerifiedClaims, userinfo: Mapping[str, object]
) -> User:
    """``user`` with what ``known`` says where only the older ID token speaks; where that is silent too, nobody does."""
    older = claims.keys() - userinfo.keys()
    if "email" in older:
        user = replace(user, email=known.email, email_verified=known.email_verified)
    if "name" in older:
        user = replace(user, name=known.name)
    about_groups = {settings.groups_claim, *_OVERAGE}
    if settings.groups_claim is not None and about_groups & older and not about_groups & userinfo.keys():
        user = replace(user, groups=known.groups)
    return user


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
