from dataclasses import fields, replace

import pytest

from doorward.route.header_template import parse_template
from doorward.route.internal import InternalRoute
from doorward.route.route import CertificateUse, Match, MatchKind, Route, Upstream, overlaps, unnamed_route_id

ROUTE = Route(
    id="verify",
    name="verify",
    host="verify.example.com",
    port=443,
    match=Match(kind=MatchKind.PREFIX, value="/"),
    upstreams=(Upstream(scheme="http", host="127.0.0.1", port=9000),),
)
REACH = {
    "host": "admin.example.com",
    "port": 8443,
    "match": Match(kind=MatchKind.PATH, value="/"),
    "upstreams": (Upstream(scheme="http", host="127.0.0.1", port=9001),),
    "yields_to": "0" * 32,
    "set_request_headers": (("x-a", "1"),),
    "request_templates": (("x-a", parse_template("${user}")),),
    "remove_request_headers": ("x-a",),
    "set_response_headers": (("x-a", "1"),),
    "preserve_host": True,
    "timeout_seconds": 31.0,
    "websocket": True,
    "continuous": True,
    "pass_assertion": False,
    "claim_headers": (("x-email", "email"),),
    "path_parameters": True,
    "tls_server_name": "inner.example.com",
    "tls_ca_pem": "PEM",
    "tls_skip_verify": True,
    "broken": "no upstream",
}
NOT_REACH = {
    "id": "r-1",
    "name": "other",
    "explanation": "ask the tools team",
    "sensitive": True,
    "extra_methods": ("PROPFIND",),
    "show_remedy": True,
    "idle_strict": True,
    "allowed_origins": ("https://app.example.com",),
    "client_certificate": CertificateUse.PRINCIPAL,
    "token_issuers": ("ci",),
    "pass_bearer": True,
    "kubernetes_token_file": "/etc/doorward/token",
}


@pytest.mark.parametrize("field", REACH)
def test_the_digest_changes_with_what_the_route_reaches(field):
    """A decision made for the old upstream must not open the new one."""
    assert replace(ROUTE, **{field: REACH[field]}).digest != ROUTE.digest


@pytest.mark.parametrize("field", NOT_REACH)
def test_the_digest_keeps_with_what_only_the_decision_reads(field):
    assert replace(ROUTE, **{field: NOT_REACH[field]}).digest == ROUTE.digest


def test_every_field_is_in_one_of_the_two_tables():
    """A new field must be put on one side knowingly."""
    assert {field.name for field in fields(Route)} == {*REACH, *NOT_REACH, "digest"}
    assert not REACH.keys() & NOT_REACH.keys()


def test_the_digest_is_the_same_in_every_process():
    assert ROUTE.digest == replace(ROUTE).digest
    assert len(ROUTE.digest) == 32
    assert set(ROUTE.digest) <= set("0123456789abcdef")


def test_the_digest_is_the_same_in_planes_of_another_version():
    """They run side by side, and a guarded stream goes on by the digest that it began with: of a field that is not used nothing is said."""
    assert ROUTE.digest == "4a4e58e3f71accac3f2a32f58f95f6e1"


@pytest.mark.parametrize(
    ("port", "authority"),
    [(443, "verify.example.com"), (8443, "verify.example.com:8443"), (80, "verify.example.com:80")],
)
def test_the_authority_is_what_browsers_write(port, authority):
    route = replace(ROUTE, port=port)

    assert route.authority == authority
    assert route.origin == f"https://{authority}"


def test_an_upstream_s_authority_brackets_ipv6():
    assert Upstream(scheme="http", host="::1", port=80).authority == "[::1]:80"
    assert Upstream(scheme="http", host="a.example", port=80).authority == "a.example:80"


def test_an_unnamed_route_is_named_by_its_match_alone():
    prefix = Match(kind=MatchKind.PREFIX, value="/a")
    ids = {
        unnamed_route_id("a.example", 443, prefix),
        unnamed_route_id("b.example", 443, prefix),
        unnamed_route_id("a.example", 8443, prefix),
        unnamed_route_id("a.example", 443, Match(kind=MatchKind.PATH, value="/a")),
        unnamed_route_id("a.example", 443, Match(kind=MatchKind.PREFIX, value="/b")),
    }

    assert len(ids) == 5
    assert unnamed_route_id("a.example", 443, prefix) in ids
    assert not any(name.startswith("@") for name in ids)


def test_internal_ids_cannot_be_an_operator_s():
    assert all(name.startswith("@") for name in InternalRoute)


@pytest.mark.parametrize(
    ("kind", "value", "path", "matched"),
    [
        (MatchKind.PREFIX, "/api", "/api", True),
        (MatchKind.PREFIX, "/api", "/api/x", True),
        (MatchKind.PREFIX, "/api", "/apix", False),
        (MatchKind.PREFIX, "/api", "/ap", False),
        (MatchKind.PREFIX, "/api", "/API", False),
        (MatchKind.PREFIX, "/", "/anything", True),
        (MatchKind.PATH, "/api", "/api", True),
        (MatchKind.PATH, "/api", "/api/", False),
        (MatchKind.PATH, "/api", "/api/x", False),
    ],
)
def test_a_prefix_matches_at_a_slash_and_a_path_exactly(kind, value, path, matched):
    assert overlaps(Match(kind=kind, value=value), path) is matched
