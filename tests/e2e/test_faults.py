"""Parts that are killed or stopped: closed while they are away, and back by themselves."""

import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from tests.e2e.conftest import PASSWORDS
from tests.e2e.test_headers import cookie_of
from tests.support.deployment import short_folder, wait_for
from tests.support.echo import EchoServer, echo_server
from tests.support.http_client import NAVIGATION
from tests.support.raw_http import status_of
from tests.support.site import Site, everyone, signed_in, site

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def upstreams() -> Iterator[tuple[EchoServer, EchoServer]]:
    with echo_server("old") as old, echo_server("new") as new:
        yield old, new


@pytest.fixture(scope="module")
def deployment(upstreams: tuple[EchoServer, EchoServer]) -> Iterator[Site]:
    to = f"http://127.0.0.1:{upstreams[0].port}"
    routes = [
        {"name": "open", "from": "open", "to": to, "policy": everyone()},
        {"name": "closed", "from": "closed", "to": to, "policy": signed_in()},
    ]
    with short_folder() as folder, site(folder, routes) as running:
        yield running


@pytest.fixture
def made(deployment: Site) -> Iterator[Site]:
    """The deployment, and afterwards its routes again as they were and every plane at work."""
    before = list(deployment.routes)
    yield deployment
    deployment.routes = before
    deployment.write()
    wait_for(lambda: upstream_of(deployment) == "old", what="the routes of before")
    wait_for(lambda: status(deployment, "closed") == 401, 60, what="the route that is closed")
    wait_for(lambda: sign_in(deployment) != "", 60, what="a sign-in")


def upstream_of(made: Site) -> str:
    """The upstream that serves the public route; empty while none does."""
    with made.client() as client:
        try:
            answer = client.get(made.url("open") + "/")
        except httpx.TransportError:
            return ""
        return str(answer.json()["upstream"]) if answer.status_code == 200 else ""


def sign_in(made: Site) -> str:
    """The cookie of a new session for the route `closed`; empty while some plane that has to do with it is away."""
    with made.client() as client:
        try:
            answer = client.sign_in(made.url("closed") + "/", *PASSWORDS["alice"])
        except (AssertionError, httpx.TransportError):
            return ""
        cookie = client.cookie("closed.localhost", "__Host-doorward")
        return f"__Host-doorward={cookie}" if answer.status_code == 200 else ""


def status(made: Site, name: str, cookie: str = "", path: str = "/") -> int:
    with made.client() as client:
        try:
            return client.request("GET", made.url(name) + path, cookie_header=cookie).status_code
        except httpx.TransportError:
            return 0


MEMBERS = ("authorize", "databroker", "valkey", "authenticate", "proxy", "envoy")
DIES_WITH = {"proxy": {"proxy", "envoy"}}
"""Envoy belongs to the proxy plane and is started by it."""


