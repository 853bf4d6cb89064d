"""Header values with facts in them: ``Bearer ${assertion}``, ``${claim/department}``, ``${client_certificate/subject}``.

A value is text with variables; ``$${`` stands for ``${`` itself. What stands in a variable is known only when a request
is decided, so authorize fills it in, and a value that lacks one of its facts is not sent at all.
"""

import re
from dataclasses import dataclass
from enum import StrEnum


class Variable(StrEnum):
    """What can stand between ``${`` and ``}``."""

    ASSERTION = "assertion"
    """The signed statement about who asks."""
    USER = "user"
    EMAIL = "email"
    NAME = "name"
    GROUPS = "groups"
    SUBJECT = "subject"
    SESSION = "session"
    ACCESS_TOKEN = "access_token"  # noqa: S105  # a variable's name
    """The identity provider's access token of the session."""
    ID_TOKEN = "id_token"  # noqa: S105  # a variable's name
    """The newest ID token of the session."""
    CLAIM = "claim"
    """With a path: ``claim/department``."""
    CLIENT_CERTIFICATE = "client_certificate"
    """With the name of a fact: ``client_certificate/fingerprint``."""


class CertificateField(StrEnum):
    """What of a client's certificate a header can hold; called as policy calls it."""

    FINGERPRINT = "fingerprint"
    SPKI_HASH = "spki_hash"
    SUBJECT = "subject"
    """The name of its holder as RFC 4514 writes it."""
    SAN_DNS = "san_dns"
    SAN_EMAIL = "san_email"
    SAN_URI = "san_uri"
    PEM = "pem"
    """All of it: PEM, percent-encoded."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a value: text as it is, or a variable with its path."""

    variable: Variable | None
    text: str
    """The text; of a claim its path, of a certificate the field's name."""


Template = tuple[Part, ...]

PROVIDER_TOKENS = frozenset({Variable.ACCESS_TOKEN, Variable.ID_TOKEN})
"""What is the identity provider's and leaves authenticate only where a route asks for it."""

_WITH_PATH = frozenset({Variable.CLAIM, Variable.CLIENT_CERTIFICATE})

_PIECE = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")


def has_variables(text: str) -> bool:
    """Whether ``text`` is more than itself."""
    return "${" in text


def parse_template(text: str) -> Template:
    """The parts of a value.

    Raises:
        ValueError: a variable is unknown or not closed; the message says which.
    """
    parts: list[Part] = []
    position = 0
    plain = ""
    for match in _PIECE.finditer(text):
        plain += text[position : match.start()]
        position = match.end()
        if match[0] == "$${":
            plain += "${"
            continue
        if match[1] is None:
            raise ValueError("`${` is not closed")
        if plain:
            parts.append(Part(None, plain))
            plain = ""
        parts.append(_variable(match[1]))
    plain += text[position:]
    if plain:
        parts.append(Part(None, plain))
    return tuple(parts)


def reads_certificate(template: Template) -> bool:
    """Whether some part is known only of a client with a certificate."""
    return any(part.variable is Variable.CLIENT_CERTIFICATE for part in template)


def _variable(name: str) -> Part:
    kind, slash, path = name.partition("/")
    if kind == Variable.CLAIM and path and not path.startswith("/") and not path.endswith("/"):
        return Part(Variable.CLAIM, path)
    if kind == Variable.CLIENT_CERTIFICATE and path in set(CertificateField):
        return Part(Variable.CLIENT_CERTIFICATE, path)
    if kind in set(Variable) - _WITH_PATH and not slash:
        return Part(Variable(kind), "")
    known = ", ".join(f"`${{{item}}}`" for item in Variable if item not in _WITH_PATH)
    fields = ", ".join(f"`{item}`" for item in CertificateField)
    raise ValueError(
        f"`${{{name}}}` is no variable: there are {known}, `${{claim/PATH}}`, and `${{client_certificate/FIELD}}` with {fields}"
    )
