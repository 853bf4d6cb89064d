"""Credentials that an upstream is given: the identity provider's tokens, and a cluster's service account."""

from pathlib import Path

import pytest
from tests.unit.authorize.builders import CONFIG, World, passed, set_headers, status

from doorward.clock import SystemClock
from doorward.envoy_api.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from doorward.errors import UnavailableError
from doorward.identity.upstream_token import UpstreamToken
from doorward_authorize.kubernetes import LOOK_AGAIN_SECONDS, TOKEN_LIMIT_BYTES, TokenFiles

ALICE = "616c696365".ljust(32, "0")
TOKENS = (
    CONFIG
    + """\
  - name: tokens
    from: https://tokens.example.com
    to: https://10.0.0.1:9003
    set_request_headers: {authorization: "Bearer ${access_token}", x-id: "${id_token}"}
    policy: [{allow: {and: [{authenticated_user: true}]}}]
  - name: half
    from: https://half.example.com
    to: https://10.0.0.1:9003
    set_request_headers: {authorization: "Bearer ${access_token}"}
    policy: [{allow: {or: [{accept: true}]}}]
  - name: cluster
    from: https://cluster.example.com
    to: https://10.0.0.1:6443
    kubernetes_service_account_token_file: cluster-token
    claim_headers: {x-who: email}
    policy: [{allow: {or: [{accept: true}]}}]
"""
)
HOSTS = {name: f"{name}.example.com" for name in ("tokens", "half", "cluster")}


class UpstreamWorld(World):
    def __init__(self, folder: Path, config: str = TOKENS) -> None:
        super().__init__(folder, config)
        (folder / "cluster-token").write_text("service-token\n")

    def give(self, access: str = "acc", identity: str = "idt", *, life: float = 300) -> None:
        ends = self.clock.now() + life
        token = UpstreamToken(
            session_id=ALICE, access_token=access, access_expires_at=ends, id_token=identity, id_expires_at=ends
        )
        self.records.data["SessionUpstreamToken", ALICE] = token.to_bytes()


@pytest.fixture
def world(tmp_path: Path) -> UpstreamWorld:
    return UpstreamWorld(tmp_path)


def every(response: CheckResponse, name: str) -> list[str]:
    return [option.header.value for option in response.ok_response.headers if option.header.key == name]


async def test_tokens_are_filled_in_and_follow_every_renewal(world: UpstreamWorld):
    cookie = world.sign_in(host=HOSTS["tokens"])
    world.give()
    headers = set_headers(await world.check("tokens", cookie=cookie))
    assert (headers["authorization"], headers["x-id"]) == ("Bearer acc", "idt")
    world.give("newer", "idt2")
    headers = set_headers(await world.check("tokens", cookie=cookie))
    assert (headers["authorization"], headers["x-id"]) == ("Bearer newer", "idt2")


@pytest.mark.parametrize("fault", ["none", "spoiled", "run out", "unprintable", "empty"])
async def test_without_a_token_that_counts_the_header_is_removed(world: UpstreamWorld, fault: str):
    """The client's own `Authorization` in its place would pass for one that we have set."""
    cookie = world.sign_in(host=HOSTS["tokens"])
    match fault:
        case "spoiled":
            world.records.data["SessionUpstreamToken", ALICE] = b"\xff"
        case "run out":
            world.give(life=1)
            assert set_headers(await world.check("tokens", cookie=cookie))["x-id"] == "idt"
            world.clock.advance(1)
        case "unprintable":
            world.give("a\nb", "a b")
        case "empty":
            world.give("", "")
        case _:
            pass
    response = await world.check("tokens", cookie=cookie, authorization="Bearer mine")
    assert passed(response)
    assert not {"authorization", "x-id"} & set_headers(response).keys()
    assert {"authorization", "x-id"} <= set(response.ok_response.headers_to_remove)


async def test_one_persons_token_is_nobody_elses(world: UpstreamWorld):
    world.give()
    for cookie in (world.sign_in("bob", host=HOSTS["half"]), None):
        response = await world.check("half", **({"cookie": cookie} if cookie else {}))
        assert passed(response)
        assert "authorization" not in set_headers(response)
    account = await world.check("half", authorization=f"Bearer {world.account()}")
    assert "authorization" not in set_headers(account)