@pytest.mark.parametrize("member", MEMBERS)
def test_s29_what_is_killed_lets_nobody_in_and_comes_back(made: Site, member: str):
    cookie = sign_in(made)
    assert cookie
    others = {name: made.run.member(name).pid for name in MEMBERS if name not in DIES_WITH.get(member, {member})}
    stop = threading.Event()
    seen: set[int] = set()

    def watch() -> None:
        while not stop.is_set():
            seen.add(status(made, "closed"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        made.run.member(member).kill()
        wait_for(lambda: status(made, "closed", cookie) == 200, 60, what="the signed-in request to pass again")
        wait_for(lambda: status(made, "open") == 200, 30, what="the public route")
    finally:
        stop.set()
        watcher.join()
    # 0: no connection while Envoy itself was away.
    assert seen <= {401, 503, 0}, "an anonymous request was let in"
    assert {name: made.run.member(name).pid for name in others} == others, "another process had to be started again"


def test_a_stopped_authorizer_closes_everything(made: Site):
    victim = made.run.member("authorize")
    victim.send_signal(signal.SIGSTOP)
    try:
        assert status(made, "open") == 503
        assert status(made, "closed") == 503
    finally:
        victim.send_signal(signal.SIGCONT)
    wait_for(lambda: status(made, "open") == 200, 20, what="the public route")


def test_a_stopped_store_closes_within_the_staleness_limit(made: Site):
    victim = made.run.member("valkey")
    victim.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: status(made, "open") == 503, 12, what="staleness to close")
    finally:
        victim.send_signal(signal.SIGCONT)
    wait_for(lambda: status(made, "open") == 200, 20, what="the public route")


def test_an_edit_that_opens_and_moves_never_opens_the_old_place(made: Site, upstreams: tuple[EchoServer, EchoServer]):
    """With the proxy plane stopped, Envoy still sends to the old upstream: the new, open policy must not count there."""
    old, new = upstreams
    proxy = made.run.member("proxy")
    proxy.send_signal(signal.SIGSTOP)
    try:
        made.routes[1] = {**made.routes[1], "to": f"http://127.0.0.1:{new.port}", "policy": everyone()}
        made.write()
        old.seen.clear()
        generation = made.run.command("status", "--json").stdout
        wait_for(lambda: made.run.command("status", "--json").stdout != generation, 15, what="authorize to reload")
        for _ in range(50):
            assert status(made, "closed") in {401, 503}
        assert old.seen == []
    finally:
        proxy.send_signal(signal.SIGCONT)
    wait_for(lambda: status(made, "closed") == 200, 20, what="the moved route")
    with made.client() as client:
        assert client.get(made.url("closed") + "/").json()["upstream"] == "new"
    assert old.seen == []


def test_an_edit_that_opens_all_but_a_part_never_opens_that_part(made: Site, upstreams: tuple[EchoServer, EchoServer]):
    """With the proxy plane stopped, Envoy knows of no part: all of the host is the route that is open now."""
    old, _ = upstreams
    proxy = made.run.member("proxy")
    proxy.send_signal(signal.SIGSTOP)
    try:
        closed = made.routes[1]
        part = {**closed, "name": "part", "prefix": "/part"}
        made.routes[1:] = [part, {**closed, "policy": everyone()}]
        made.write()
        old.seen.clear()
        generation = made.run.command("status", "--json").stdout
        wait_for(lambda: made.run.command("status", "--json").stdout != generation, 15, what="authorize to reload")
        for _ in range(50):
            assert status(made, "closed", path="/part") in {401, 503}
        assert old.seen == []
    finally:
        proxy.send_signal(signal.SIGCONT)
    wait_for(lambda: status(made, "closed") == 200, 20, what="the opened route")
    assert status(made, "closed", path="/part") == 401


def test_s03_an_old_connection_forges_no_header_that_a_new_route_sets(
    made: Site, upstreams: tuple[EchoServer, EchoServer]
):
    """Envoy serves it by the listener of before until it has drained: only what routes set then is deleted from its requests."""
    old, _ = upstreams
    tls = ssl.create_default_context(cafile=str(made.ca_file))
    forged = f"GET / HTTP/1.1\r\nHost: {made.host('open')}\r\nX-Late: forged\r\n"
    with (
        socket.create_connection(("127.0.0.1", made.port)) as plain,
        tls.wrap_socket(plain, server_hostname="open.localhost") as kept,
    ):
        kept.sendall(f"{forged}\r\n".encode())
        assert status_of(kept.recv(65536)) == 200, "nobody's yet"
        made.routes[1] = {**made.routes[1], "claim_headers": {"x-late": "email"}}
        made.write()
        fresh = f"{forged}Connection: close\r\n\r\n".encode()

        def is_deleted() -> bool:
            old.seen.clear()
            made.raw("open", fresh)
            return bool(old.seen) and "forged" not in str(old.seen)

        wait_for(is_deleted, 20, what="the new list of headers")
        old.seen.clear()
        kept.sendall(f"{forged}\r\n".encode())
        assert status_of(kept.recv(65536)) == 421
    assert old.seen == []


def test_reload_drops_no_request(made: Site, upstreams: tuple[EchoServer, EchoServer]):
    stop = threading.Event()
    answers: list[int] = []

    def load() -> None:
        with made.client() as client:
            while not stop.is_set():
                answers.append(client.get(made.url("open") + "/").status_code)

    threads = [threading.Thread(target=load) for _ in range(2)]
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(stop.set)
        for number in range(12):
            made.routes[0] = {**made.routes[0], "to": f"http://127.0.0.1:{upstreams[number % 2 ^ 1].port}"}
            made.write()
            wanted = upstreams[number % 2 ^ 1].name

            wait_for(lambda wanted=wanted: upstream_of(made) == wanted, 15, what=f"the upstream `{wanted}`")  # type: ignore[misc]
    assert len(answers) > 24
    assert set(answers) == {200}


def test_a_broken_route_answers_503_in_its_place_and_the_others_go_on(made: Site):
    made.routes.insert(0, {"name": "broken", "from": "open", "to": "nowhere", "path": "/broken", "policy": everyone()})
    made.write()

    def broken() -> bool:
        with made.client() as client:
            return client.get(made.url("open") + "/broken").status_code == 503

    wait_for(broken, 15, what="the broken route")
    assert status(made, "open") == 200
    made.routes.append({"name": "worse", "from": "open", "to": "http://127.0.0.1:1", "path": "relative", "policy": []})
    made.write()
    wait_for(lambda: status(made, "open") == 503, 15, what="the whole host")
    assert status(made, "closed") == 401
    made.routes = [route for route in made.routes if route["name"] in {"open", "closed"}]
    made.write()
    wait_for(lambda: status(made, "open") == 200, 15, what="the mended host")


def test_an_unusable_file_changes_nothing(made: Site):
    made.config.write_text("version: 9\n")
    with made.client() as client:
        for _ in range(20):
            assert client.get(made.url("open") + "/").status_code == 200
            assert client.get(made.url("closed") + "/", headers=NAVIGATION).status_code == 302


def test_s29_one_worker_of_two_is_killed_and_no_request_fails(open_site: Site, echo: EchoServer):
    """Envoy asks the other one, also about the checks that the killed one had before it."""
    made = open_site
    cookie = cookie_of(made, "closed")
    echo.seen.clear()
    stop, answers = threading.Event(), {cookie: list[int](), "": list[int]()}

    def load(sent: str) -> None:
        with made.client() as client:
            while not stop.is_set():
                answers[sent].append(client.request("GET", made.url("closed") + "/", cookie_header=sent).status_code)

    def loaded(more: int = 40) -> None:
        wanted = {sent: len(seen) + more for sent, seen in answers.items()}
        wait_for(lambda: all(len(answers[sent]) >= number for sent, number in wanted.items()), what="the load")

    def deciders() -> set[str]:
        return {str(record["decision_id"]).partition("-")[0] for record in made.run.decisions()}

    with ExitStack() as stack:
        for thread in [threading.Thread(target=load, args=(sent,)) for sent in (cookie, cookie, "", "")]:
            thread.start()
            stack.callback(thread.join)
        stack.callback(stop.set)
        loaded()
        before, victim = deciders(), made.run.worker("authorize", 0)
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        loaded()
        wait_for(lambda: made.run.worker("authorize", 0) not in {None, victim}, 20, what="another worker")
        wait_for(lambda: deciders() - before, 20, what="a decision of the new worker")
        loaded()
    assert set(answers[cookie]) == {200}
    assert set(answers[""]) == {401}
    assert len(echo.seen) == len(answers[cookie])
