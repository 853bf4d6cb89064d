"""Two gateways ask one authorizer, over TLS with certificates and on sockets: each about its own routes, and neither as a plane."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.support.deployment import free_port, short_folder
from tests.support.planes import Planes
from tests.unit.authorize.builders import CONFIG, World, passed, status

from doorward.api.authorize.v1 import authorize_pb2 as pb
from doorward.api.authorize.v1.authorize_pb2_grpc import AuthorizeServiceStub, add_AuthorizeServiceServicer_to_server
from doorward.api.guard.v1.guard_pb2_grpc import GuardServiceStub
from doorward.config.endpoints import Address, LocalEndpoints, Place
from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from doorward.rpc.client import open_channel
from doorward.rpc.credentials import PlaneIdentity
from doorward.rpc.grpc_server import GrpcServer
from doorward.rpc.plane_listener import admitted, listen
from doorward.rpc.planes import Plane
from doorward.rpc.server import PlaneServer
from doorward_authorize.gateway_door import GatewayDoor
from doorward_authorize.server import SERVICE_NAME, AuthorizeServicer
from doorward_authorize.transport import CHECK_METHOD, check_methods

# Peers vanish in the middle of TLS here; asyncio leaves some of those transports to the collector, which warns.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

GATEWAYS = """\
gateways:
  - {name: edge, routes: [app, public]}
  - {name: mesh, routes: [admin], may_explain: true}
