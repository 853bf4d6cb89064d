"""Issuers whose tokens count without a sign-in, on the routes that list them."""

import re

from doorward.config.document import TokenIssuerDocument
from doorward.config.settings import TokenIssuerSettings
from doorward.config.validation import position_of
from doorward.source import Mapping, Position, Problems

_ISSUER = re.compile(r"(https|http)://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?(/[!-~]*)?\Z", re.ASCII)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


def read_token_issuers(
    documents: list[TokenIssuerDocument], node: Mapping, problems: Problems
) -> tuple[TokenIssuerSettings, ...]:
    """The issuers; what is wrong with them is recorded."""
    found: list[TokenIssuerSettings] = []
    for index, written in enumerate(documents):
        place = ("token_issuers", index)
        if any(item.id == written.id for item in found):
            problems.error(position_of(node, place), f"two token issuers have the id `{written.id}`")
        if any(item.issuer == written.issuer for item in found):
            problems.error(position_of(node, place), f"two token issuers are `{written.issuer}`")
        check_issuer(written.issuer, "issuer", position_of(node, (*place, "issuer")), problems)
        if written.key_set_url is not None:
            check_issuer(written.key_set_url, "key_set_url", position_of(node, (*place, "key_set_url")), problems)
        if "" in written.audiences:
            problems.error(position_of(node, (*place, "audiences")), "an empty audience is anybody's")
        found.append(
            TokenIssuerSettings(
                id=written.id,
                issuer=written.issuer,
                audiences=frozenset(written.audiences),
                signing_algorithms=frozenset(written.signing_algorithms),
                key_set_url=written.key_set_url,
                groups_claim=written.claims.groups,
            )
        )
    return tuple(found)


def check_issuer(text: str, key: str, position: Position, problems: Problems) -> None:
    """Record what is wrong with the URL of an issuer or its keys: not one, or readable by others on the way."""
    match = _ISSUER.match(text)
    if match is None or "?" in text or "#" in text:
        problems.error(position, f"`{key}` is `{text}`", "expected `https://host[/path]`")
    elif match[1] == "http" and match[2] not in _LOOPBACK:
        problems.error(position, f"`{text}` is not encrypted", "`http` is for this machine only")
