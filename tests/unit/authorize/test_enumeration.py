"""S80: what a stranger gets says nothing about who or what there is, neither in words nor in time."""

import hmac
import re
import secrets
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.authorize.builders import World

from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from doorward.keys.handle import SessionHandle
from doorward.keys.service_token import new_token


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def without_ids(response: CheckResponse) -> str:
    """An answer without what differs from answer to answer: decision ids, sealed cookies and signed addresses."""
    text = re.sub(r"test-[0-9a-f]+-[0-9a-f]+", "ID", str(response))
    text = re.sub(r"(__Host-doorward-flow-\d+-)[^=]+=[^;]+", r"\1FLOW", text)
    return re.sub(r"https://sign-in\.example\.com/[^\"]*", "SIGN-IN", text)


@pytest.mark.parametrize("asks", [{}, {"accept": "text/html", "sec_fetch_dest": "document"}])
async def test_s80_a_cookie_of_nobody_is_answered_like_none(world: World, asks: dict[str, str]):
    now = int(world.clock.now())
    nobody = SessionHandle(session_id="f" * 32, audience="app.example.com", expires_at=now + 60, epoch=1, number=1)
    cookies = {
        "none": {},
        "malformed": {"cookie": "__Host-doorward=x"},
        "of nobody": {"cookie": f"__Host-doorward={world.handles.mint(nobody)}"},
        "of another host": {"cookie": world.sign_in(host="admin.example.com")},
    }
    answers = {label: without_ids(await world.check("app", **asks, **sent)) for label, sent in cookies.items()}
    assert set(answers.values()) == {answers["none"]}


async def test_s80_a_wrong_token_is_answered_like_one_of_no_account(world: World):
    there = world.account("robot")
    wrong = there[:-4] + ("0000" if not there.endswith("0000") else "1111")
    absent = world.account("absent")
    world.records.data.pop(("ServiceAccount", "sa-" + b"absent".ljust(16, b"0").hex()))
    ended = world.account("ended", life=-1)
    answers = [
        without_ids(await world.check("app", authorization=f"Bearer {sent}"))
        for sent in (wrong, absent, ended, "dwsa_garbage")
    ]
    assert len(set(answers)) == 1


async def test_s80_a_route_that_is_not_there_is_answered_alike_for_everybody(world: World):
    answers = {
        without_ids(await world.check(route, digest="x" * 32, **sent))
        for route in ("app", "admin", "nothing")
        for sent in ({}, {"cookie": world.sign_in()}, {"authorization": "Bearer dwsa_x"})
    }
    assert len(answers) == 1


def test_s80_every_guess_of_a_token_is_compared_whole(world: World, monkeypatch: pytest.MonkeyPatch):
    """Keyed hashes are compared, so that not even a comparison that leaks would help to guess on."""
    compared: list[tuple[bytes, bytes]] = []
    original = hmac.compare_digest

    def noting(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return original(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    secret = b"s" * 32
    stored = world.hasher.hash("00" * 16, secret)
    for guess in (b"x" + secret[1:], secret[:-1] + b"x", secret):
        compared.clear()
        assert (world.hasher.match("00" * 16, guess, stored) is not None) is (guess == secret)
        assert len(compared) == len(world.hasher.keys)
        assert all(secret not in pair and len(pair[0]) == len(pair[1]) == 32 for pair in compared)


SAMPLES = 400
"""Of each kind, taken in turns, so that whatever else the machine does meets all of them; half of the samples may be spoiled by it."""


def medians(world: World, kinds: dict[str, Callable[[], dict[str, str]]]) -> dict[str, float]:
    """Microseconds from a check's bytes to its answer; each request has a credential that was never seen before."""
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(SAMPLES):
        for kind, made in kinds.items():
            data = world.request("app", **made())  # type: ignore[arg-type]
            began = time.perf_counter()
            answer = world.checker.check(data)
            seconds[kind].append(time.perf_counter() - began)
            assert isinstance(answer, bytes)
    return {kind: statistics.median(values) * 1e6 for kind, values in seconds.items()}


def test_s80_a_cookie_that_is_not_ours_takes_as_long_as_none(world: World):
    """The time must not tell whether there has been a session, nor on which host. Not to open a cookie at all saves 20 µs of 80."""
    now = int(world.clock.now())

    def minted(audience: str) -> dict[str, str]:
        handle = SessionHandle(
            session_id=secrets.token_hex(16), audience=audience, expires_at=now + 60, epoch=1, number=1
        )
        return {"cookie": f"__Host-doorward={world.handles.mint(handle)}"}

    length = len(minted("app.example.com")["cookie"])
    took = medians(
        world,
        {
            "none": lambda: {"cookie": secrets.token_urlsafe(length)[:length]},
            "malformed": lambda: {"cookie": f"__Host-doorward={secrets.token_urlsafe(length)}"[:length]},
            "of nobody": lambda: minted("app.example.com"),
            "of another host": lambda: minted("admin.example.com"),
        },
    )
    assert max(took.values()) < 2 * min(took.values()), took
    opened = (took["of nobody"], took["of another host"])
    assert max(opened) < 1.25 * min(opened), took


def test_s80_a_token_of_no_account_takes_as_long_as_a_wrong_one(world: World):
    world.account("robot")

    def token(number: bytes) -> dict[str, str]:
        return {"authorization": f"Bearer {new_token(number, secrets.token_bytes(32))}"}

    took = medians(
        world,
        {
            "wrong": lambda: token(b"robot".ljust(16, b"0")),
            "of no account": lambda: token(secrets.token_bytes(16)),
        },
    )
    assert max(took.values()) < 1.25 * min(took.values()), took
