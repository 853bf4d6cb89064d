"""Secrets stay where they belong, and every door opens for exactly those that it is for."""

import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import psutil
import pytest
from starlette.routing import Route
from tests.e2e.conftest import PASSWORDS
from tests.support.collector import Collector
from tests.support.deployment import wait_for
from tests.support.echo import EchoServer
from tests.support.http_client import NAVIGATION
from tests.support.raw_http import request_bytes, status_of
from tests.support.site import SECRET, Site
from tests.support.token_issuer import TokenIssuer

from doorward.config.endpoints import LocalEndpoints, default_run_folder
from doorward.identity.cookies import SESSION_COOKIE, SIGN_IN_COOKIE
from doorward_authenticate.app import sign_in_app
from doorward_proxy.endpoints.app import pages_app

pytestmark = pytest.mark.e2e


def account(site: Site, name: str, *groups: str) -> str:
    """The token of a new service account."""
    named = [word for group in groups for word in ("--group", group)]
    made = site.run.command("service-account", "create", name, *named, "--life", "1h", "--json")
    assert made.returncode == 0, made.stderr
    return str(json.loads(made.stdout)["token"])


def said_by_operators_interfaces(site: Site) -> Iterator[tuple[str, str]]:
    """Metrics of every process, and all that Envoy tells of itself."""
    folder = default_run_folder(site.data)
    for place in sorted(folder.glob("*.probes.sock")):
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(place)), base_url="http://probes") as client:
            yield place.name, client.get("/metrics").text
    admin = LocalEndpoints(folder).envoy_admin
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(admin)), base_url="http://envoy") as client:
        for path in ("/config_dump?include_eds", "/stats", "/clusters", "/server_info", "/certs"):
            yield path, client.get(path).text


