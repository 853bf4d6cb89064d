"""One demo and one site for all tests that do no harm to them, and fresh clients.

They end with the last test of this package: a deployment that nobody asks anything takes a twentieth of a core, which the tests that
come after these would lack.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.support.client_certificates import ClientAuthority
from tests.support.collector import Collector, collector
from tests.support.deployment import Running, free_port, short_folder, start
from tests.support.echo import EchoServer, echo_server, grpc_echo, websocket_echo
from tests.support.http_client import BrowserlessClient
from tests.support.listener import Listener, listener
from tests.support.site import Site, everyone, group, signed_in, site
from tests.support.token_issuer import TokenIssuer, key_server

PASSWORDS = {
    "alice": ("alice@example.com", "alice-demo"),
    "bob": ("bob@example.com", "bob-demo"),
    "carol": ("carol@partner.example", "carol-demo"),
}


CLUSTER_TOKEN = "eyJ.cluster.token"  # a token of nobody


@pytest.fixture(scope="package")
def demo() -> Iterator[Running]:
    with short_folder() as folder:
        running = start(["demo", "--port", "0"], folder / "data")
        try:
            yield running
        finally:
            running.stop()


@pytest.fixture
def url(demo: Running) -> Callable[[str], str]:
    return lambda name: demo.ready["urls"][name]


@pytest.fixture
def browser(demo: Running) -> Iterator[Callable[..., BrowserlessClient]]:
    """Makes clients; ``browser("alice")`` is signed in at `verify`."""
    with ExitStack() as stack:

        def make(person: str | None = None, *, http2: bool = False) -> BrowserlessClient:
            client = stack.enter_context(BrowserlessClient(demo.ca_file, http2=http2))
            if person is not None:
                response = client.sign_in(demo.ready["urls"]["verify"] + "/json", *PASSWORDS[person])
                assert response.status_code == 200, response.text
            return client

        yield make


@pytest.fixture(scope="package")
def shared_echo() -> Iterator[EchoServer]:
    with echo_server("echo") as server:
        yield server


@pytest.fixture
def echo(shared_echo: EchoServer) -> EchoServer:
    """The upstream of every route of `open_site` but `rpc`, with nothing seen yet."""
    shared_echo.seen.clear()
    return shared_echo


@pytest.fixture(scope="package")
def http2_port() -> int:
    """Where a test may run the upstream of the route `rpc` (clear-text HTTP/2)."""
    return free_port()


@pytest.fixture(scope="package")
def socket_port() -> Iterator[int]:
    """The upstream of the route `socket` of `open_site`, which sends messages back."""
    with websocket_echo() as port:
        yield port


@pytest.fixture(scope="package")
def calls_port() -> Iterator[int]:
    """The upstream of the route `calls` of `open_site`, which answers gRPC."""
    with grpc_echo() as port:
        yield port


@pytest.fixture(scope="package")
def token_issuer() -> Iterator[TokenIssuer]:
    """Whose tokens `open_site` trusts on the route `builds`."""
    with key_server(TokenIssuer()) as issuer:
        yield issuer


@pytest.fixture(scope="package")
def client_authority() -> ClientAuthority:
    """Whose certificates `open_site` trusts on the route `devices`."""
    return ClientAuthority()


@pytest.fixture(scope="package")
def collected() -> Iterator[Collector]:
    """Where `open_site` sends a span and a record of everything."""
    with collector() as server:
        yield server


@pytest.fixture(scope="package")
def shared_tunnel() -> Iterator[Listener]:
    with listener() as made:
        yield made


@pytest.fixture
def tunnel_end(shared_tunnel: Listener) -> Listener:
    """Where the tunnel `tcp:db` of `open_site` leads, with nothing received yet."""
    shared_tunnel.received.clear()
    return shared_tunnel


@pytest.fixture(scope="package")
def open_site(
    shared_echo: EchoServer,
    http2_port: int,
    socket_port: int,
    calls_port: int,
    token_issuer: TokenIssuer,
    client_authority: ClientAuthority,
    collected: Collector,
    shared_tunnel: Listener,
) -> Iterator[Site]:
    """Routes for everything that clients may try on a request."""
    to = f"http://127.0.0.1:{shared_echo.port}"
    who = {"x-who": "email", "x-groups": "groups"}
    port = free_port()
    by_path = [
        {
            "allow": {"and": [{"http_path": {"starts_with": "/public/"}}, {"http_method": "GET"}]},
            "deny": {"or": [{"http_path": {"starts_with": "/public/secret"}}]},
        }
    ]
    by_name = [
        {
            "allow": {"and": [{"authenticated_user": True}]},
            "deny": {"or": [{"http_header/user-agent": {"contains": "robot"}}, {"claim/title": {"contains": "robot"}}]},
        }
    ]
    routes: list[dict[str, Any]] = [
        {"name": "open", "from": "open", "to": to, "policy": everyone(), "claim_headers": who,
         "extra_methods": ["PROPFIND"]},
        {"name": "closed", "from": "closed", "to": to, "policy": signed_in(), "claim_headers": who},
        {"name": "other", "from": "other", "to": to, "policy": signed_in(), "set_request_headers": {"x-static": "ours"}},
        {"name": "admin-area", "from": "paths", "prefix": "/admin", "to": to, "policy": group("admins")},
        {"name": "team-area", "from": "paths", "prefix": "/@team", "to": to, "policy": group("admins")},
        {"name": "one-page", "from": "paths", "path": "/exact", "to": to, "policy": signed_in()},
        {"name": "rest", "from": "paths", "to": to, "policy": everyone()},
        {"name": "rules", "from": "rules", "to": to, "policy": by_path},
        {"name": "db", "from": "tcp:db", "to": f"tcp://127.0.0.1:{shared_tunnel.port}", "policy": signed_in()},
        {"name": "named", "from": "named", "to": to, "policy": by_name},
        {"name": "ws", "from": "ws", "to": to, "policy": signed_in(), "websocket": True},
        {
            "name": "cors", "from": "cors", "to": to, "policy": signed_in(),
            "allowed_origins": [f"https://other.localhost:{port}"],
        },
        {
            "name": "cluster", "from": "cluster", "to": to, "policy": signed_in(),
            "kubernetes_service_account_token_file": "cluster-token",
        },
        {
            "name": "tokens", "from": "tokens", "to": to, "policy": signed_in(),
            "set_request_headers": {"authorization": "Bearer ${access_token}", "x-id-token": "${id_token}"},
        },
        {"name": "rpc", "from": "rpc", "to": f"h2c://127.0.0.1:{http2_port}", "policy": signed_in(), "continuous": True},
        {"name": "socket", "from": "socket", "to": f"http://127.0.0.1:{socket_port}", "policy": signed_in(), "websocket": True},
        {"name": "calls", "from": "calls", "to": f"h2c://127.0.0.1:{calls_port}", "policy": signed_in(), "continuous": True},
        {"name": "builds", "from": "builds", "to": to, "policy": signed_in(), "token_issuers": ["ci"]},
        {
            "name": "devices", "from": "devices", "to": to, "client_certificate": "fact",
            "policy": [{"allow": {"and": [{"client_certificate": {"san_dns": "laptop7.example.com"}}]}}],
            "set_request_headers": {"x-client": "${client_certificate/fingerprint} ${client_certificate/san_dns}"},
        },
        {
            "name": "machines", "from": "machines", "to": to, "client_certificate": "principal",
            "policy": signed_in(),
            "set_request_headers": {"x-user": "${user}", "x-subject": "${client_certificate/subject}", "x-mail": "${email}"},
        },
    ]  # fmt: skip
    trusted = {"id": "ci", "issuer": token_issuer.issuer, "audiences": ["doorward"]}
    with short_folder() as folder:
        (folder / "cluster-token").write_text(CLUSTER_TOKEN + "\n")
        (folder / "clients.crt").write_text(client_authority.pem)
        settings = {
            "authorize": {"workers": 2},
            "token_issuers": [trusted],
            "client_certificates": {"authorities": "clients.crt"},
            "tracing": {"otlp_endpoint": collected.endpoint, "sample": 1},
            "decision_log": {
                "file": "data/logs/decisions.jsonl",
                "otlp_endpoint": collected.endpoint,
                "loggable": ["http_header/user-agent", "claim/title"],
            },
        }
        with site(folder, routes, port=port, scopes=("offline_access",), **settings) as made:
            yield made
