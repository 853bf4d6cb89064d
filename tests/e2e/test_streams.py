"""WebSocket and gRPC through the proxy, and their end when access ends."""

import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from socket import create_connection

import grpc
import pytest
from tests.e2e.conftest import PASSWORDS
from tests.support.deployment import short_folder
from tests.support.echo import echo_server, grpc_echo, websocket_echo
from tests.support.open_streams import BOUND_SECONDS
from tests.support.site import Site, signed_in, site
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@dataclass
class World:
    site: Site
    cookies: dict[str, str]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with echo_server("app") as app, websocket_echo() as ws, grpc_echo() as rpc, short_folder() as folder:
        routes = [
            {"name": "app", "from": "app", "to": f"http://127.0.0.1:{app.port}", "policy": signed_in()},
            {"name": "ws", "from": "ws", "to": f"http://127.0.0.1:{ws}", "policy": signed_in(), "websocket": True},
            {"name": "rpc", "from": "rpc", "to": f"h2c://127.0.0.1:{rpc}", "policy": signed_in(), "continuous": True},
        ]
        with site(folder, routes) as made:
            yield World(made, {})


def sign_in(world: World) -> dict[str, str]:
    """The session cookie on each host, of one fresh session."""
    cookies = {}
    with world.site.client() as client:
        client.sign_in(world.site.url("app") + "/", *PASSWORDS["alice"])
        for name in ("ws", "rpc"):
            client.navigate(world.site.url(name) + "/")
            cookies[name] = f"__Host-doorward={client.cookie(f'{name}.localhost', '__Host-doorward')}"
    return cookies


def context(world: World) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(world.site.data / "certificates" / "authority.crt"))


def socket(world: World, cookie: str) -> ClientConnection:
    return connect(
        world.site.url("ws").replace("https", "wss") + "/echo",
        sock=create_connection(("127.0.0.1", world.site.port), 5),
        server_hostname="ws.localhost",
        ssl=context(world),
        additional_headers={"cookie": cookie} if cookie else {},
        proxy=None,
    )


def test_a_websocket_echoes_for_who_may_and_opens_for_nobody_else(world: World):
    with socket(world, sign_in(world)["ws"]) as connection:
        for text in ("one", "two"):
            connection.send(text)
            assert connection.recv(5) == text
    with pytest.raises(InvalidStatus) as caught:
        socket(world, "")
    assert caught.value.response.status_code == 401


def newest_session(world: World) -> str:
    lines = world.site.run.command("session", "list", "--json").stdout.splitlines()
    return str(max((json.loads(line) for line in lines), key=lambda session: session["issued_at"])["id"])


def test_s86_a_revoke_closes_an_open_websocket(world: World):
    """Nothing is sent in between: the guard alone must end it."""
    with socket(world, sign_in(world)["ws"]) as connection:
        connection.send("before")
        assert connection.recv(5) == "before"
        session_id = newest_session(world)
        result = world.site.run.command("session", "revoke", session_id, "--json")
        assert json.loads(result.stdout)["state"] == "applied"
        began = time.monotonic()
        with pytest.raises(ConnectionClosed):
            connection.recv(10)
        assert time.monotonic() - began < BOUND_SECONDS


def channel(world: World) -> grpc.Channel:
    authority = (world.site.data / "certificates" / "authority.crt").read_bytes()
    return grpc.secure_channel(
        f"127.0.0.1:{world.site.port}",
        grpc.ssl_channel_credentials(authority),
        options=[("grpc.ssl_target_name_override", "rpc.localhost"), ("grpc.default_authority", "rpc.localhost")],
    )


def test_a_grpc_call_and_a_server_stream_pass(world: World):
    metadata = [("cookie", sign_in(world)["rpc"])]
    with channel(world) as rpc:
        answer = rpc.unary_unary("/echo.Echo/Unary")(b"hello", metadata=metadata, timeout=10)
        body, names = answer.split(b"|")
        assert body == b"hello"
        assert b"x-doorward-jwt-assertion" in names
        assert b"cookie" not in names
        numbers = list(rpc.unary_stream("/echo.Echo/Stream")(b"100", metadata=metadata, timeout=10))
        assert numbers == [b"%d" % number for number in range(100)]


def test_a_grpc_call_of_nobody_gets_a_grpc_answer(world: World):
    with channel(world) as rpc, pytest.raises(grpc.RpcError) as caught:
        rpc.unary_unary("/echo.Echo/Unary")(b"hello", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