def spans_since(collected: Collector, moment: float, since: int) -> int:
    """How many spans of checks have come that began after ``moment``."""
    found = 0
    for path, body in collected.bodies[since:]:
        if path == "/v1/traces" and body.startswith(b"{"):
            for resource in json.loads(body)["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    found += sum(int(span["startTimeUnixNano"]) >= moment * 1e9 for span in scope["spans"])
    return found


def key_texts(folder: Path) -> Iterator[str]:
    """Every secret key of every purpose."""
    for path in folder.glob("*.json"):
        if not path.name.endswith(".jwks.json"):
            yield from json.loads(path.read_text())["keys"]


def test_s50_no_secret_leaves_its_place(
    open_site: Site, echo: EchoServer, token_issuer: TokenIssuer, collected: Collector
):
    since = len(collected.bodies)
    token, external = account(open_site, "canary", "eng"), token_issuer.token(time.time())
    answers: list[str] = []
    with open_site.client() as client:
        client.sign_in(open_site.url("closed") + "/", *PASSWORDS["alice"])
        handle = client.cookie("closed.localhost", SESSION_COOKIE) or ""
        single = client.cookie("authenticate.localhost", SIGN_IN_COOKIE) or ""
        assert len(handle) > 40 < len(single)
        client.navigate(open_site.url("tokens") + "/")
        told = json.dumps(echo.seen[-1])
        of_alice = open_site.issued()[-1]
        assert set(of_alice) == {"access_token", "id_token", "refresh_token"}
        assert all(of_alice[kind] in told for kind in ("access_token", "id_token")), "its route asks for both"
        echo.seen.clear()
        began = time.time()
        for name in ("open", "closed", "other", "admin-area", "rules", "builds", "devices"):
            host = {"admin-area": "paths"}.get(name, name)
            for headers in (
                {}, NAVIGATION, {"authorization": f"Bearer {token}"}, {"doorward-authorization": f"Bearer {token}x"},
                {"authorization": f"Bearer {external}"}, {"content-type": "application/grpc"},
            ):  # fmt: skip
                answer = client.request(
                    "GET",
                    open_site.url(host) + "/admin",
                    headers=headers,
                    cookie_header=f"{SESSION_COOKIE}={handle}; theirs=1",
                )
                # What is set for this browser is this browser's.
                kept = [(key, value) for key, value in answer.headers.items() if key != "set-cookie"]
                answers.append(f"{kept}{answer.text}")
    issued = {
        f"{kind} {number}": token
        for number, answer in enumerate(open_site.issued()[-3:])
        for kind, token in answer.items()
    }
    secrets = {
        "session cookie": handle, "sign-in cookie": single, "service account": token, "external token": external.rpartition(".")[2],
        "client secret": SECRET, **issued, **{f"key {number}": word for number, word in enumerate(key_texts(open_site.data / "keys"))},
    }  # fmt: skip
    assert len(secrets) > 8
    for sent in echo.seen:
        seen = json.dumps(sent)
        # `open` and `closed` list no issuer: a token that is none of ours is the application's.
        found = [name for name, secret in secrets.items() if secret in seen and name != "external token"]
        assert found == []
    # Everything that was sent is there once the record of the last request is.
    last = open_site.run.decisions()[-1]["decision_id"]
    wait_for(
        lambda: any(last in line for line in collected.log_lines(since)), 20, what="the last record at the collector"
    )
    wait_for(lambda: spans_since(collected, began, since) > 30, 20, what="spans of the requests")
    envoys = b"doorward-proxy"  # in protobuf, where ours are JSON
    wait_for(lambda: envoys in collected.received("/v1/traces", since), 20, what="Envoy's spans")
    places = {
        "spans": collected.received("/v1/traces", since).decode("latin-1"),
        "records": collected.received("/v1/logs", since).decode(),
        "answers": "\n".join(answers),
        "console": open_site.run.log.read_text(),
        "decision log": open_site.run.decisions_file.read_text(),
        "explanations": "".join(
            open_site.run.command("explain", record["decision_id"]).stdout for record in open_site.run.decisions()[-1:]
        ),
        "status": open_site.run.command("status", "--json").stdout,
        **dict(said_by_operators_interfaces(open_site)),
    }
    assert any(name.endswith(".probes.sock") for name in places)
    echoed = {"external token"}  # `open` shows in its answer what it received
    leaks = [
        (place, name)
        for place, text in places.items()
        for name, secret in secrets.items()
        if secret in text and not (place == "answers" and name in echoed)
    ]
    assert leaks == []


FORGED = '{"decision_id":"forged","outcome":"allow"}'
ODD = f"robot\r\n{FORGED}\r\n\x1b[2J\x1b[31m\u2028{FORGED}\u0085\x00"
"""A claim; the first half of it is what a name of a server may hold as well."""


def as_odd_server(site: Site) -> int:
    """Come under a server name (SNI) with a line in it, and ask for a host; the status."""
    context = ssl.create_default_context(cafile=str(site.ca_file))
    context.check_hostname = False
    name = f"robot\r\n{FORGED}\r\n\x1b[31m.localhost"
    # Bytes are taken as they are; a text would be refused here and never get as far as the server.
    with (
        socket.create_connection(("127.0.0.1", site.port), 5) as plain,
        context.wrap_socket(plain, server_hostname=name.encode()) as connection,
    ):
        connection.sendall(request_bytes("/", site.host("devices")))
        connection.settimeout(5)
        return status_of(connection.recv(65536))


def test_s81_no_server_name_agent_or_claim_splits_a_line(open_site: Site, collected: Collector):
    """Values that the operator has marked as loggable are written, and stay values."""
    since = len(collected.bodies)
    open_site.set_faults(claims={"title": ODD})
    with open_site.client() as client:
        try:
            client.sign_in(open_site.url("named") + "/", *PASSWORDS["alice"])
        finally:
            open_site.set_faults()
        handle = client.cookie("named.localhost", SESSION_COOKIE)
    # Envoy refuses control characters here; what it lets through is UTF-8 that some readers take for the end of a line.
    agent = f"robot \u2028{FORGED}\u0085"
    lines = (f"Cookie: {SESSION_COOKIE}={handle}", "User-Agent: " + agent.encode().decode("latin-1"))
    assert status_of(open_site.raw("named", request_bytes("/", open_site.host("named"), *lines))) == 403
    assert as_odd_server(open_site) == 421

    def written() -> list[dict[str, Any]]:
        return [record for record in open_site.run.decisions() if record["route"] == "named" and record["inputs"]]

    wait_for(lambda: len(written()) >= 2, 10, what="the records")
    inputs = written()[-1]["inputs"]
    assert inputs["claim/title"] == {"value": ODD}
    assert inputs["http_header/user-agent"] == {"value": [agent.encode().decode("latin-1")]}
    last = written()[-1]["decision_id"]
    wait_for(lambda: any(last in line for line in collected.log_lines(since)), 20, what="the record at the collector")
    texts = {
        "decision log": open_site.run.decisions_file.read_text(),
        "console": open_site.run.log.read_text(),
        "records": "\n".join(line for line in collected.log_lines(since) if last in line),
    }
    for place, text in texts.items():
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u0085\u2028]", text), place
        for line in text.split("\n"):
            assert not line.startswith(FORGED), place
    for place in ("decision log", "records"):
        assert all(json.loads(line)["decision_id"] != "forged" for line in texts[place].split("\n") if line)


def test_s50_no_process_leaves_its_memory_in_a_file(open_site: Site):
    for process in open_site.run.members():
        limit = process.rlimit(psutil.RLIMIT_CORE)[0]
        assert limit == 0, process.name()


