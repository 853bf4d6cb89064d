"""Planes that are not alike: clocks that are five seconds off either way, two versions side by side, and one that nobody understands."""

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.conftest import PASSWORDS
from tests.support.deployment import short_folder, wait_for
from tests.support.echo import echo_server
from tests.support.next_version import NOTE, VERSION, build_next_version, set_contract
from tests.support.site import everyone, signed_in
from tests.support.split import LOST_SOCKETS, Checker, Split, report, split_deployment, status

from doorward import __version__
from doorward.api.session.v1 import session_pb2
from doorward.clock import SystemClock
from doorward.config.endpoints import Address
from doorward.identity.session import Session
from doorward.records.client import RecordClient
from doorward.rpc.client import open_channel
from doorward.rpc.credentials import PlaneIdentity
from doorward.rpc.planes import Plane

pytestmark = [pytest.mark.e2e, LOST_SOCKETS, pytest.mark.timeout(300)]

SKEWS = {"authenticate": 5, "authorize-1": -5, "authorize-2": 5, "proxy-1": -5, "proxy-2": 5, "operator": -5}
"""Seconds by which clocks are off. The databroker's stays right: two seconds from its store's make it not ready."""
HALF = ("databroker", "authorize-1", "proxy-1")
OTHER_HALF = ("authenticate", "authorize-2", "proxy-2")


@dataclass
class Unlike:
    split: Split
    newer: Path
    """The interpreter of the next version."""

    def become(self, **versions: Sequence[str]) -> None:
        """Start these processes again as `older` or `newer` ones."""
        names = [name for group in versions.values() for name in group]
        with ThreadPoolExecutor(len(names)) as pool:
            # Each takes its time to drain.
            for ended in [pool.submit(self.split.processes[name].end) for name in names]:
                ended.result()
        for name in names:
            self.split.pythons.pop(name, None)
        for name in versions.get("newer", ()):
            self.split.pythons[name] = str(self.newer)
        for name in names:
            self.split.make(name)
        self.split.start(*names)


def off_by(folder: Path, seconds: int) -> dict[str, str]:
    """The environment of a process whose clock is off; time that only passes goes on as ever."""
    place = folder / f"clock{seconds:+d}"
    place.mkdir(exist_ok=True)
    # Python runs this before anything else. gRPC, whose deadlines are times of the day, keeps the clock that its other half in C has.
    (place / "sitecustomize.py").write_text(
        f"import time\nfrom doorward.clock import SystemClock\nSystemClock.now = lambda self: time.time() + {seconds}\n"
    )
    return {"PYTHONPATH": str(place)}


@pytest.fixture(scope="module")
def made() -> Iterator[Unlike]:
    def tell(split: Split) -> None:
        split.environment = {name: off_by(split.folder, seconds) for name, seconds in SKEWS.items()}

    patient = {"staleness_limit": "30s"}

    with ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        building = folder / "next"
        building.mkdir()
        newer = build_next_version(building)
        up = stack.enter_context(echo_server("up"))
        to = f"http://127.0.0.1:{up.port}"
        routes = [
            {"name": "open", "from": "open", "to": to, "policy": everyone()},
            {"name": "closed", "from": "closed", "to": to, "policy": signed_in()},
        ]
        yield Unlike(stack.enter_context(split_deployment(folder, routes, prepare=tell, databroker=patient)), newer)


def sign_in(made: Split, proxy: int) -> str:
    with made.client(proxy) as client:
        answer = client.sign_in(made.url("closed") + "/", *PASSWORDS["alice"])
        assert answer.status_code == 200, answer.text
        return f"__Host-doorward={client.cookie('closed.localhost', '__Host-doorward')}"


def get(made: Split, proxy: int, cookie: str) -> int:
    with made.client(proxy) as client:
        return client.request("GET", made.url("closed") + "/", cookie_header=cookie).status_code