async def test_a_route_that_asks_for_one_token_gets_that_one(world: UpstreamWorld):
    world.give()
    assert world.settings.routes_in_brief.provider_tokens == {"access_token", "id_token"}
    response = await world.check("half", cookie=world.sign_in(host=HOSTS["half"]))
    assert set_headers(response)["authorization"] == "Bearer acc"
    assert "idt" not in str(response)


async def test_a_cluster_is_told_for_whom_its_account_speaks(world: UpstreamWorld):
    cookie = world.sign_in(host=HOSTS["cluster"], groups=frozenset({"eng", "admins"}))
    response = await world.check("cluster", cookie=cookie, authorization="Bearer mine")
    assert every(response, "authorization") == ["Bearer service-token"]
    assert every(response, "impersonate-user") == ["alice@example.com"]
    assert every(response, "impersonate-group") == ["admins,eng"]
    assert not {"authorization", "impersonate-user"} & set(response.ok_response.headers_to_remove)
    assert every(response, "x-who") == ["alice@example.com"]


async def test_a_token_of_ours_does_not_take_the_accounts_away(world: UpstreamWorld):
    response = await world.check("cluster", authorization=f"Bearer {world.account(groups=frozenset({'robots'}))}")
    assert every(response, "authorization") == ["Bearer service-token"]
    assert every(response, "impersonate-group") == ["robots"]
    assert "authorization" not in response.ok_response.headers_to_remove


async def test_nobody_is_passed_on_as_the_service_account_itself(world: UpstreamWorld):
    """The account may impersonate: whoever got through without being named would be anybody."""
    response = await world.check("cluster")
    assert status(response) == 503
    assert "service-token" not in str(response)


async def test_no_directory_makes_anybody_one_of_kubernetes_own(world: UpstreamWorld):
    groups = frozenset({"system:masters", "SYSTEM:nodes", "a,system:masters", "ü", " x", "a\nb", "eng"})
    response = await world.check("cluster", cookie=world.sign_in(host=HOSTS["cluster"], groups=groups))
    assert every(response, "impersonate-group") == ["eng"]


async def test_groups_that_do_not_fit_refuse_instead_of_saying_half(world: UpstreamWorld):
    many = frozenset(f"group-{number:05d}" for number in range(2000))
    response = await world.check("cluster", cookie=world.sign_in(host=HOSTS["cluster"], groups=many))
    assert status(response) == 503


async def test_an_address_that_nobody_verified_names_nobody(world: UpstreamWorld):
    response = await world.check("cluster", cookie=world.sign_in(host=HOSTS["cluster"], verified=False))
    (user,) = every(response, "impersonate-user")
    assert "@" not in user


def test_a_replaced_token_is_followed_and_a_lost_one_is_none(tmp_path: Path, world: UpstreamWorld):
    files, path = TokenFiles(world.clock), tmp_path / "t"
    with pytest.raises(UnavailableError):
        files.read(str(path))
    path.write_text("one")
    assert files.read(str(path)) == "one"
    path.write_text("other")
    assert files.read(str(path)) == "one"
    world.clock.advance(LOOK_AGAIN_SECONDS)
    assert files.read(str(path)) == "other"
    for bad in (b"", b" \n", b"two words", b"\xff", b"x" * (TOKEN_LIMIT_BYTES + 1)):
        path.write_bytes(bad)
        world.clock.advance(LOOK_AGAIN_SECONDS)
        with pytest.raises(UnavailableError):
            files.read(str(path))
    path.unlink()
    with pytest.raises(UnavailableError):
        TokenFiles(SystemClock()).read(str(path))


@pytest.mark.parametrize(
    "line",
    [
        'set_request_headers: {authorization: "Bearer ${assertion}"}', "claim_headers: {impersonate-user: email}",
        "set_request_headers: {impersonate-group: admins}",
    ],
)  # fmt: skip
def test_what_the_account_says_is_not_a_routes_to_say(tmp_path: Path, line: str):
    (tmp_path / "secret").write_text("s")
    written = TOKENS.replace("    claim_headers: {x-who: email}\n", f"    {line}\n")
    world = World(tmp_path, written)
    route = next(item.route for item in world.settings.routes if item.route.name == "cluster")
    assert route.broken is not None
    assert any("service account's on this route" in str(warning) for warning in world.settings.warnings)
