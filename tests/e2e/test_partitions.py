"""Two of everything with addresses of their own: each half is killed, and what must talk to each other is cut off.

A wrong allow would be one without a session, one after a revoke that is `applied`, or one by data older than the staleness limit.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from tests.e2e.conftest import PASSWORDS
from tests.support.deployment import short_folder, wait_for
from tests.support.namespaces import Nodes, on_nodes
from tests.support.site import everyone, signed_in
from tests.support.split import LOST_SOCKETS, Checker, failed, report, status

pytestmark = [pytest.mark.e2e, LOST_SOCKETS, pytest.mark.timeout(240)]

LIMIT_SECONDS = 3
DATABROKERS = ("databroker-1", "databroker-2")


@pytest.fixture(scope="module")
def made() -> Iterator[Nodes]:
    routes = [
        {"name": "open", "from": "open", "policy": everyone()},
        {"name": "closed", "from": "closed", "policy": signed_in()},
    ]
    with short_folder() as folder, on_nodes(folder, routes, LIMIT_SECONDS) as running:
        yield running


def sign_in(made: Nodes) -> str:
    with made.client() as client:
        answer = client.sign_in(made.url("closed") + "/", *PASSWORDS["alice"])
        assert answer.status_code == 200, answer.text
        return f"__Host-doorward={client.cookie('closed.localhost', '__Host-doorward')}"


def get(made: Nodes, proxy: int, route: str, cookie: str = "") -> int:
    with made.client(proxy) as client:
        return client.request("GET", made.url(route) + "/", cookie_header=cookie).status_code


def ready(made: Nodes) -> Counter[str]:
    """How many processes of each plane serve."""
    return Counter(item["plane"] for item in status(made)["processes"] if item["ready"])


ALL = Counter({"authenticate": 1, "authorize": 2, "databroker": 2, "proxy": 2})


def test_the_flow_passes_through_any_of_them(made: Nodes):
    cookie = sign_in(made)
    for proxy in (1, 2):
        assert get(made, proxy, "open") == 200
        assert get(made, proxy, "closed") == 401
        assert get(made, proxy, "closed", cookie) == 200
    assert ready(made) == ALL


def test_an_authorizer_that_is_cut_off_lets_nobody_in_after_a_revoke(made: Nodes):
    """It cannot hear of the revoke; `applied` waits until its lease has run out, and Envoy goes to the other one."""
    cookie = sign_in(made)
    with Checker(made, cookie) as checker:
        began = checker.wait_for_load(20)
        made.network.cut("authorize-1", *DATABROKERS)
        checker.wait_for_load(20)
        wait_for(lambda: made.command("session", "revoke", "--all").returncode == 0, 20, what="an applied revoke")
        applied = time.monotonic()
        counted = report("authorize-1 is cut off, until a revoke is applied", checker, began)
        assert counted[503] == 0, "it hands on what its data are too old for"
        until = checker.wait_for_load(50)
    after = checker.allowed.between(applied, until)
    assert after[200] == 0
    assert after[401] > 50
    cookie = sign_in(made)
    with Checker(made, cookie) as checker:
        checker.wait_for_load(50)
        assert failed(report("authorize-1 is cut off", checker)) == 0
        made.network.heal("authorize-1", *DATABROKERS)
        wait_for(lambda: ready(made) == ALL, 20, what="authorize-1 to catch up")
        checker.wait_for_load(20)
    assert failed(report("authorize-1 is back", checker)) == 0


def test_a_proxy_that_is_cut_off_from_one_authorizer_asks_the_other(made: Nodes):
    cookie = sign_in(made)
    with Checker(made, cookie) as checker:
        checker.wait_for_load(20)
        made.network.cut("proxy-1", "authorize-1")
        checker.wait_for_load(150)
        made.network.heal("proxy-1", "authorize-1")
        checker.wait_for_load(20)
    assert failed(report("proxy-1 is cut off from authorize-1", checker)) <= 0.01


def test_without_the_store_nobody_is_let_in_after_the_limit_until_it_is_back(made: Nodes):
    cookie = sign_in(made)
    with Checker(made, cookie) as checker:
        checker.wait_for_load(20)
        made.network.cut("store", *DATABROKERS)
        cut = time.monotonic()
        # The limit counts from the last proof, which may be a moment older or younger than the cut.
        until = cut + LIMIT_SECONDS + 1
        wait_for(lambda: time.monotonic() > until, LIMIT_SECONDS + 10, what="the limit")
        end = checker.wait_for_load(20)
        report("both databrokers are cut off from the store", checker, cut)
        after = checker.allowed.between(until, end)
        assert set(after) == {503}
        made.network.heal("store", *DATABROKERS)
        healed = time.monotonic()
        wait_for(lambda: checker.allowed.between(healed, time.monotonic())[200] > 20, 20, what="the first to be let in")
        report("the store is back", checker, healed)
    wait_for(lambda: ready(made) == ALL, 20, what="everything to serve again")
    assert get(made, 2, "closed", cookie) == 200


def test_each_half_may_be_killed(made: Nodes):
    """The last one here: what is killed last is not started again."""
    first = ("databroker-1", "authorize-1", "proxy-1")
    second = ("databroker-2", "authorize-2", "proxy-2", "authenticate")
    cookie = sign_in(made)
    with Checker(made, cookie) as checker:
        made.wait_until_both_serve()
        _kill(made, checker, first)
        made.start(*first)
        made.wait_until_both_serve()
        _kill(made, checker, second)
    assert failed(report("kills of everything, one half after the other", checker)) <= 0.001


def _kill(made: Nodes, checker: Checker, victims: Sequence[str]) -> None:
    for victim in victims:
        began = checker.wait_for_load(20)
        made.processes[victim].kill()
        checker.wait_for_load(30)
        assert failed(report(f"kill {victim} at its own address", checker, began)) <= 0.01
