"""No request that begins after `applied` is let in, whatever is killed, stopped or put back meanwhile; a short history in every run.

By hand, longer and with everything that can fail: ``python bench/history.py --stage apart --seconds 600``.
"""

import asyncio
import json
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
import pytest
from tests.e2e.conftest import PASSWORDS
from tests.support.deployment import short_folder, wait_for
from tests.support.echo import echo_server
from tests.support.history import Driver, History
from tests.support.site import Site, signed_in, site
from tests.support.stages import Apart, OneMachine, apart

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]


def routes_to(port: int) -> list[dict[str, Any]]:
    return [{"name": "live", "from": "live", "to": f"http://127.0.0.1:{port}", "policy": signed_in()}]


@pytest.fixture(scope="module")
def made() -> Iterator[Site]:
    with echo_server("live") as upstream, short_folder() as folder, site(folder, routes_to(upstream.port)) as running:
        yield running


@pytest.fixture
def partitioned() -> Iterator[Apart]:
    with echo_server("live") as upstream, short_folder() as folder, apart(folder, routes_to(upstream.port)) as stage:
        stage.only_partitions = True
        stage.longest = 3.0
        yield stage


async def test_s43_no_request_that_begins_after_applied_is_let_in(made: Site):
    history = History(seed=secrets.randbits(32))
    driver = Driver(OneMachine(made), history)
    await driver.run(4.0, faults=False)
    await driver.run(12.0, faults=True)
    assert history.violations == [], f"seed {history.seed}: {history.faults}"
    assert history.lost == [], f"seed {history.seed}: {history.faults}"
    assert history.allowed > 20
    assert history.applied


async def test_s43_partitions_and_failovers_let_nobody_in_either_and_lose_nothing_that_all_replicas_confirmed(
    partitioned: Apart,
):
    """First as one of two replicas confirms, where a failover may end sessions; then as both do, where it may not.

    Both seeds begin with a primary that is cut off together with databrokers, until another one has taken over.
    """
    some, every = History(seed=1), History(seed=14)
    await drive(partitioned, some)
    await asyncio.to_thread(partitioned.confirm_by_all)
    await drive(partitioned, every)
    assert every.lost == [], every.faults
    for history in (some, every):
        assert history.violations == [], history.faults
        assert history.faults
        assert history.applied
        assert history.allowed > 20
        assert history.refused > 20


async def drive(stage: Apart, history: History) -> None:
    driver = Driver(stage, history)
    while not history.applied:
        await driver.run(1.0, faults=False)
    await driver.run(6.0, faults=True)


def test_s43_a_store_that_is_put_back_older_lets_nobody_in_who_was_refused(made: Site):
    """In files of before a revoke the session lives, and a databroker that starts on them has never heard of its end.

    Only the authorizer knows better; what a databroker does that remembers is seen on the store alone.
    """
    with made.client() as client:
        assert client.sign_in(made.url("live") + "/", *PASSWORDS["alice"]).status_code == 200
        cookie = f"__Host-doorward={client.cookie('live.localhost', '__Host-doorward')}"
    listed = [json.loads(line) for line in made.run.command("session", "list", "--json").stdout.splitlines()]
    session = max(listed, key=lambda item: item["issued_at"])["id"]
    store, older = made.data / "store", made.folder / "older"
    shutil.copytree(store, older)
    assert any(f"r:Session:{session}".encode() in file.read_bytes() for file in older.rglob("*") if file.is_file())
    revoked = made.run.command("session", "revoke", session, "--json")
    assert json.loads(revoked.stdout)["state"] == "applied", revoked.stderr
    stop, answers = threading.Event(), list[int]()

    def ask() -> None:
        while not stop.is_set():
            with made.client() as client:
                answers.append(client.request("GET", made.url("live") + "/", cookie_header=cookie).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        put_back(made, lambda: (shutil.rmtree(store), shutil.copytree(older, store)), ("valkey", "databroker"))
        wait_for(lambda: can_sign_in(made), 60, what="somebody to be let in again")
        seen = len(answers)
        wait_for(lambda: len(answers) > seen + 20, what="requests after all is well again")
    finally:
        stop.set()
        asking.join()
    assert set(answers) <= {401, 503}, "an older history let somebody in"
    assert set(answers[-10:]) == {401}


def put_back(made: Site, replace: Callable[[], object], killed: Sequence[str]) -> None:
    """Kill members and ``replace`` the store's files, before anybody starts anything again."""
    parent = psutil.Process(made.run.process.pid)
    parent.suspend()
    try:
        for member in [made.run.member(name) for name in killed]:
            member.kill()
            wait_for(lambda member=member: member.status() == psutil.STATUS_ZOMBIE, what="its end")  # type: ignore[misc]
        replace()
    finally:
        parent.resume()


def can_sign_in(made: Site) -> bool:
    """Whether somebody new gets in. Until then they are told so, and never sent round in circles."""
    with made.client() as client:
        try:
            return client.sign_in(made.url("live") + "/", *PASSWORDS["bob"]).status_code == 200
        except AssertionError as error:
            if "redirects" in str(error):
                pytest.fail(f"a sign-in went round in circles: {error}")
            return False
