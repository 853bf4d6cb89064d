"""Headers that tell the upstream who asks."""

import urllib.parse
from collections.abc import Callable, Iterator, Mapping

from doorward.policy.criteria.membership import claim_values
from doorward.route.header_template import Template, Variable
from doorward.route.internal import ASSERTION_HEADER
from doorward.route.route import Route
from doorward_authorize.assertion import AssertionSigner
from doorward_authorize.principal import Principal
from doorward_authorize.upstream_tokens import ProviderTokens

VALUE_LIMIT = 8192


def identity_headers(
    route: Route, principal: Principal | None, signer: AssertionSigner, issuer: str, tokens: ProviderTokens = ()
) -> Iterator[tuple[str, str | None]]:
    """Name and value of each; ``None`` means that the header must not reach the upstream."""
    if route.pass_assertion:
        yield ASSERTION_HEADER, signer.sign(principal, issuer, route.host) if principal is not None else None
    for name, fact in route.claim_headers:
        yield name, _fact(principal, fact)
    held = dict(tokens)
    for name, template in route.request_templates:
        yield (
            name,
            _filled(template, principal, lambda: signer.sign(principal, issuer, route.host), held)
            if principal
            else None,
        )


def _filled(
    template: Template, principal: Principal, assertion: Callable[[], str], tokens: Mapping[Variable, str]
) -> str | None:
    """The value of a template, or ``None`` when one of its facts is not known."""
    filled = []
    for part in template:
        match part.variable:
            case None:
                value: str | None = part.text
            case Variable.ASSERTION:
                value = assertion()
            case Variable.ACCESS_TOKEN | Variable.ID_TOKEN:
                value = _token_text(tokens.get(part.variable))
            case Variable.CLAIM:
                value = _claim(principal, part.text)
            case _:
                value = _fact(principal, part.variable)
        if value is None:
            return None
        filled.append(value)
    text = "".join(filled).strip(" \t")
    return text if text and len(text) <= VALUE_LIMIT else None


def _token_text(token: str | None) -> str | None:
    """A token as it is: encoded it would be another one, so what no header can carry is not sent."""
    return token if token is not None and all("!" <= character <= "~" for character in token) else None


def _claim(principal: Principal, path: str) -> str | None:
    """A claim as text: its values joined by commas, each percent-encoded where it must be."""
    found = claim_values(principal.facts.claims, path)
    if not isinstance(found, list):
        return None
    values = [header_text(value, extra=",") for value in found]
    known = [value for value in values if value]
    # Half a list would say something else than the whole.
    return ",".join(known) if known and len(known) == len(values) else None


def _fact(principal: Principal | None, fact: str) -> str | None:
    if principal is None:
        return None
    match fact:
        case "user":
            value: str | None = principal.user.id
        case "email":
            value = principal.facts.email
        case "name":
            value = principal.user.name
        case "groups":
            groups = principal.facts.groups
            if groups is None:
                return None
            # Cut short, a list of groups would say something else than it means; an upstream must not get half of it.
            parts = [header_text(group, extra=",") for group in sorted(groups)]
            joined = ",".join(part for part in parts if part is not None)
            return joined if joined and None not in parts and len(joined) <= VALUE_LIMIT else None
        case "subject":
            value = principal.user.subject
        case "session":
            value = principal.session.id
        case _:
            value = None
    return header_text(value) if value else None


def header_text(value: str, extra: str = "") -> str | None:
    """``value`` as a header may carry it: what is not printable ASCII, and ``%`` itself, percent-encoded as UTF-8.

    Whoever reads it decodes it; nobody can smuggle a line break, or a second value, through a display name.
    """
    unsafe = set("%" + extra)
    if all(" " <= character <= "~" and character not in unsafe for character in value) and value == value.strip():
        return value if len(value) <= VALUE_LIMIT else None
    safe = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in unsafe) + " "
    encoded = urllib.parse.quote(value.strip(), safe=safe)
    return encoded if len(encoded) <= VALUE_LIMIT else None
