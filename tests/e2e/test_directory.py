"""A directory through every plane: its groups decide, its changes take effect at once, its outage changes nothing."""

import json
import os
import re
import select
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.e2e.conftest import PASSWORDS
from tests.e2e.test_secrets_stay import account
from tests.support.deployment import free_port, short_folder, wait_for
from tests.support.echo import EchoServer
from tests.support.loopback_directory import serve_directory
from tests.support.rest_directory import FakeKeycloak, Population
from tests.support.site import Site, signed_in, site

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def directory() -> FakeKeycloak:
    known = Population(people={"alice": True, "bob": True})
    known.groups = {"g-staff": "staff", "g-guests": "guests"}
    known.join("g-staff", "alice")
    return FakeKeycloak(known, page=2)


@pytest.fixture(scope="module")
def place(directory: FakeKeycloak, shared_echo: EchoServer) -> Iterator[Site]:
    staff = [{"allow": {"and": [{"groups": {"has": "/staff"}}]}}]
    with serve_directory(directory) as address, short_folder() as folder:
        (folder / "directory-secret").write_text("secret")
        routes: list[dict[str, Any]] = [
            {"name": "staff", "from": "staff", "to": f"http://127.0.0.1:{shared_echo.port}", "policy": staff},
            {"name": "open", "from": "open", "to": f"http://127.0.0.1:{shared_echo.port}", "policy": signed_in()},
        ]
        described = {
            "id": "people", "type": "keycloak", "url": address, "realm": "corp", "client_id": "reader",
            "client_secret": "file:directory-secret", "identity_provider": "demo", "every": "1h",
        }  # fmt: skip
        with site(folder, routes, directories=[described]) as made:
            # Before its first reading nobody's groups are known, and a sign-in could be faster than that.
            assert sync(made)["problem"] is None
            yield made


def sync(place: Site, *more: str) -> dict[str, Any]:
    result = place.run.command("directory", "sync", "people", "--now", "--json", *more)
    assert result.stdout, result.stderr
    return dict(json.loads(result.stdout))


def status_of(response: httpx.Response) -> int:
    return response.status_code


def test_s65_a_group_in_the_directory_decides_and_its_removal_denies_within_a_second(
    place: Site, directory: FakeKeycloak
):
    known = directory.population
    with place.client() as alice:
        assert status_of(alice.sign_in(place.url("staff") + "/", *PASSWORDS["alice"])) == 200
        known.members["g-staff"].remove("alice")
        known.join("g-guests", "alice")
        outcome = sync(place)
        fed = time.monotonic()
        assert (outcome["problem"], outcome["users"], outcome["groups"]) == (None, 2, 2)
        wait_for(lambda: status_of(alice.get(place.url("staff") + "/")) == 403, what="the denial")
        assert time.monotonic() - fed < 1.0
        known.members["g-staff"].append("alice")
        sync(place)
        wait_for(lambda: status_of(alice.get(place.url("staff") + "/")) == 200, 1.0, what="the way back in")


def test_a_directory_that_fails_keeps_its_last_word_and_says_so(place: Site, directory: FakeKeycloak):
    with place.client() as alice:
        assert status_of(alice.sign_in(place.url("staff") + "/", *PASSWORDS["alice"])) == 200
        directory.fault = lambda request: httpx.Response(404) if "/members" in request.url.path else None
        try:
            result = place.run.command("directory", "sync", "people", "--now")
            assert result.returncode == 1
            assert "404" in result.stderr
            assert status_of(alice.get(place.url("staff") + "/")) == 200
            shown = place.run.command("directory", "status")
            assert shown.returncode == 1
            assert "people" in shown.stdout
        finally:
            directory.fault = None
        assert sync(place)["problem"] is None
        assert place.run.command("directory", "status", "--json").returncode == 0


