"""What the decision about a stream depends on besides time: records, its route, and what vouches for people."""

from doorward.config.settings import Settings
from doorward.identity import session as sessions
from doorward.identity import user as users
from doorward.identity.issuer_keys import RECORD_TYPE as ISSUER_KEYS_TYPE
from doorward.identity.issuer_keys import issuer_keys_id
from doorward.identity.service_account import ID_PREFIX
from doorward.identity.service_account import RECORD_TYPE as SERVICE_ACCOUNT_TYPE
from doorward_authorize.client_certificates import ID_PREFIX as CERTIFICATE_PREFIX
from doorward_authorize.guard.description import Description
from doorward_authorize.snapshot import CompiledRoute


def records_of(description: Description) -> tuple[tuple[str, str], ...]:
    """The records that the principal is made of."""
    if not description.session_id:
        return ()
    if description.session_id.startswith(ID_PREFIX):
        return ((SERVICE_ACCOUNT_TYPE, description.session_id),)
    if description.session_id.startswith(CERTIFICATE_PREFIX):
        return ()
    if description.external is not None:
        keys = issuer_keys_id(description.external.issuer)
        return (ISSUER_KEYS_TYPE, keys), (users.RECORD_TYPE, description.user_id)
    return (sessions.RECORD_TYPE, description.session_id), (users.RECORD_TYPE, description.user_id)


def vouching(settings: Settings) -> tuple[object, ...]:
    """Everything that says who is who."""
    return (
        settings.identity_providers,
        settings.directories,
        settings.grants,
        settings.client_certificates,
        settings.token_issuers,
    )


def limits(settings: Settings) -> tuple[object, ...]:
    """What says for how long a stream may go on although nothing about it changes."""
    return settings.staleness, settings.session_idle_seconds


def differs(before: CompiledRoute | None, after: CompiledRoute | None) -> bool:
    """Whether a stream of this route could be decided otherwise."""
    if before is None or after is None:
        return before is not after
    return (
        before.route.digest != after.route.digest
        or before.policy.digest != after.policy.digest
        or before.removed_at != after.removed_at
        or before.route.sensitive != after.route.sensitive
        or before.route.idle_strict != after.route.idle_strict
        or before.route.allowed_origins != after.route.allowed_origins
        or before.route.broken != after.route.broken
        or before.route.extra_methods != after.route.extra_methods
        or before.route.client_certificate is not after.route.client_certificate
        or before.route.token_issuers != after.route.token_issuers
    )
