"""The file format's own description: a JSON Schema for editors and the reference page, both from ``document``."""

import json
from typing import Any

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from doorward.config.directories import (
    DOCUMENTS,
    EntraDocument,
    GithubDocument,
    GoogleDocument,
    KeycloakDocument,
    LdapDocument,
    OktaDocument,
    ScimDocument,
)
from doorward.config.document import (
    AuthorizeDocument,
    ClaimsDocument,
    ClientCertificatesDocument,
    DatabrokerDocument,
    DecisionLogDocument,
    Document,
    EnvoyDocument,
    GatewayDocument,
    GrantDocument,
    IdentityProviderDocument,
    PlanesDocument,
    RouteDocument,
    ScimListenerDocument,
    SessionDocument,
    TlsDocument,
    TokenIssuerDocument,
    TracingDocument,
)
from doorward.policy.schema import policy_definitions

_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("The file", Document),
    ("`tls`", TlsDocument),
    ("`client_certificates`", ClientCertificatesDocument),
    ("`databroker`", DatabrokerDocument),
    ("`planes`", PlanesDocument),
    ("`identity_providers[]`", IdentityProviderDocument),
    ("`grants[]`", GrantDocument),
    ("`gateways[]`", GatewayDocument),
    ("`identity_providers[].claims`", ClaimsDocument),
    ("`token_issuers[]`", TokenIssuerDocument),
    ("`session`", SessionDocument),
    ("`scim`", ScimListenerDocument),
    ("`directories[]` of type `scim`", ScimDocument),
    ("`directories[]` of type `ldap`", LdapDocument),
    ("`directories[]` of type `keycloak`", KeycloakDocument),
    ("`directories[]` of type `github`", GithubDocument),
    ("`directories[]` of type `okta`", OktaDocument),
    ("`directories[]` of type `entra`", EntraDocument),
    ("`directories[]` of type `google`", GoogleDocument),
    ("`authorize`", AuthorizeDocument),
    ("`envoy`", EnvoyDocument),
    ("`tracing`", TracingDocument),
    ("`decision_log`", DecisionLogDocument),
    ("`routes[]`", RouteDocument),
)

_INTRODUCTION = """\
# Configuration

One YAML file, format version 1. Scalars follow YAML 1.2 (`no` is a word, `012` is twelve); unknown keys, duplicate
keys and wrong types are errors with file, line and column. `doorward check FILE` reports all of them at once.

Durations are written `250ms`, `30s`, `1h30m`. Files are named relative to the configuration's folder. Secrets are
never written into the file: `env:NAME` reads an environment variable, `file:PATH` a file.

An error inside one route breaks that route alone: it keeps its place and answers 503 while the others go on. Any other
error keeps the whole file from being used; a running deployment then stays with its last good configuration.

`doorward schema` prints all of this, policies included, as a JSON Schema; an editor with a YAML language server completes and
marks by it.

The configuration may also be a folder: `doorward.yaml` in it, and further routes in `routes.d/*.yaml`, in the order of the files'
names; each is a list of routes, or `routes:` with one. Everything is named relative to the folder. Put a finished file into its place by
renaming it: one that is written slowly may be read while half of it is there, and half a list is a list.

Within a host the first route that matches counts. Two routes with exactly the same host and match are both reported, and requests
for them are answered 503, wherever they stand: which of the two policies was meant is nothing to guess.

This page is written by `doorward.config.schema` from the models that read the file.
"""


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the file, with the routes spelled out."""
    schema = Document.model_json_schema(by_alias=True)
    routes = RouteDocument.model_json_schema(by_alias=True)
    schema.setdefault("$defs", {}).update(routes.pop("$defs", {}))
    schema["$defs"]["RouteDocument"] = routes
    schema["$defs"].update(policy_definitions())
    routes["properties"]["policy"] = {"$ref": "#/$defs/Policy"}
    schema["properties"]["policies"] = {"type": "object", "additionalProperties": {"$ref": "#/$defs/Policy"}}
    schema["properties"]["sets"] = {"$ref": "#/$defs/PolicySets"}
    for model in DOCUMENTS.values():
        schema["$defs"][model.__name__] = model.model_json_schema(by_alias=True)
    schema["properties"]["directories"] = {
        "type": "array",
        "items": {"oneOf": [{"$ref": f"#/$defs/{model.__name__}"} for model in DOCUMENTS.values()]},
        "description": Document.model_fields["directories"].description,
    }
    schema["properties"]["routes"] = {
        "type": "array",
        "items": {"$ref": "#/$defs/RouteDocument"},
        "description": Document.model_fields["routes"].description,
    }
    return schema


def reference_markdown() -> str:
    """The reference page: one table for each part of the file."""
    parts = [_INTRODUCTION]
    for title, model in _SECTIONS:
        summary = (model.__doc__ or "").strip().splitlines()[0]
        rows = [f"## {title}\n\n{summary}\n\n| key | default | meaning |\n|---|---|---|"]
        for name, field in model.model_fields.items():
            rows.append(f"| `{field.alias or name}` | {_default(field)} | {field.description} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "see below"
    if value is None or value in ([], {}):
        return "none"
    if field.annotation is float and any(isinstance(item, BeforeValidator) for item in field.metadata):
        return f"`{value:g}s`"
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`"


if __name__ == "__main__":
    print(reference_markdown(), end="")  # noqa: T201  # that is what it is for
