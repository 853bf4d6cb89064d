"""Who people sign in at, as the configuration says it."""

from collections.abc import Sequence
from pathlib import Path

from doorward.config.document import IdentityProviderDocument
from doorward.config.references import SecretReader
from doorward.config.settings import IdentityProviderSettings
from doorward.config.token_issuers import check_issuer
from doorward.config.validation import position_of
from doorward.source import Mapping, Problems


def read_identity_providers(
    documents: Sequence[IdentityProviderDocument],
    folder: Path,
    node: Mapping,
    secrets: SecretReader,
    fatal: Problems,
    secret_files: list[Path],
) -> tuple[IdentityProviderSettings, ...]:
    """The identity providers that could be read; what is wrong with the others goes to ``fatal``.

    Files are looked for in ``folder``, and those of secrets are added to ``secret_files``.
    """
    found = []
    several = len(documents) > 1
    seen: set[str] = set()
    for index, written in enumerate(documents):
        place = ("identity_providers", index)
        position = position_of(node, place)
        if written.id in seen:
            fatal.error(position, f"two identity providers have the id `{written.id}`")
        seen.add(written.id)
        if several and written.email_domains is None:
            fatal.error(
                position,
                f"`{written.id}` needs `email_domains`",
                "with several identity providers each must name the domains that it vouches for",
            )
        check_issuer(written.issuer, "issuer", position_of(node, (*place, "issuer")), fatal)
        if "openid" not in written.scopes:
            fatal.error(position_of(node, (*place, "scopes")), "the scope `openid` is missing")
        secret = secrets(
            folder,
            written.client_secret,
            position_of(node, (*place, "client_secret")),
            fatal,
            secret_files,
        )
        if secret is None:
            continue
        domains = written.email_domains
        found.append(
            IdentityProviderSettings(
                id=written.id,
                name=written.name or written.id,
                issuer=written.issuer,
                client_id=written.client_id,
                client_secret=secret,
                scopes=tuple(written.scopes),
                signing_algorithms=tuple(written.signing_algorithms),
                email_domains=frozenset(map(str.lower, domains)) if domains is not None else None,
                groups_claim=written.claims.groups,
                method_classes=tuple(written.method_classes.items()),
            )
        )
    issuers = [item.issuer for item in found]
    if len(set(issuers)) != len(issuers):
        fatal.error(position_of(node, ("identity_providers",)), "two identity providers have one issuer")
    return tuple(found)