"""
ALICE = pb.Subject(session_id=b"alice".hex().ljust(32, "0"))


@dataclass
class Authorizer:
    """One authorizer at addresses and on sockets."""

    world: World
    planes: Planes
    door: GatewayDoor
    checks: Address
    services: Address
    local: LocalEndpoints

    def places(self, name: str) -> list[tuple[Place, PlaneIdentity | None]]:
        """Where the gateway ``name`` can ask, and as who."""
        known = self.planes.gateway(name)
        return [((self.checks,), known), ((self.services,), known), (self.local.gateway(name, 0), None)]


@asynccontextmanager
async def authorizer(tmp_path: Path) -> AsyncIterator[Authorizer]:
    world, planes = World(tmp_path, CONFIG + GATEWAYS), Planes(tmp_path / "planes")
    servicer = AuthorizeServicer(
        world.evaluator,
        world.principals,
        world.records,  # type: ignore[arg-type]  # a replica in all that is asked of it here
        world.explanations,
        world.gateways,
        world.asked,
    )

    def register(server: grpc.aio.Server) -> None:
        add_AuthorizeServiceServicer_to_server(servicer, server)

    door = GatewayDoor(world.checker, lambda: True, register, [SERVICE_NAME])
    at = [Address(host="127.0.0.1", port=free_port()) for _ in range(2)]
    identity = planes.identity(Plane.AUTHORIZE)
    checks = GrpcServer(
        door.methods_behind(check_methods(world.checker, lambda: True)), admits=admitted([Plane.PROXY], gateways=True)
    )
    services = PlaneServer(at[1], [Plane.OPERATOR, Plane.PROXY], register, [SERVICE_NAME], identity, door.methods_of)
    with short_folder() as folder:
        made = Authorizer(world, planes, door, at[0], at[1], LocalEndpoints(folder))
        await listen(checks, at[0], identity)
        await services.start()
        await door.follow(world.settings, lambda name: made.local.gateway(name, 0))
        try:
            yield made
        finally:
            await asyncio.gather(checks.drain(0), services.stop(0), door.drain(0))
            gc.collect()  # while the mark above holds


async def check(channel: grpc.aio.Channel, data: bytes) -> CheckResponse:
    return CheckResponse.FromString(await channel.unary_unary(CHECK_METHOD)(data, timeout=5))


async def decide(channel: grpc.aio.Channel, route: str) -> int | grpc.StatusCode:
    facts = pb.RequestFacts(route_id=route, method="GET", path="/")
    try:
        answer = await AuthorizeServiceStub(channel).Decide(pb.DecideRequest(subject=ALICE, request=facts), timeout=5)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return answer.decision.effect


async def test_s77_two_gateways_ask_each_about_its_own_routes(tmp_path: Path):
    """By certificate at either address, and by socket: the same answers."""
    async with authorizer(tmp_path) as made:
        own = {"edge": "app", "mesh": "admin"}
        for name, other in (("edge", "mesh"), ("mesh", "edge")):
            for place, identity in made.places(name):
                async with open_channel(place, Plane.AUTHORIZE, identity) as channel:
                    cookies = {route: made.world.sign_in(host=f"{route}.example.com") for route in own.values()}
                    requests = {route: made.world.request(route, cookie=cookie) for route, cookie in cookies.items()}
                    assert passed(await check(channel, requests[own[name]])), (name, place)
                    assert status(await check(channel, requests[own[other]])) == 503, (name, place)
                    assert await decide(channel, own[name]) == pb.EFFECT_ALLOW
                    assert await decide(channel, own[other]) is grpc.StatusCode.PERMISSION_DENIED
                    explain = AuthorizeServiceStub(channel).Explain(
                        pb.ExplainRequest(
                            request=pb.DecideRequest(
                                subject=ALICE, request=pb.RequestFacts(route_id=own[name], method="GET", path="/")
                            )
                        ),
                        timeout=5,
                    )
                    if name == "mesh":
                        assert (await explain).route == "admin"
                    else:
                        with pytest.raises(grpc.aio.AioRpcError, match="may_explain"):
                            await explain


async def test_s77_a_gateway_is_served_nothing_of_the_planes(tmp_path: Path):
    async with authorizer(tmp_path) as made:
        for place, identity in made.places("edge"):
            async with open_channel(place, Plane.AUTHORIZE, identity) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await GuardServiceStub(channel).WatchStreams(iter(())).read()
                assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
                healthy = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
                assert healthy.status == health_pb2.HealthCheckResponse.SERVING
                stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                    iter([reflection_pb2.ServerReflectionRequest(list_services="")])
                )
                names = {service.name for service in (await stream.read()).list_services_response.service}
                assert SERVICE_NAME in names
                stream.cancel()


async def test_s77_a_certificate_of_a_gateway_is_no_planes_and_no_servers(tmp_path: Path):
    async with authorizer(tmp_path) as made:
        gateway = made.planes.gateway("edge")
        other = PlaneServer(
            Address(host="127.0.0.1", port=free_port()),
            list(Plane),
            lambda _: None,
            [],
            made.planes.identity(Plane.DATABROKER),
        )
        await other.start()
        place = other._place
        assert isinstance(place, Address)
        async with open_channel((place,), Plane.DATABROKER, gateway) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        await other.stop(0)
        impostor = PlaneServer(Address(host="127.0.0.1", port=free_port()), list(Plane), lambda _: None, [], gateway)
        await impostor.start()
        assert isinstance(impostor._place, Address)
        for name in (Plane.AUTHORIZE, "gateway/edge"):
            async with open_channel((impostor._place,), name, made.planes.identity(Plane.PROXY)) as channel:  # type: ignore[arg-type]
                with pytest.raises(grpc.aio.AioRpcError) as unheard:
                    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
                assert unheard.value.code() is grpc.StatusCode.UNAVAILABLE
        await impostor.stop(0)


async def test_a_proxys_certificate_decides_and_explains_nothing(tmp_path: Path):
    async with authorizer(tmp_path) as made:
        async with open_channel((made.services,), Plane.AUTHORIZE, made.planes.identity(Plane.PROXY)) as channel:
            assert await decide(channel, "app") is grpc.StatusCode.PERMISSION_DENIED
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await AuthorizeServiceStub(channel).Explain(pb.ExplainRequest(decision_id="x"), timeout=5)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        async with open_channel((made.services,), Plane.AUTHORIZE, made.planes.identity(Plane.OPERATOR)) as channel:
            made.world.sign_in()
            assert await decide(channel, "app") == pb.EFFECT_ALLOW


async def test_a_gateway_that_the_configuration_drops_is_refused_on_its_open_connection(tmp_path: Path):
    async with authorizer(tmp_path) as made:
        stranger = made.planes.gateway("stranger")
        public = made.world.request("public")
        async with open_channel((made.checks,), Plane.AUTHORIZE, stranger) as channel:
            assert status(await check(channel, public)) == 503
            assert await decide(channel, "public") is grpc.StatusCode.PERMISSION_DENIED
        async with open_channel((made.checks,), Plane.AUTHORIZE, made.planes.gateway("edge")) as channel:
            assert passed(await check(channel, public))
            made.world.reload(CONFIG)
            assert status(await check(channel, public)) == 503
            assert await decide(channel, "public") is grpc.StatusCode.PERMISSION_DENIED


async def test_sockets_come_and_go_with_the_configuration(tmp_path: Path):
    async with authorizer(tmp_path) as made:

        def path(name: str) -> Path:
            return made.local.gateway(name, 0)

        assert path("edge").is_socket()
        assert path("edge").stat().st_mode & 0o077 == 0
        made.world.reload(CONFIG + GATEWAYS.replace("edge", "n" * 64))
        long = made.local.folder / ("x" * 60)
        long.mkdir(mode=0o700)
        # One whose socket cannot be made is not there, and the other one is.
        await made.door.follow(
            made.world.evaluator.snapshot.settings, lambda name: path(name) if len(name) < 64 else long / name
        )
        assert not path("edge").exists()
        async with open_channel(path("mesh"), Plane.AUTHORIZE) as channel:
            made.world.sign_in()
            assert await decide(channel, "admin") == pb.EFFECT_ALLOW
