"""Who somebody is, taken from what nobody verified."""

from doorward.policy.nodes import Policy, Term, terms
from doorward.source import Problems

_ADDRESS_CLAIMS = frozenset({"email", "emails", "mail", "preferred_username", "upn", "unique_name", "verified_email"})
"""Claims that hold an address, or look like one; the person, or an administrator of another tenant, may choose it."""
_IDENTITY_HEADERS = frozenset(
    {"remote-user", "x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "x-remote-user", "authorization"}
)
_IDENTITY_PREFIXES = ("x-auth-request-", "x-goog-authenticated-", "x-ms-client-principal", "x-pomerium-", "cf-access-")


def check_identity(policy: Policy, problems: Problems) -> None:
    """Record criteria of ``policy`` that believe what anybody could have written."""
    for rule in policy.rules:
        for term in terms(rule.group):
            _check_claim(term, problems)
            _check_header(term, problems)


def _check_claim(term: Term, problems: Problems) -> None:
    if term.criterion != "claim":
        return
    last = term.argument.replace(".", "/").rpartition("/")[2].lower()
    if last in _ADDRESS_CLAIMS:
        problems.warning(
            term.position,
            f"`{term.label}` compares an address without asking whether it was verified",
            "use `email` or `domain`",
        )


def _check_header(term: Term, problems: Problems) -> None:
    if term.criterion != "http_header":
        return
    name = term.argument.lower()
    if name in _IDENTITY_HEADERS or name.startswith(_IDENTITY_PREFIXES):
        problems.warning(
            term.position,
            f"`{name}` is written by the client, who may claim to be anybody",
            "use a criterion about people",
        )