def on_a_terminal(place: Site, *arguments: str) -> tuple[subprocess.Popen[str], int]:
    """``doorward ARGUMENTS`` with a terminal for what it says beside its result, and where to read that."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen(
        [sys.executable, "-m", "doorward.cli.app", *arguments, "--data", str(place.run.data)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, text=True, env=os.environ | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    return process, ours


def test_whoever_waits_at_a_terminal_for_a_directory_sees_it_move(place: Site, directory: FakeKeycloak):
    """And a program that waits gets one plain line at the end."""
    may_answer = threading.Semaphore(0)

    def wait_for_turn(request: httpx.Request) -> httpx.Response | None:
        if "/members" in request.url.path:
            may_answer.acquire(timeout=20)
        return None

    directory.fault = wait_for_turn
    process, terminal = on_a_terminal(place, "directory", "sync", "people", "--now")
    shown = b""

    def sees(pattern: bytes) -> bool:
        nonlocal shown
        while not re.search(pattern, shown) and select.select([terminal], [], [], 0)[0]:
            shown += os.read(terminal, 4096)
        return re.search(pattern, shown) is not None

    try:
        for done in (0, 1):
            wait_for(lambda: sees(rb"people: reading groups .*\D%d/2" % done), what=f"{done} groups read")  # noqa: B023
            may_answer.release()
        stdout, _ = process.communicate(timeout=10)
    finally:
        directory.fault = None
        process.kill()
        os.close(terminal)
    told = r"people: 2 people, 2 groups, 1 records written in \d\.\d s\n"
    assert process.returncode == 0
    assert re.fullmatch(told, stdout)
    result = place.run.command("directory", "sync", "people", "--now")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(told, result.stdout)


def test_s66_whoever_the_directory_disables_is_out_everywhere(place: Site, directory: FakeKeycloak):
    with place.client() as bob:
        assert status_of(bob.sign_in(place.url("open") + "/", *PASSWORDS["bob"])) == 200
        before = [json.loads(line) for line in place.run.command("session", "list", "--json").stdout.splitlines()]
        assert any(item["email"] == "bob@example.com" for item in before)
        directory.population.people["bob"] = False
        sync(place)
        wait_for(lambda: status_of(bob.get(place.url("open") + "/")) != 200, 1.0, what="the end")
        after = [json.loads(line) for line in place.run.command("session", "list", "--json").stdout.splitlines()]
        assert not any(item["email"] == "bob@example.com" for item in after)
        again = bob.sign_in(place.url("open") + "/", *PASSWORDS["bob"])
        assert status_of(again) == 403
        directory.population.people["bob"] = True
        sync(place)
        wait_for(lambda: status_of(bob.get(place.url("open") + "/")) == 200, 1.0, what="the way back in")


def test_a_session_is_shown_with_its_claims_and_ended_by_identity_provider(place: Site, directory: FakeKeycloak):
    with place.client() as alice:
        alice.sign_in(place.url("open") + "/", *PASSWORDS["alice"])
        listed = place.run.command("session", "list", "--provider", "demo", "--json").stdout.splitlines()
        session_id = json.loads(listed[0])["id"]
        shown = json.loads(place.run.command("session", "show", session_id, "--json").stdout)
        assert shown["identity_provider"] == "demo"
        assert shown["claims"]["email"]
        assert "token" not in json.dumps(shown)
        assert place.run.command("session", "show", "0" * 32).returncode == 1
        ended = place.run.command("session", "revoke", "--provider", "demo", "--json")
        assert json.loads(ended.stdout)["revoked"] >= 1
        assert status_of(alice.get(place.url("open") + "/")) != 200


TOKEN = "a-scim-token-of-good-length"


@pytest.fixture(scope="module")
def pushed(shared_echo: EchoServer) -> Iterator[tuple[Site, httpx.Client]]:
    """A directory that pushes, and its client."""
    port = free_port()
    staff = [{"allow": {"and": [{"groups": {"has": "staff"}}]}}]
    with short_folder() as folder:
        (folder / "scim-token").write_text(TOKEN)
        route = {"name": "staff", "from": "staff", "to": f"http://127.0.0.1:{shared_echo.port}", "policy": staff}
        described = {
            "id": "pushed", "type": "scim", "identity_provider": "demo", "join": "sub", "tokens": ["file:scim-token"],
        }  # fmt: skip
        with (
            site(folder, [route], directories=[described], scim={"listen": f"127.0.0.1:{port}"}) as made,
            httpx.Client(
                base_url=f"http://127.0.0.1:{port}/pushed/v2",
                headers={"authorization": f"Bearer {TOKEN}"},
                trust_env=False,
            ) as client,
        ):
            wait_for(lambda: client.get("/Users").status_code == 200, what="the listener")
            yield made, client


def test_s65_what_a_scim_client_pushes_decides_within_a_second(pushed: tuple[Site, httpx.Client]):
    place, scim = pushed
    core = "urn:ietf:params:scim:schemas:core:2.0"
    user = {"schemas": [f"{core}:User"], "userName": "alice@example.com", "externalId": "alice"}
    user_id = scim.post("/Users", json=user).json()["id"]
    with place.client() as alice:
        assert status_of(alice.sign_in(place.url("staff") + "/", *PASSWORDS["alice"])) == 403
        group = {"schemas": [f"{core}:Group"], "displayName": "staff", "members": [{"value": user_id}]}
        group_id = scim.post("/Groups", json=group).json()["id"]
        wait_for(lambda: status_of(alice.get(place.url("staff") + "/")) == 200, 1.0, what="the way in")
        change = {"op": "remove", "path": f'members[value eq "{user_id}"]'}
        patch = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"], "Operations": [change]}
        assert scim.patch(f"/Groups/{group_id}", json=patch).status_code in {200, 204}
        wait_for(lambda: status_of(alice.get(place.url("staff") + "/")) == 403, 1.0, what="the denial")
        assert "pushed" in place.run.command("directory", "status").stdout


SCIM_DOORS = {
    # What the directory's own client gets; everybody else gets the same nothing everywhere.
    "": 200,
    "/Users": 200,
    "/Users/{user}": 200,
    "/Users/.search": 404,
    "/Groups": 200,
    "/Groups/{group}": 200,
    "/Groups/.search": 404,
    "/.search": 405,
    "/Bulk": 405,
    "/Me": 501,
    "/ResourceTypes": 200,
    "/Schemas": 200,
    "/ServiceProviderConfig": 200,
    "/nowhere": 404,
}


def test_s90_every_scim_door_is_for_the_directory_s_own_client(pushed: tuple[Site, httpx.Client]):
    """Tokens of anybody else, and cookies of people, are worth nothing there, whatever they ask and wherever."""
    place, scim = pushed
    core = "urn:ietf:params:scim:schemas:core:2.0"
    user = scim.post("/Users", json={"schemas": [f"{core}:User"], "userName": "bob@example.com"}).json()["id"]
    group = scim.post("/Groups", json={"schemas": [f"{core}:Group"], "displayName": "doors"}).json()["id"]
    listed = {door["endpoint"] for door in scim.get("/ResourceTypes").json()["Resources"]}
    assert listed <= SCIM_DOORS.keys(), "a kind of resource without a row"
    before = [scim.get(path).json() for path in ("/Users", "/Groups")]
    with place.client() as alice:
        alice.sign_in(place.url("staff") + "/", *PASSWORDS["alice"])
        handle = alice.cookie("staff.localhost", "__Host-doorward")
    callers: dict[str, dict[str, str]] = {
        "nobody": {},
        "a token that is none": {"authorization": "Bearer x"},
        "another scheme": {"authorization": f"Basic {TOKEN}"},
        "a service account": {"authorization": f"Bearer {account(place, 'pusher', 'staff')}"},
        "a person": {"cookie": f"__Host-doorward={handle}", "authorization": f"Bearer {handle}"},
    }
    wrong = []
    with httpx.Client(base_url=scim.base_url, trust_env=False) as others:
        for door, expected in SCIM_DOORS.items():
            path = door.format(user=user, group=group)
            if (found := scim.get(path).status_code) != expected:
                wrong.append((door, "its own client", found))
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
                for who, headers in callers.items():
                    answer = others.request(method, path, headers=headers, json={})
                    if (answer.status_code, answer.json()["detail"]) != (401, "no valid token"):
                        wrong.append((door, method, who, answer.status_code))
    assert wrong == []
    assert [scim.get(path).json() for path in ("/Users", "/Groups")] == before