DOORS = {
    # host, path, method → what nobody, bob (eng), alice (admins), an account of eng, one of admins and a build get
    ("open", "/", "GET"): (200, 200, 200, 200, 200, 200),
    ("closed", "/", "GET"): (401, 200, 200, 200, 200, 401),
    ("closed", "/", "POST"): (401, 200, 200, 200, 200, 401),
    ("paths", "/admin", "GET"): (401, 403, 200, 403, 200, 401),
    ("paths", "/exact", "GET"): (401, 200, 200, 200, 200, 401),
    ("builds", "/", "GET"): (401, 200, 200, 200, 200, 200),
    # Over a connection that was made for another host.
    ("devices", "/", "GET"): (421, 421, 421, 421, 421, 421),
    ("closed", "/.doorward/nothing", "GET"): (404, 404, 404, 404, 404, 404),
    ("closed", "/.well-known/doorward/jwks.json", "DELETE"): (405, 405, 405, 405, 405, 405),
    ("nowhere", "/", "GET"): (404, 404, 404, 404, 404, 404),
}
PAGES = {
    # Every page of the two applications; they are for everybody, and say who that is or what is missing.
    ("closed", "/.well-known/doorward/jwks.json", "GET"): (200, 200, 200, 200, 200, 200),
    # The flow begins again, once.
    ("closed", "/.doorward/callback", "GET"): (303, 303, 303, 303, 303, 303),
    ("closed", "/.doorward/whoami", "GET"): (200, 200, 200, 200, 200, 200),
    ("closed", "/.doorward/sign_out", "GET"): (200, 200, 200, 200, 200, 200),
    ("authenticate", "/", "GET"): (200, 200, 200, 200, 200, 200),
    ("authenticate", "/.doorward/sign_in", "GET"): (400, 400, 400, 400, 400, 400),
    ("authenticate", "/.doorward/sign_in/{provider}", "GET"): (400, 400, 400, 400, 400, 400),
    ("authenticate", "/.doorward/callback/{provider}", "GET"): (400, 400, 400, 400, 400, 400),
    ("authenticate", "/.doorward/sign_out", "GET"): (200, 200, 200, 200, 200, 200),
    # Without the token of the page that asks first, no session is ended; without a session there is none to end.
    ("authenticate", "/.doorward/sign_out", "POST"): (200, 400, 400, 200, 200, 200),
    # Last, because it does what it says; whoever sends neither `Origin` nor `Sec-Fetch-Site` is no browser.
    ("closed", "/.doorward/sign_out", "POST"): (200, 200, 200, 200, 200, 200),
}


def endpoints() -> set[tuple[str, str, str]]:
    """What the applications serve, by their own route tables; `closed` stands for every protected host."""
    anything = Mock()
    tables = {
        "closed": pages_app(
            sessions=anything, flows=anything, published=anything, clock=anything, metrics=anything
        ).routes,
        "authenticate": sign_in_app(anything, anything).routes,
    }
    found = set()
    for host, table in tables.items():
        for route in table:
            assert isinstance(route, Route), "a mount would hide what is below it"
            found |= {(host, route.path, method) for method in (route.methods or ()) if method != "HEAD"}
    return found


def test_s90_every_page_has_its_row():
    assert PAGES.keys() == endpoints()


def test_s90_every_door_for_everybody(open_site: Site, token_issuer: TokenIssuer):
    """Each person's cookies, one at each host, and each program's token, at every door."""
    accounts = [account(open_site, name, group) for name, group in (("plain", "eng"), ("chief", "admins"))]
    external = token_issuer.token(time.time())
    wrong = []
    with ExitStack() as stack:
        bob, alice, nobody, *programs = (stack.enter_context(open_site.client()) for _ in range(6))
        for name, person in (("bob", bob), ("alice", alice)):
            person.sign_in(open_site.url("closed") + "/", *PASSWORDS[name])
            for host in ("paths", "builds"):
                person.navigate(open_site.url(host) + "/exact")
        wait_for(
            lambda: (
                nobody.get(open_site.url("builds") + "/", headers={"authorization": f"Bearer {external}"}).status_code
                == 200
            ),
            20,
            what="the issuer's keys",
        )
        # A cookie of one host is nothing at another.
        handle = alice.cookie("closed.localhost", SESSION_COOKIE)
        elsewhere = alice.request("GET", open_site.url("paths") + "/admin", cookie_header=f"{SESSION_COOKIE}={handle}")
        assert elsewhere.status_code == 401
        bearers = [{"authorization": f"Bearer {text}"} for text in (*accounts, external)]
        callers = [(nobody, {}), (bob, {}), (alice, {}), *zip(programs, bearers, strict=True)]
        for (host, path, method), expected in (DOORS | PAGES).items():
            place = open_site.url(host) + path.replace("{provider}", "demo")
            found = tuple(caller.request(method, place, headers=headers).status_code for caller, headers in callers)
            if found != expected:
                wrong.append(((host, path, method), found, expected))
    assert wrong == []
