"""Open streams of every kind through real Envoy: they end when their access ends, and not before."""

import functools
import json
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import grpc
import pytest
from tests.e2e.conftest import PASSWORDS
from tests.support.deployment import short_folder, wait_for
from tests.support.echo import grpc_echo
from tests.support.open_streams import BOUND_SECONDS, HoldingServer, Http2Stream, OpenStream, Place, holding_server
from tests.support.site import Site, signed_in, site

from doorward.keys.store import KeyStore, Purpose

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

TUNNEL_PORT = 5432
STALENESS_SECONDS = 30
"""Longer than an authorizer takes to start again on a busy machine."""


class Stream(Protocol):
    """What the tests ask of an open stream."""

    def is_open(self, seconds: float = 0.3) -> bool: ...

    def has_ended(self, seconds: float = 5.0) -> bool: ...

    def close(self) -> None: ...


Kept = TypeVar("Kept", bound=Stream)


class GrpcStream:
    """A gRPC call that the upstream never ends."""

    def __init__(self, world: "World", cookie: str) -> None:
        authority = (world.site.data / "certificates" / "authority.crt").read_bytes()
        self._channel = grpc.secure_channel(
            f"127.0.0.1:{world.site.port}",
            grpc.ssl_channel_credentials(authority),
            options=[("grpc.ssl_target_name_override", "rpc.localhost"), ("grpc.default_authority", "rpc.localhost")],
        )
        self._call = self._channel.unary_stream("/echo.Echo/Hold")(b"1", metadata=[("cookie", cookie)])
        assert next(self._call) == b"held"

    def is_open(self, seconds: float = 0.3) -> bool:
        return not self.has_ended(seconds)

    def has_ended(self, seconds: float = 5.0) -> bool:
        deadline = time.monotonic() + seconds
        while self._call.is_active() and time.monotonic() < deadline:
            time.sleep(0.01)  # the call has no other sign of its end
        return not self._call.is_active()

    def close(self) -> None:
        self._channel.close()


@dataclass
class World:
    site: Site
    http: HoldingServer
    tcp: HoldingServer
    streams: list[Stream] = field(default_factory=list)
    """Closed after each test."""

    def keep(self, stream: "Kept") -> "Kept":
        self.streams.append(stream)
        return stream

    def context(self, *protocols: str) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(self.site.data / "certificates" / "authority.crt"))
        made.set_alpn_protocols(list(protocols) or ["http/1.1"])
        return made

    def place(self, name: str, *protocols: str) -> Place:
        return Place(self.site.port, f"{name}.localhost", self.context(*protocols))

    def sign_in(self, person: str = "alice") -> dict[str, str]:
        """The session cookie on each host, of one fresh session."""
        cookies = {}
        with self.site.client() as client:
            client.sign_in(self.site.url("app") + "/", *PASSWORDS[person])
            for name in ("live", "eng", "rpc", "duty", "hr"):
                client.navigate(self.site.url(name) + "/hello")
                cookies[name] = f"__Host-doorward={client.cookie(f'{name}.localhost', '__Host-doorward')}"
        return cookies

    def newest_session(self) -> str:
        result = self.site.run.command("session", "list", "--json")
        assert result.stdout, result.stderr
        return str(max(map(json.loads, result.stdout.splitlines()), key=lambda session: session["issued_at"])["id"])

    def revoke(self, session_id: str) -> None:
        result = self.site.run.command("session", "revoke", session_id, "--json")
        assert json.loads(result.stdout)["state"] == "applied"

    def open(self, place: Place, request: str) -> OpenStream:
        return self.keep(OpenStream(place, request))

    def get(self, name: str, path: str, cookie: str) -> OpenStream:
        place = self.place(name)
        return self.open(place, f"GET {path} HTTP/1.1\nhost: {place.host}:{place.port}\ncookie: {cookie}\n\n")

    def websocket(self, cookie: str, name: str = "live") -> OpenStream:
        place = self.place(name)
        return self.open(
            place,
            f"GET /socket HTTP/1.1\nhost: {place.host}:{place.port}\ncookie: {cookie}\n"
            "connection: upgrade\nupgrade: websocket\nsec-websocket-version: 13\nsec-websocket-key: eA==\n\n",
        )

    def tunnel(self, cookie: str, port: int = TUNNEL_PORT) -> OpenStream:
        place = self.place("live")
        authority = f"{place.host}:{port}"
        return self.open(place, f"CONNECT {authority} HTTP/1.1\nhost: {authority}\ncookie: {cookie}\n\n")

    def websocket2(self, cookie: str) -> Http2Stream:
        return self.keep(
            Http2Stream(self.place("live", "h2"), "/socket", cookie, method="CONNECT", protocol="websocket")
        )


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with ExitStack() as stack:
        http, tcp = stack.enter_context(holding_server()), stack.enter_context(holding_server(tcp=True))
        rpc = stack.enter_context(grpc_echo())
        folder = stack.enter_context(short_folder())
        to = f"http://127.0.0.1:{http.port}"
        eng = [{"allow": {"and": [{"groups": {"has": "eng"}}]}}]
        routes = [
            {"name": "app", "from": "app", "to": to, "policy": signed_in(), "timeout": "2s"},
            {"name": "live", "from": "live", "to": to, "policy": signed_in(), "websocket": True},
            {"name": "eng", "from": "eng", "to": to, "policy": eng, "websocket": True},
            {"name": "rpc", "from": "rpc", "to": f"h2c://127.0.0.1:{rpc}", "policy": signed_in()},
            {"name": "db", "from": "tcp:live", "to": f"tcp://127.0.0.1:{tcp.port}", "policy": signed_in()},
        ]
        for name, term in (
            ("duty", {"grant": "on-call"}),
            ("hr", {"record": {"type": "x/staff", "field": "l", "is": "5"}}),
        ):
            policy = [{"allow": {"and": [{"authenticated_user": True}, term]}}]
            routes.append({"name": name, "from": name, "to": to, "policy": policy, "websocket": True})
        settings = {
            "databroker": {"staleness_limit": f"{STALENESS_SECONDS}s"},
            "grants": [{"name": "on-call", "routes": ["duty"]}],
        }
        yield World(stack.enter_context(site(folder, routes, **settings)), http, tcp)


