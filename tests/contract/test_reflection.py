"""What describes itself is enough to ask: a client without our contracts, at every door where other gateways ask."""

import asyncio
import importlib.util
from pathlib import Path
from types import ModuleType

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tests.contract.test_gateways import ALICE, Authorizer, authorizer

from doorward.config.endpoints import Place
from doorward.keys.plane_authority import plane_host
from doorward.rpc.credentials import PlaneIdentity
from doorward.rpc.planes import Plane
from doorward_authorize.server import SERVICE_NAME

# Peers vanish in the middle of TLS here; asyncio leaves some of those transports to the collector, which warns.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

EXAMPLE = Path(__file__).parents[2] / "examples" / "decide_by_reflection.py"
SERVED = {
    SERVICE_NAME,
    "envoy.service.auth.v3.Authorization",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
}


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("decide_by_reflection", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def channel(place: Place, identity: PlaneIdentity | None) -> grpc.Channel:
    """As others open one: with the gateway's certificate, and the name that stands in ours."""
    if isinstance(place, Path):
        return grpc.insecure_channel(f"unix:{place}", options=[("grpc.default_authority", "localhost")])
    assert identity is not None
    (address,) = place
    named = [("grpc.ssl_target_name_override", plane_host(Plane.AUTHORIZE))]
    return grpc.secure_channel(str(address), identity.current.channel_credentials(), options=named)


def asked(made: Authorizer, example: ModuleType) -> list[tuple[set[str], str]]:
    """At each door of the gateway `edge`: what it lists, and the decision about Alice."""
    found = []
    for place, identity in made.places("edge"):
        with channel(place, identity) as opened:
            services = ProtoReflectionDescriptorDatabase(opened)
            decision = example.decide(opened, services, ALICE.session_id, "app", "/")
            found.append((set(services.get_services()), decision["effect"]))
    return found


async def test_every_door_of_a_gateway_tells_a_stranger_how_to_ask(
    tmp_path: Path, example: ModuleType, capsys: pytest.CaptureFixture[str]
):
    async with authorizer(tmp_path) as made:
        made.world.sign_in()
        assert await asyncio.to_thread(asked, made, example) == [(SERVED, "EFFECT_ALLOW")] * 3
        socket = str(made.local.gateway("edge", 0))
        assert await asyncio.to_thread(example.main, socket, ALICE.session_id, "public") == 0
        assert f"{SERVICE_NAME}, " in capsys.readouterr().out
