"""WebSocket and gRPC through the proxy, and their end when access ends."""

import json
import ssl
import time
from socket import create_connection

import grpc
import pytest
from tests.e2e.conftest import PASSWORDS
from tests.support.open_streams import BOUND_SECONDS
from tests.support.site import Site
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def sign_in(made: Site) -> dict[str, str]:
    """The session cookie on each host, of one fresh session."""
    cookies = {}
    with made.client() as client:
        client.sign_in(made.url("closed") + "/", *PASSWORDS["alice"])
        for name in ("socket", "calls"):
            client.navigate(made.url(name) + "/")
            cookies[name] = f"__Host-doorward={client.cookie(f'{name}.localhost', '__Host-doorward')}"
    return cookies


def context(made: Site) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(made.data / "certificates" / "authority.crt"))


def socket(made: Site, cookie: str) -> ClientConnection:
    return connect(
        made.url("socket").replace("https", "wss") + "/echo",
        sock=create_connection(("127.0.0.1", made.port), 5),
        server_hostname="socket.localhost",
        ssl=context(made),
        additional_headers={"cookie": cookie} if cookie else {},
        proxy=None,
    )


def test_a_websocket_echoes_for_who_may_and_opens_for_nobody_else(open_site: Site):
    with socket(open_site, sign_in(open_site)["socket"]) as connection:
        for text in ("one", "two"):
            connection.send(text)
            assert connection.recv(5) == text
    with pytest.raises(InvalidStatus) as caught:
        socket(open_site, "")
    assert caught.value.response.status_code == 401


def newest_session(made: Site) -> str:
    lines = made.run.command("session", "list", "--json").stdout.splitlines()
    return str(max((json.loads(line) for line in lines), key=lambda session: session["issued_at"])["id"])


def test_s86_a_revoke_closes_an_open_websocket(open_site: Site):
    """Nothing is sent in between: the guard alone must end it."""
    with socket(open_site, sign_in(open_site)["socket"]) as connection:
        connection.send("before")
        assert connection.recv(5) == "before"
        session_id = newest_session(open_site)
        result = open_site.run.command("session", "revoke", session_id, "--json")
        assert json.loads(result.stdout)["state"] == "applied"
        began = time.monotonic()
        with pytest.raises(ConnectionClosed):
            connection.recv(10)
        assert time.monotonic() - began < BOUND_SECONDS


def channel(made: Site) -> grpc.Channel:
    authority = (made.data / "certificates" / "authority.crt").read_bytes()
    return grpc.secure_channel(
        f"127.0.0.1:{made.port}",
        grpc.ssl_channel_credentials(authority),
        options=[("grpc.ssl_target_name_override", "calls.localhost"), ("grpc.default_authority", "calls.localhost")],
    )


def test_a_grpc_call_and_a_server_stream_pass(open_site: Site):
    metadata = [("cookie", sign_in(open_site)["calls"])]
    with channel(open_site) as rpc:
        answer = rpc.unary_unary("/echo.Echo/Unary")(b"hello", metadata=metadata, timeout=10)
        body, names = answer.split(b"|")
        assert body == b"hello"
        assert b"x-doorward-jwt-assertion" in names
        assert b"cookie" not in names
        numbers = list(rpc.unary_stream("/echo.Echo/Stream")(b"100", metadata=metadata, timeout=10))
        assert numbers == [b"%d" % number for number in range(100)]


def test_a_grpc_call_of_nobody_gets_a_grpc_answer(open_site: Site):
    with channel(open_site) as rpc, pytest.raises(grpc.RpcError) as caught:
        rpc.unary_unary("/echo.Echo/Unary")(b"hello", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