@pytest.fixture(autouse=True)
def _closing(world: World) -> Iterator[None]:
    yield
    for stream in world.streams:
        stream.close()
    world.streams.clear()


def test_s86_a_revoke_ends_open_streams_of_every_kind_and_those_of_nobody_else(world: World):
    cookies = world.sign_in()
    session = world.newest_session()
    other = world.websocket(world.sign_in("bob")["live"])
    opened: dict[str, Stream] = {
        "websocket": world.websocket(cookies["live"]),
        "websocket over http/2": world.websocket2(cookies["live"]),
        "tunnel": world.tunnel(cookies["live"]),
        "events": world.get("live", "/events", cookies["live"]),
        "events over http/2": world.keep(Http2Stream(world.place("live", "h2"), "/events", cookies["live"])),
        "download": world.get("live", "/download", cookies["live"]),
        "grpc": world.keep(GrpcStream(world, cookies["rpc"])),
    }
    for name in ("websocket", "tunnel", "websocket over http/2"):
        stream = opened[name]
        assert isinstance(stream, OpenStream | Http2Stream)
        assert stream.echo(b"hello") == b"hello", name
    statuses = {name: stream.status for name, stream in opened.items() if isinstance(stream, OpenStream | Http2Stream)}
    assert statuses == {**dict.fromkeys(statuses, 200), "websocket": 101}
    assert all(stream.is_open(0.05) for stream in opened.values())
    wait_for(lambda: (world.http.held, world.tcp.held) == (6, 1), what="every stream at its upstream")
    world.revoke(session)
    applied = time.monotonic()
    assert {name: stream.has_ended(BOUND_SECONDS) for name, stream in opened.items()} == dict.fromkeys(opened, True)
    assert time.monotonic() - applied < BOUND_SECONDS
    records = wait_for(
        lambda: (cut := [line for line in world.site.run.decisions() if line["outcome"] == "cut"])[6:] and cut,
        what="a record of each cut",
    )
    assert {(line["session_id"], *line["reasons"]) for line in records} == {(session, "session-ended")}
    begun = {line["request_id"] for line in world.site.run.decisions() if line["outcome"] == "allow"}
    assert {line["request_id"] for line in records} <= begun
    wait_for(lambda: (world.http.held, world.tcp.held) == (1, 0), 3, what="the end at the upstreams")
    assert other.echo(b"still here") == b"still here"