def works(made: Split) -> None:
    """The whole flow, through each proxy and any authorizer."""
    cookies = [sign_in(made, proxy) for proxy in (1, 2)]
    for cookie in cookies:
        for proxy in (1, 2):
            # A busy authorizer may not know a session yet, and says so; it must never say that there is none.
            wait_for(lambda proxy=proxy, cookie=cookie: _settled(made, proxy, cookie), 10, what="the session")  # type: ignore[misc]
            assert get(made, proxy, "") == 401


def _settled(made: Split, proxy: int, cookie: str) -> bool:
    """Whether both authorizers, by turns, let the session in."""
    seen = {get(made, proxy, cookie) for _ in range(4)}
    assert seen <= {200, 503}, "a session that lives is said to be none"
    return seen == {200}


def versions(made: Split) -> set[str]:
    return {item["version"] for item in status(made)["processes"]}


async def note_of(made: Split) -> bytes:
    """What the newest session holds that only the next version writes."""
    identity = PlaneIdentity(made.folder / "operator/data/planes/operator", Plane.OPERATOR, SystemClock())
    address = Address(host="127.0.0.1", port=made.ports["databroker"])
    async with open_channel((address,), Plane.DATABROKER, identity) as channel:
        client = RecordClient(channel)
        sessions = [
            Session.from_bytes(record.data) async for record in client.list(session_pb2.Session.DESCRIPTOR.name)
        ]
    return max(sessions, key=lambda session: session.issued_at).unknown


def test_clocks_that_are_five_seconds_off_sign_people_in_and_out(made: Unlike):
    split = made.split
    split.wait_until_both_serve()
    works(split)
    cookie = sign_in(split, 1)
    with Checker(split, cookie) as checker:
        checker.wait_for_load(20)
        assert split.command("session", "revoke", "--all").returncode == 0
        revoked = time.monotonic()
        until = checker.wait_for_load(20)
    after = checker.allowed.between(revoked, until)
    assert after[200] == 0
    assert after[401] > 10
    assert status(split)["healthy"]
    # Later processes have the right time again, and so the deployment is made whole bit by bit.
    split.environment = {}


async def test_versions_side_by_side_in_either_order_and_back(made: Unlike):
    split = made.split
    with Checker(split, sign_in(split, 1)) as checker:
        checker.wait_for_load(20)
        made.become(newer=HALF)
        assert versions(split) == {__version__, VERSION}
        works(split)
        assert await note_of(split) == b""
        made.become(newer=OTHER_HALF)
        assert versions(split) == {VERSION}
        made.become(older=HALF)
        works(split)
        assert NOTE in await note_of(split), "an older databroker keeps what a newer plane has written"
        checker.wait_for_load(20)
    counted = report("half of the planes upgraded, then the other half and the first one back", checker)
    assert counted[200] / counted.total() >= 0.999


def test_a_plane_whose_contract_nobody_understands_is_refused_in_words_and_opens_nothing(made: Unlike):
    split = made.split
    stranger = "authorize-1"
    split.processes[stranger].end()
    set_contract(made.newer, 7)
    split.pythons[stranger] = str(made.newer)
    process = split.make(stranger)
    started: list[BaseException | None] = []

    def start() -> None:
        try:
            process.start()
            started.append(None)
        except RuntimeError as error:
            started.append(error)

    cookie = sign_in(split, 1)
    with Checker(split, cookie) as checker:
        thread = threading.Thread(target=start)
        thread.start()
        words = "speaks contract 7, and this plane understands 1"
        wait_for(lambda: words in (split.folder / stranger / "log").read_text(), 20, what="the refusal")
        checker.wait_for_load(50)
        process.kill()
        thread.join()
    assert isinstance(started[0], RuntimeError), "it never said that it serves"
    counted = report("an authorizer of an unknown contract comes up", checker)
    assert counted[200] == counted.total()
    shutil.rmtree(made.newer.parents[1])
