"""Headers that tell the upstream who asks."""

import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence

from doorward.policy.criteria.membership import claim_values
from doorward.route.header_template import CertificateField, Template, Variable
from doorward.route.internal import ASSERTION_HEADER
from doorward.route.route import Route
from doorward_authorize.assertion import AssertionSigner
from doorward_authorize.certificate import VerifiedCertificate
from doorward_authorize.principal import Principal
from doorward_authorize.upstream_tokens import ProviderTokens

VALUE_LIMIT = 8192


def identity_headers(
    route: Route,
    principal: Principal | None,
    signer: AssertionSigner,
    issuer: str,
    tokens: ProviderTokens = (),
    certificate: VerifiedCertificate | None = None,
) -> Iterator[tuple[str, str | None]]:
    """Name and value of each; ``None`` means that the header must not reach the upstream.

    ``certificate`` is the one that counts for this request.
    """
    if route.pass_assertion:
        yield ASSERTION_HEADER, signer.sign(principal, issuer, route.host) if principal is not None else None
    for name, fact in route.claim_headers:
        yield name, _fact(principal, fact)
    held = dict(tokens)

    def assertion() -> str | None:
        return signer.sign(principal, issuer, route.host) if principal is not None else None

    for name, template in route.request_templates:
        yield name, _filled(template, principal, assertion, held, certificate)


def _filled(
    template: Template,
    principal: Principal | None,
    assertion: Callable[[], str | None],
    tokens: Mapping[Variable, str],
    certificate: VerifiedCertificate | None,
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
                value = _as_it_is(tokens.get(part.variable))
            case Variable.CLAIM:
                value = _claim(principal, part.text)
            case Variable.CLIENT_CERTIFICATE:
                value = _of_certificate(certificate, CertificateField(part.text))
            case _:
                value = _fact(principal, part.variable)
        if value is None:
            return None
        filled.append(value)
    text = "".join(filled).strip(" \t")
    return text if text and len(text) <= VALUE_LIMIT else None


def _as_it_is(text: str | None) -> str | None:
    """A token, or what is encoded already: encoded it would be another one, so what no header can carry is not sent."""
    return text if text and all("!" <= character <= "~" for character in text) else None


def _claim(principal: Principal | None, path: str) -> str | None:
    claims = principal.facts.claims if principal is not None else None
    found = None if claims is None else claim_values(claims, path)
    return _joined(found) if isinstance(found, list) else None


def _of_certificate(certificate: VerifiedCertificate | None, wanted: CertificateField) -> str | None:
    if certificate is None:
        return None
    facts = certificate.facts
    match wanted:
        case CertificateField.FINGERPRINT:
            return facts.fingerprint
        case CertificateField.SPKI_HASH:
            return facts.spki_hash
        case CertificateField.SUBJECT:
            return header_text(certificate.subject) if certificate.subject else None
        case CertificateField.SAN_DNS:
            return _joined(facts.san_dns)
        case CertificateField.SAN_EMAIL:
            return _joined(facts.san_email)
        case CertificateField.SAN_URI:
            return _joined(facts.san_uri)
        case CertificateField.PEM:
            return _as_it_is(certificate.pem)


def _joined(found: Sequence[str]) -> str | None:
    """Values joined by commas, each percent-encoded where it must be."""
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