def test_s65_a_stream_ends_with_the_grant_or_the_record_that_let_it_begin(world: World, tmp_path: Path):
    cookies = world.sign_in()
    given = world.site.run.command(
        "grant", "add", "on-call", "--user", "alice@example.com", "--reason", "a page", "--for", "1h", "--json"
    )
    grant_id = json.loads(given.stdout)["id"]
    lines = tmp_path / "staff.jsonl"
    put = ("records", "put", str(lines), "--type", "x/staff", "--join", "verified_email", "--json")
    lines.write_text('{"email": "alice@example.com", "l": 5}\n')
    assert json.loads(world.site.run.command(*put).stdout)["written"] == 1

    def opened(name: str) -> OpenStream | None:
        stream = world.websocket(cookies[name], name)
        return stream if stream.status == 101 else None

    duty, hr = (wait_for(functools.partial(opened, name), what=f"a stream of `{name}`") for name in ("duty", "hr"))
    assert duty.echo(b"hello") == hr.echo(b"hello") == b"hello"
    assert json.loads(world.site.run.command("grant", "list", "--json").stdout)["id"] == grant_id
    ended = world.site.run.command("grant", "end", grant_id)
    assert (ended.returncode, duty.has_ended(3)) == (0, True), ended.stderr
    assert hr.is_open(0.05)
    lines.write_text('{"email": "alice@example.com", "l": 4}\n')
    assert json.loads(world.site.run.command(*put).stdout)["written"] == 1
    assert hr.has_ended(3)
    refused = world.websocket(cookies["duty"], "duty")
    assert json.loads(refused.read().decode())["reasons"] == ["grant-missing"]


def test_who_may_not_open_a_stream_is_told_why(world: World):
    """A WebSocket client sees the response to its handshake; after that HTTP has no word for it."""
    refused = world.websocket("")
    body = refused.read()
    assert refused.status == 401
    assert "x-doorward-decision-id: " in refused.head.lower()
    assert b"sign-in" in body
    denied = world.websocket(world.sign_in("carol")["eng"], "eng")
    told = json.loads(denied.read().decode())
    assert denied.status == 403
    assert told["reasons"] == ["groups-unauthorized"]
    assert told["decision_id"] in denied.head
    assert world.tunnel("").status == 401


@pytest.mark.parametrize("sent", [0, 50_000], ids=["nothing", "half"])
def test_a_denial_page_arrives_whole_although_connections_are_closed_soon(world: World, sent: int):
    """Envoy closes HTTP/1.1 connections 50 ms after it is done with them; a client in the middle of an upload is late."""
    place = world.place("eng")
    cookie = world.sign_in("carol")["eng"]
    denied = world.open(
        place,
        f"POST /form HTTP/1.1\nhost: {place.host}:{place.port}\ncookie: {cookie}\norigin: https://{place.host}:{place.port}\n"
        f"accept: text/html\ncontent-length: 100000\n\n{'x' * sent}",
    )
    page = denied.read()
    length = int(
        next(line for line in denied.head.lower().splitlines() if line.startswith("content-length")).split()[1]
    )
    assert denied.status == 403
    assert len(page) == length > 1000
    assert page.endswith(b"</html>")


def test_a_tunnel_goes_nowhere_but_to_its_port(world: World):
    """The host is right and the port is not: that must not reach the only tunnel there is."""
    cookie = world.sign_in()["live"]
    assert world.tunnel(cookie, TUNNEL_PORT + 1).status == 404
    place = world.place("live")
    authority = f"LIVE.localhost:{TUNNEL_PORT}"
    shouted = world.open(place, f"CONNECT {authority} HTTP/1.1\nhost: {authority}\ncookie: {cookie}\n\n")
    assert shouted.status == 200


def test_an_unguarded_stream_ends_by_the_clock(world: World):
    with world.site.client() as client:
        client.sign_in(world.site.url("app") + "/x", *PASSWORDS["alice"])
        cookie = f"__Host-doorward={client.cookie('app.localhost', '__Host-doorward')}"
    stream = world.get("app", "/events", cookie)
    assert stream.status == 200, stream.head
    assert stream.has_ended(4)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["asked", "killed"])
def test_an_authorizer_that_starts_again_cuts_nothing_and_misses_nothing(world: World, number: signal.Signals):
    """A revoke while nobody watched is found by the next authorizer; whoever keeps access keeps the stream."""
    mine, session = world.websocket(world.sign_in()["live"]), world.newest_session()
    others = [world.websocket(world.sign_in("bob")["live"]), world.tunnel(world.sign_in("carol")["live"])]
    world.site.run.member("authorize").send_signal(number)
    world.site.run.command("session", "revoke", session)
    assert mine.has_ended(STALENESS_SECONDS)
    wait_for(lambda: world.websocket("").status == 401, what="the next authorizer")
    for stream in others:
        assert stream.echo(b"alive") == b"alive"
    bob = world.site.run.command("session", "revoke", "--all", "--json")
    assert json.loads(bob.stdout)["revoked"] >= 2
    assert all(stream.has_ended() for stream in others)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["asked", "killed"])
def test_the_end_of_the_guard_is_the_end_of_its_streams(world: World, number: signal.Signals):
    cookie = world.sign_in()["live"]
    stream = world.websocket(cookie)
    world.site.run.member("guard").send_signal(number)
    assert stream.has_ended(2)
    wait_for(lambda: world.websocket(cookie).status == 101, what="the next guard")


