"""Criteria about what somebody holds: ``client_certificate``, ``invalid_client_certificate``, ``device`` and ``grant``."""

import base64
import binascii
import math
import re

from doorward.policy.criteria.families import absent_truth, as_written, plain_key, string_key, strings_key
from doorward.policy.criteria.matching import (
    fold,
    match_string,
    match_strings,
    string_test,
    strings_test,
    truth_of,
)
from doorward.policy.criteria.port import Criterion, Fact, Finding, Key, Kind, Operand, Parameter, Several, Test
from doorward.policy.facts import ClientCertificateFacts, DeviceFacts, Facts, GrantFacts
from doorward.policy.nodes import Comparison, Term
from doorward.policy.truth import Truth

_FINGERPRINT = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
_NAMES = ("san_dns", "san_email", "san_uri")


# client_certificate


def _fingerprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if not _FINGERPRINT.match(digits):
        raise ValueError("expected the SHA-256 fingerprint of a certificate: 64 hexadecimal digits, colons or not")
    return digits


def _spki_hash(text: str) -> str:
    try:
        size = len(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if size != 32:
        raise ValueError("expected the SHA-256 hash of a public key in base64: 44 characters")
    return text


def _is_valid(certificate: ClientCertificateFacts, now: float) -> bool:
    return certificate.not_before_at <= now <= certificate.not_after_at


def _names(certificate: ClientCertificateFacts, field: str) -> tuple[str, ...]:
    """Alternative names of one kind; host names and addresses do not depend on case."""
    match field:
        case "san_dns":
            return tuple(map(fold, certificate.san_dns))
        case "san_email":
            return tuple(map(fold, certificate.san_email))
        case _:
            return certificate.san_uri


def _certificate(term: Term, facts: Facts) -> Finding:
    certificate = facts.request.client_certificate
    if certificate is None:
        return Finding(Truth.UNKNOWN if facts.request.is_certificate_unknown else absent_truth(term), None)
    holds = _is_valid(certificate, facts.now)
    for field, value in (("fingerprint", certificate.fingerprint), ("spki_hash", certificate.spki_hash)):
        wanted = term.operands(field)
        holds = holds and (not wanted or value in wanted)
    for field in _NAMES:
        matchers = term.under(field)
        names = _names(certificate, field)
        holds = holds and (not matchers or any(match_string(matchers, name) for name in names))
    saw = {"fingerprint": certificate.fingerprint, **{field: list(_names(certificate, field)) for field in _NAMES}}
    return Finding(Truth.of(holds), saw)


def _prepare_certificate(term: Term) -> Test:
    absent = absent_truth(term)
    fingerprints, keys = frozenset(term.operands("fingerprint")), frozenset(term.operands("spki_hash"))
    tests = tuple((field, string_test(term.under(field))) for field in _NAMES if term.under(field))

    def run(facts: Facts) -> Truth:
        certificate = facts.request.client_certificate
        if certificate is None:
            return Truth.UNKNOWN if facts.request.is_certificate_unknown else absent
        holds = (
            certificate.not_before_at <= facts.now <= certificate.not_after_at
            and (not fingerprints or certificate.fingerprint in fingerprints)
            and (not keys or certificate.spki_hash in keys)
            and all(any(test(name) for name in _names(certificate, field)) for field, test in tests)
        )
        return Truth.TRUE if holds else Truth.FALSE

    return run


def _next_validity(_: Term, facts: Facts) -> float | None:
    certificate = facts.request.client_certificate
    if certificate is None:
        return None
    # The last moment is still valid, so the next that clocks can tell apart is the first that is not.
    bounds = (certificate.not_before_at, certificate.not_after_at, math.nextafter(certificate.not_after_at, math.inf))
    return min((moment for moment in bounds if moment > facts.now), default=None)


def _no_certificate(_: Term, facts: Facts) -> Finding:
    if facts.request.is_certificate_unknown:
        return Finding(Truth.UNKNOWN, None)
    certificate = facts.request.client_certificate
    missing = certificate is None or not _is_valid(certificate, facts.now)
    return Finding(Truth.of(missing), None if certificate is None else certificate.fingerprint)


def _prepare_no_certificate(term: Term) -> Test:
    return lambda facts: _no_certificate(term, facts).truth


# device


def _has_device(term: Term, device: DeviceFacts) -> bool:
    ids, types, approved = term.operands(""), term.operands("type"), term.operands("approved")
    return (
        (not ids or device.id in ids)
        and ("enclave_only" not in types or device.type == "enclave_only")
        and (not approved or device.approved is (approved[0] == "true"))
    )


def _device(term: Term, facts: Facts) -> Finding:
    if facts.principal is None:
        return Finding(Truth.ANONYMOUS, None)
    devices = facts.principal.devices
    if devices is None:
        return Finding(Truth.UNKNOWN, None)
    return Finding(Truth.of(any(_has_device(term, device) for device in devices)), [device.id for device in devices])


def _prepare_device(term: Term) -> Test:
    ids, approved = frozenset(term.operands("")), term.operands("approved")
    enclave_only = "enclave_only" in term.operands("type")
    wanted = approved[0] == "true" if approved else None

    def run(facts: Facts) -> Truth:
        principal = facts.principal
        if principal is None:
            return Truth.ANONYMOUS
        if principal.devices is None:
            return Truth.UNKNOWN
        for device in principal.devices:
            if (
                (not ids or device.id in ids)
                and (not enclave_only or device.type == "enclave_only")
                and (wanted is None or device.approved is wanted)
            ):
                return Truth.TRUE
        return Truth.FALSE

    return run


# grant


def _is_live(grant: GrantFacts, facts: Facts) -> bool:
    return facts.request.route in grant.routes and grant.starts_at <= facts.now < grant.ends_at


def _grant(term: Term, facts: Facts) -> Finding:
    if facts.principal is None:
        return Finding(Truth.ANONYMOUS, None)
    grants = facts.principal.grants
    if grants is None:
        return Finding(Truth.UNKNOWN, None)
    live = {grant.name for grant in grants if _is_live(grant, facts)}
    holds = truth_of(match_strings(term.matchers, live)) if term.matchers else Truth.of(bool(live))
    return Finding(holds, sorted(live))


def _prepare_grant(term: Term) -> Test:
    test = strings_test(term.matchers) if term.matchers else bool

    def run(facts: Facts) -> Truth:
        principal = facts.principal
        if principal is None:
            return Truth.ANONYMOUS
        if principal.grants is None:
            return Truth.UNKNOWN
        return Truth.TRUE if test({grant.name for grant in principal.grants if _is_live(grant, facts)}) else Truth.FALSE

    return run


def _next_grant(_: Term, facts: Facts) -> float | None:
    if facts.principal is None or facts.principal.grants is None:
        return None
    bounds = (moment for grant in facts.principal.grants for moment in (grant.starts_at, grant.ends_at))
    return min((moment for moment in bounds if moment > facts.now), default=None)


_CERTIFICATE = frozenset({Fact.CLIENT_CERTIFICATE, Fact.TIME})

CLIENT_CERTIFICATE = Criterion(
    name="client_certificate",
    operand=Operand.KEYS,
    summary="Compares the client's certificate; unknown when there is none, and where nobody looks or is believed about it.",
    detail=(
        "Only a certificate that the listener's authorities vouch for counts, and only within its dates. All keys must "
        "match; of a list, one. `true` holds for any such certificate."
    ),
    example='client_certificate: {san_email: {ends_with: "@example.com"}}',
    cases="""
policy:
  - allow: {and: [{client_certificate: {san_dns: {ends_with: .devices.example.com}}}]}
cases:
  - request:
      client_certificate: &laptop
        fingerprint: 17859273e8a980631d367b2d5a6a6635412b0f22835f69e47b3f65624546a704
        spki_hash: FsDbM0rUYIiL3V339eIKqiz6HPSB+Pz2WeAWhqlqh8U=
        san_dns: [Laptop7.devices.example.com]
        not_before_at: 2029-01-01T00:00:00Z
        not_after_at: 2031-01-01T00:00:00Z
    time: 2030-06-01T00:00:00Z
    effect: allow
    reasons: [client-certificate-ok]
  - {request: {client_certificate: *laptop}, time: 2031-01-01T00:00:01Z, effect: deny, reasons: [client-certificate-unauthorized]}
  - {effect: deny, reasons: [client-certificate-required]}
""",
    reads=_CERTIFICATE,
    success="client-certificate-ok",
    failure="client-certificate-unauthorized",
    unknown="client-certificate-required",
    keys={
        "fingerprint": plain_key(
            Parameter(canonical=_fingerprint, several=Several.SOME), several=True, summary="SHA-256 of the certificate."
        ),
        "spki_hash": plain_key(
            Parameter(canonical=_spki_hash, several=Several.SOME),
            several=True,
            summary="SHA-256 of its public key, base64.",
        ),
        "san_dns": string_key(whole=fold, piece=fold, summary="Host names; one must match."),
        "san_email": string_key(whole=fold, piece=fold, summary="E-mail addresses; one must match."),
        "san_uri": string_key(summary="URIs; one must match."),
    },
    takes_true=True,
    may_be_absent=True,
    in_ppl=True,
    prepare=_prepare_certificate,
    find=_certificate,
    next_change=_next_validity,
)
INVALID_CLIENT_CERTIFICATE = Criterion(
    name="invalid_client_certificate",
    operand=Operand.NOTHING,
    summary="Holds when the client has no certificate that counts; unknown where nobody looks or is believed about it.",
    example="invalid_client_certificate: true",
    cases="""
policy:
  - deny: {or: [{invalid_client_certificate: true}]}
  - allow: {or: [{accept: true}]}
cases:
  - {effect: deny, reasons: [client-certificate-required], rule: deny-1}
""",
    reads=_CERTIFICATE,
    success="client-certificate-required",
    failure="valid-client-certificate",
    unknown="client-certificate-unknown",
    in_ppl=True,
    prepare=_prepare_no_certificate,
    find=_no_certificate,
    next_change=_next_validity,
)
DEVICE = Criterion(
    name="device",
    operand=Operand.KEYS,
    summary="Holds when a device that was proven in this session matches; unknown when devices are not known.",
    detail="`type: enclave_only` demands a platform authenticator, `any` takes every one. `true` holds for any device.",
    example="device: {type: enclave_only, approved: true}",
    cases="""
policy:
  - allow: {and: [{device: {type: enclave_only, approved: true}}]}
cases:
  - {principal: {devices: [{id: d1, type: enclave_only, approved: true}]}, effect: allow, reasons: [device-ok]}
  - {principal: {devices: [{id: d1, type: any, approved: true}]}, effect: deny, reasons: [device-unauthorized]}
  - {principal: {devices: []}, effect: deny, reasons: [device-unauthorized]}
  - {principal: {}, effect: deny, reasons: [device-unknown]}
""",
    reads=frozenset({Fact.PRINCIPAL, Fact.DEVICES}),
    success="device-ok",
    failure="device-unauthorized",
    unknown="device-unknown",
    keys={
        "": Key(
            comparisons={Comparison.IS: Parameter(canonical=as_written, several=Several.SOME)}, default=Comparison.IS
        ),
        "type": plain_key(
            Parameter(canonical=as_written, words=("any", "enclave_only")), summary="Kind of authenticator."
        ),
        "approved": plain_key(
            Parameter(canonical=as_written, kind=Kind.BOOLEAN, words=("true", "false")),
            summary="Whether an administrator approved it.",
        ),
    },
    takes_true=True,
    in_ppl=True,
    prepare=_prepare_device,
    find=_device,
)
GRANT = Criterion(
    name="grant",
    operand=Operand.KEYS,
    summary="Holds while somebody has a live just-in-time grant for this route; unknown when grants are not known.",
    detail="`true` holds for any grant, a name for grants of that kind. A grant satisfies nothing else.",
    example="grant: on-call",
    cases="""
policy:
  - allow: {and: [{authenticated_user: true}, {grant: on-call}]}
cases:
  - principal: &somebody
      grants: [{name: on-call, routes: [billing], starts_at: 2030-01-01T10:00:00Z, ends_at: 2030-01-01T11:00:00Z}]
    request: {route: billing}
    time: 2030-01-01T10:59:59Z
    effect: allow
    reasons: [grant-ok, user-ok]
  - {principal: *somebody, request: {route: billing}, time: 2030-01-01T11:00:00Z, effect: deny, reasons: [grant-missing]}
  - {principal: *somebody, request: {route: payroll}, time: 2030-01-01T10:30:00Z, effect: deny, reasons: [grant-missing]}
  - {principal: {}, effect: deny, reasons: [grant-unknown]}
""",
    reads=frozenset({Fact.PRINCIPAL, Fact.GRANTS, Fact.ROUTE, Fact.TIME}),
    success="grant-ok",
    failure="grant-missing",
    unknown="grant-unknown",
    keys={"": strings_key()},
    takes_true=True,
    prepare=_prepare_grant,
    find=_grant,
    next_change=_next_grant,
)
