"""Other gateways as written: what they may ask, and what is wrong with it, at its place."""

from pathlib import Path

import pytest
from tests.unit.authorize.builders import CONFIG

from doorward.config.load import load
from doorward.config.settings import Loaded

EDGE = "gateways:\n  - name: edge\n    routes: [app, admin]\n"


def loaded(folder: Path, gateways: str) -> Loaded:
    (folder / "secret").write_text("s")
    path = folder / "doorward.yaml"
    path.write_text(CONFIG + gateways)
    return load(path)


def test_a_gateway_is_believed_about_nothing_unless_it_is_written(tmp_path: Path):
    settings = loaded(tmp_path, EDGE).settings
    assert settings is not None
    edge = settings.gateway("edge")
    assert edge is not None
    assert edge.routes == {"app", "admin"}
    assert (edge.trust_client_address, edge.trust_client_certificate, edge.may_explain) == (False, False, False)
    assert settings.gateway("gateway/edge") is None


def test_what_is_written_counts(tmp_path: Path):
    text = EDGE + "    trust_client_address: true\n    trust_client_certificate: true\n    may_explain: true\n"
    settings = loaded(tmp_path, text).settings
    assert settings is not None
    (edge,) = settings.gateways
    assert (edge.trust_client_address, edge.trust_client_certificate, edge.may_explain) == (True, True, True)


def test_a_route_that_is_none_is_a_warning_at_its_place_and_opens_nothing(tmp_path: Path):
    found = loaded(tmp_path, EDGE.replace("admin]", "amdin]"))
    assert found.settings is not None
    assert found.settings.gateways[0].routes == {"app"}
    (problem,) = found.problems
    line = CONFIG.count("\n") + 3
    assert problem.severity == "warning"
    assert f"doorward.yaml:{line}:19: warning: there is no route `amdin`: `edge` can ask nothing" in problem.render()
    assert "admin" in problem.render().partition("nothing about it")[2]


def test_a_name_that_several_routes_have_opens_none_of_them(tmp_path: Path):
    """Routes without a name of their own are called by what they match, a path and a prefix alike."""
    more = "".join(
        f"  - {{from: 'https://twice.example.com', {match}: /x, to: 'http://127.0.0.1:9000', policy: [{{allow: {{and: [accept: true]}}}}]}}\n"
        for match in ("path", "prefix")
    )
    (tmp_path / "secret").write_text("s")
    path = tmp_path / "doorward.yaml"
    head, routes, tail = CONFIG.partition("routes:\n")
    path.write_text(head + routes + more + tail + EDGE.replace("admin]", "twice.example.com/x]"))
    found = load(path)
    assert found.settings is not None
    twice = [item.route for item in found.settings.routes if item.route.host == "twice.example.com"]
    assert {route.name for route in twice} == {"twice.example.com/x"}
    assert len({route.id for route in twice}) == 2
    assert found.settings.gateways[0].routes == {"app"}
    assert any("2 routes are called `twice.example.com/x`" in problem.render() for problem in found.problems)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (EDGE + "  - {name: edge, routes: [app]}\n", 4, "two gateways are called `edge`"),
        (EDGE.replace("edge", "Edge"), 2, "name"),
        (EDGE.replace("edge", "../edge"), 2, "name"),
        (EDGE.replace("[app, admin]", "[]"), 3, "routes"),
        (EDGE.replace("[app, admin]", "app"), 3, "routes"),
        ("gateways:\n  - name: edge\n", 2, "routes"),
        (EDGE + "    trust_client_adress: true\n", 4, "trust_client_address"),
        (EDGE + "    may_explain: perhaps\n", 4, "may_explain"),
    ],
)
def test_what_cannot_be_meant_is_an_error_at_its_place(tmp_path: Path, text: str, line: int, said: str):
    found = loaded(tmp_path, text)
    assert found.settings is None
    (problem,) = found.problems
    assert problem.severity == "error"
    assert f"doorward.yaml:{CONFIG.count(chr(10)) + line}:" in problem.render()
    assert said in problem.render()