def test_a_guard_that_is_stopped_is_given_up(world: World):
    """Its calls are open and nobody would cut them: Envoy must notice by itself. Whoever comes meanwhile reads why nothing opens."""
    cookie = world.sign_in()["live"]
    stream = world.websocket(cookie)
    guard = world.site.run.member("guard")
    guard.suspend()
    try:
        refused = world.websocket(cookie)
        assert refused.status == 503
        assert {"retry-after: 5", "content-type: application/json"} <= set(refused.head.lower().splitlines())
        assert stream.has_ended(8)
        # Its connection has been given up by now; a new one to it gets no answer either.
        place = world.place("live")
        asked = f"host: {place.host}:{place.port}\ncookie: {cookie}\naccept: text/html\nconnection: close"
        page = world.open(place, f"GET /hello HTTP/1.1\n{asked}\n\n")
        assert page.status == 503
        assert b"Open connections cannot be watched at this moment." in page.read()
    finally:
        # As it is: one that goes on is ended by its own watchdog or not, and before this or after, by chance.
        guard.kill()
        guard.wait(10)
    cookie = world.sign_in()["live"]
    wait_for(lambda: world.websocket(cookie).status == 101, what="the next guard")


def change_route(world: World, name: str, change: Callable[[dict[str, object]], None]) -> None:
    for route in world.site.routes:
        if route["name"] == name:
            change(route)
    world.site.write()


def test_a_change_of_policy_or_upstream_ends_the_streams_of_that_route_alone(world: World):
    cookies = world.sign_in()
    changed, other = world.websocket(cookies["eng"], "eng"), world.websocket(cookies["live"])
    nobody = [{"allow": {"and": [{"groups": {"has": "nobody"}}]}}]
    before = next(route for route in world.site.routes if route["name"] == "eng")["policy"]
    change_route(world, "eng", lambda route: route.update(policy=nobody))
    assert changed.has_ended(10)
    change_route(world, "eng", lambda route: route.update(policy=before))
    again = wait_for(
        lambda: (stream := world.websocket(cookies["eng"], "eng")).status == 101 and stream, what="the old policy"
    )
    change_route(world, "eng", lambda route: route.update(to=f"http://127.0.0.1:{world.http.port}", preserve_host=True))
    assert again.has_ended(10)
    assert other.echo(b"untouched") == b"untouched"


def by_robot(world: World) -> tuple[dict[str, str], Place, str]:
    """A new service account, and how it asks for a WebSocket."""
    made = world.site.run.command("service-account", "create", "robot", "--group", "eng", "--life", "1h", "--json")
    account: dict[str, str] = json.loads(made.stdout)
    place = world.place("eng")
    request = (
        f"GET /socket HTTP/1.1\nhost: {place.host}:{place.port}\nauthorization: Bearer {account['token']}\n"
        "connection: upgrade\nupgrade: websocket\nsec-websocket-version: 13\nsec-websocket-key: eA==\n\n"
    )
    return account, place, request


def test_s66_a_service_account_opens_streams_until_it_is_revoked(world: World):
    """From the command line to the end of its streams, through every plane."""
    account, place, request = by_robot(world)
    stream = wait_for(lambda: (found := world.open(place, request)).status == 101 and found, what="the account")
    assert stream.echo(b"beep") == b"beep"
    listed = world.site.run.command("service-account", "list", "--json").stdout
    assert account["id"] in listed
    assert account["token"] not in listed
    assert world.site.run.command("service-account", "revoke", account["id"]).returncode == 0
    assert stream.has_ended(3)
    wait_for(lambda: world.open(place, request).status == 401, 3, what="the refusal")
    assert account["token"] not in world.site.run.log.read_text()


def test_s66_a_stream_ends_when_the_key_behind_its_token_is_revoked(world: World):
    """The account goes on, for whoever has not stolen the key; a cookie's stream is none of it."""
    run, cookies = world.site.run, world.sign_in()
    account, place, request = by_robot(world)
    stream = wait_for(lambda: (found := world.open(place, request)).status == 101 and found, what="the account")
    other = world.websocket(cookies["live"])
    (key_id, *_) = KeyStore(world.site.data / "keys").keyring(Purpose.SERVICE_ACCOUNT).ids
    said = run.command("keys", "revoke", "service-account", key_id)
    assert "their open streams end" in said.stdout, said.stderr
    assert stream.has_ended(5)
    assert world.open(place, request).status == 401
    assert account["id"] in run.command("service-account", "list", "--json").stdout
    assert other.echo(b"untouched") == b"untouched"
