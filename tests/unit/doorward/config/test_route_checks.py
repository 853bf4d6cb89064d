from pathlib import Path

import pytest

from doorward.config.load import load
from doorward.config.references import no_secret

HEAD = """\
version: 1
authenticate_url: https://sign-in.example.com
identity_providers:
  - {id: corp, issuer: https://login.example.com, client_id: d, client_secret: env:X, email_domains: [example.com]}
routes:
"""
PUBLIC = "[{allow: {or: [accept: 1]}}]"
STAFF = "[{allow: {or: [groups: staff]}}]"


def route(name: str, policy: str = STAFF, host: str = "a.example.com", **match: str) -> str:
    extra = "".join(f", {key}: {value}" for key, value in match.items())
    return f"  - {{name: {name}, from: https://{host}, to: http://10.0.0.1{extra}, policy: {policy}}}\n"


def warnings_of(folder: Path, *routes: str) -> list[str]:
    path = folder / "doorward.yaml"
    path.write_text(HEAD + "".join(routes))
    loaded = load(path, secrets=no_secret)
    assert loaded.settings is not None
    return [problem.render().replace(f"{folder}/", "") for problem in loaded.problems]


def test_a_route_that_an_earlier_one_hides_is_warned_of(tmp_path: Path):
    (found,) = warnings_of(tmp_path, route("all"), route("admin", prefix="/admin"))
    assert "warning: no request reaches `admin`: `all` takes all of them before it" in found
    assert found.startswith("doorward.yaml:7:")


@pytest.mark.parametrize(
    ("first", "second", "hidden"),
    [
        ({"prefix": "/a"}, {"prefix": "/a/b"}, True),
        ({"prefix": "/a"}, {"path": "/a"}, True),
        ({"prefix": "/a"}, {"path": "/a/b"}, True),
        ({"prefix": "/a"}, {"prefix": "/ab"}, False),
        ({"path": "/a"}, {"prefix": "/a"}, False),
        ({"path": "/a"}, {"path": "/b"}, False),
        ({"prefix": "/a/b"}, {"prefix": "/a"}, False),
    ],
)
def test_only_what_is_hidden_as_a_whole_counts(tmp_path: Path, first, second, hidden):
    found = warnings_of(tmp_path, route("x", **first), route("y", **second))
    assert any("no request reaches `y`" in text for text in found) is hidden


def test_other_hosts_hide_nothing(tmp_path: Path):
    assert warnings_of(tmp_path, route("x"), route("y", host="b.example.com", prefix="/a")) == []


def test_a_public_route_beside_a_private_one_is_warned_of(tmp_path: Path):
    """One origin: a script of the public part speaks with the rights of whoever visits it."""
    (found,) = warnings_of(tmp_path, route("docs", PUBLIC, prefix="/docs"), route("app"))
    assert "warning: `docs` is open to everyone, and `app` on the same host is not" in found
    assert "give it a host of its own" in found
    assert warnings_of(tmp_path, route("docs", PUBLIC, prefix="/docs"), route("app", PUBLIC)) == []
    assert warnings_of(tmp_path, route("docs", PUBLIC, host="docs.example.com"), route("app")) == []
    partly = "[{allow: {and: [{accept: 1}, {http_method: GET}]}}]"
    assert len(warnings_of(tmp_path, route("docs", partly, prefix="/docs"), route("app"))) == 1


def test_an_address_that_nobody_vouches_for_is_warned_of(tmp_path: Path):
    (found,) = warnings_of(tmp_path, route("x", "[{allow: {or: [email: a@exampel.com]}}]"))
    assert "no identity provider vouches for addresses at `exampel.com`" in found
    assert "did you mean `example.com`?" in found


def test_a_route_that_nobody_can_reach_is_warned_of(tmp_path: Path):
    (found,) = warnings_of(tmp_path, route("x", "[{deny: {or: [accept: 1]}}]"))
    assert "nobody is let in: this rule denies everyone" in found


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("TRACE", "`TRACE` is never passed on"),
        ("CONNECT", "`CONNECT` is never passed on"),
        ("GET", "`GET` counts already"),
        ("get", "`get` is another method than `GET`"),
        ("tRACE", "`tRACE` is another method than `TRACE`"),
        ("'PROP FIND'", "`PROP FIND` is no method"),
        ("''", "`` is no method"),
        ('"a\\r\\nb"', "is no method"),
        ("X" * 65, "is no method"),
        ("LOCK, LOCK", "`LOCK` counts already"),
    ],
)
def test_s22_methods_that_no_route_can_list(tmp_path: Path, method: str, said: str):
    found = warnings_of(tmp_path, route("x", extra_methods=f"[{method}]"))
    assert any(said in text for text in found), found


def test_a_route_lists_further_methods_and_a_tunnel_none(tmp_path: Path):
    assert warnings_of(tmp_path, route("x", extra_methods="[PROPFIND, M-SEARCH]")) == []
    tunnel = (
        "  - {name: t, from: 'tcp+https://t.example.com:22', to: 'tcp://10.0.0.1:22', extra_methods: [LOCK], policy: "
        + STAFF
        + "}\n"
    )
    assert any("a tunnel is opened by `CONNECT` alone" in text for text in warnings_of(tmp_path, tunnel))
