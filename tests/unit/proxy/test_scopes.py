"""Many hosts: each travels alone, is found by its own name only, and is built and looked at only when it has changed."""

import dataclasses

import pytest
from tests.support.envoy import route, settings_of
from tests.unit.proxy.examples import CERTIFIED, EXAMPLES, surroundings

from doorward.config.settings import Settings
from doorward.envoy_api.envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from doorward_proxy.gate import Gate, GateClosedError, admit
from doorward_proxy.resources import routes
from doorward_proxy.resources.build import SnapshotBuilder
from doorward_proxy.xds.snapshot import SCOPE_TYPE, Snapshot


@pytest.fixture(autouse=True)
def every_deployment_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "RDS_HOSTS", 0)


def built(settings: Settings, builder: SnapshotBuilder | None = None) -> Snapshot:
    return (builder or SnapshotBuilder(surroundings())).build(settings, CERTIFIED)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_passes_the_gate_as_scopes(name: str):
    snapshot = built(EXAMPLES[name])
    admit(snapshot)
    assert snapshot.routes == ()
    assert {scope.name for scope in snapshot.scopes} == set(EXAMPLES[name].hosts)


def test_one_changed_route_makes_one_new_resource():
    builder, gate = SnapshotBuilder(surroundings()), Gate()
    hosts = [route(f"h{number}.localhost") for number in range(50)]
    first = built(settings_of(*hosts), builder)
    gate.admit(first)
    hosts[7] = route("h7.localhost", set_response_headers=(("x-new", "yes"),))
    second = built(settings_of(*hosts, generation="g2"), builder)
    gate.admit(second)
    before, after = first.resources[SCOPE_TYPE], second.resources[SCOPE_TYPE]
    assert {name for name in after if after[name] is not before[name]} == {"h7.localhost"}
    third = built(settings_of(*hosts[1:], generation="g3"), builder)
    assert set(second.resources[SCOPE_TYPE]) - set(third.resources[SCOPE_TYPE]) == {"h0.localhost"}
    assert second.version not in {first.version, third.version}


def planted(change: str) -> Snapshot:
    good = built(settings_of(route("a.localhost"), route("b.localhost")))
    scopes = []
    for scope in good.scopes:
        copy = ScopedRouteConfiguration()
        copy.CopyFrom(scope)
        scopes.append(copy)
    match change:
        case "another key":
            scopes[0].key.fragments[0].string_key = "b.localhost"
        case "another host":
            scopes[0].route_configuration.virtual_hosts[0].CopyFrom(scopes[1].route_configuration.virtual_hosts[0])
        case "two hosts":
            scopes[0].route_configuration.virtual_hosts.append(scopes[1].route_configuration.virtual_hosts[0])
        case "on demand":
            scopes[0].on_demand = True
        case "unchecked":
            host = scopes[0].route_configuration.virtual_hosts[0]
            host.routes[0].typed_per_filter_config.clear()
    return dataclasses.replace(good, scopes=tuple(scopes))


@pytest.mark.parametrize("change", ["another key", "another host", "two hosts", "on demand", "unchecked"])
def test_what_is_not_exactly_its_own_host_is_refused(change: str):
    with pytest.raises(GateClosedError):
        admit(planted(change))


def test_the_gate_looks_again_at_what_it_refused():
    gate, bad = Gate(), planted("unchecked")
    for _ in range(2):
        with pytest.raises(GateClosedError):
            gate.admit(bad)
