"""What every directory that is read must do: tell everything or fail, through pages, limits, outages and deletions.

LDAP runs against Debian's slapd, the others against servers that keep the recorded shapes of the real ones. GitHub knows
no inactive members, GitHub and Okta no nested groups; that is declared, and nothing else is excused.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.directory_bench import REST, Bench, folder_of, ldap_bench, ldap_source, population, rest_bench
from tests.support.fake_clock import FakeClock
from tests.support.rest_directory import (
    FakeEntra,
    Population,
)
from tests.support.slapd import SUFFIX, Slapd, publish, slapd

from doorward_databroker.directory.port import (
    DirectoryError,
    DirectoryRefusedError,
    DirectoryUnavailableError,
    Progress,
)
from doorward_databroker.directory.roster import Roster
from doorward_databroker.directory.sources.keycloak import KeycloakSource
from doorward_databroker.directory.sources.rest import LONGEST_WAIT_SECONDS


@pytest.fixture(scope="module")
def server() -> Iterator[Slapd]:
    with slapd() as running:
        yield running


@pytest.fixture(params=[*REST, "ldap"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    if request.param == "ldap":
        yield ldap_bench(request.getfixturevalue("server"), tmp_path)
        return
    made = rest_bench(request.param, tmp_path)
    yield made


@pytest.fixture(params=list(REST))
def rest(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return rest_bench(request.param, tmp_path)


async def test_everything_is_told_over_many_pages(bench: Bench):
    found, inactive = await bench.read()
    assert found == bench.expected()
    assert inactive == set()


async def test_a_second_reading_tells_the_same(bench: Bench):
    assert await bench.read() == await bench.read()


async def test_members_of_nested_groups_count(bench: Bench):
    if not bench.nests:
        pytest.xfail("declared: groups are flat there")
    bench.population.join("inner", "person3")
    bench.population.groups["outer"] = "Outer"
    bench.population.groups["outermost"] = "Outermost"
    bench.population.nested = {"outer": ["inner"], "outermost": ["outer"]}
    found, _ = await bench.read()
    assert found == bench.expected()
    assert bench.calls("outermost") in found["person3"]


async def test_who_is_disabled_is_told(bench: Bench):
    if bench.kind == "github":
        pytest.xfail("declared: an organisation's members are all active")
    bench.population.people["person4"] = False
    assert (await bench.read())[1] == {"person4"}
    bench.population.people["person4"] = True
    assert (await bench.read())[1] == set()


async def test_what_is_deleted_is_told_no_more(bench: Bench):
    await bench.read()
    known = bench.population
    del known.people["person5"]
    for members in known.members.values():
        members[:] = [member for member in members if member != "person5"]
    del known.groups["team2"], known.members["team2"]
    known.members["few"].remove("person10")
    known.join("new", "person0")
    found, _ = await bench.read()
    assert found == bench.expected()
    assert "person5" not in found
    assert bench.calls("few") not in found["person10"]


async def test_s63_somebody_in_more_groups_than_a_token_holds_has_all_of_them(bench: Bench):
    """Above a limit an identity provider leaves groups out of its tokens; deny rules would silently stop matching."""
    for n in range(201):
        bench.population.join(f"many{n:03}", "person9")
    found, _ = await bench.read()
    assert len(found["person9"]) == 202


async def test_a_failure_at_any_request_fails_the_whole_reading(rest: Bench):
    """A page that fails must not empty a group, whichever page it is."""
    assert rest.fake is not None
    await rest.read()
    count = len(rest.fake.requests)
    assert count >= 10
    for position in range(count):
        fresh = rest_bench(rest.kind, folder_of(rest))
        assert fresh.fake is not None
        seen = 0

        def fail(_: httpx.Request, position: int = position) -> httpx.Response | None:
            nonlocal seen
            seen += 1
            return httpx.Response(500, text="oops") if seen > position else None

        fresh.fake.fault = fail
        with pytest.raises(DirectoryUnavailableError):
            await fresh.read()


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[", b"null", b"7", b'"text"', b"{}", b'[{"name":"x"}]', b'{"value":{}}', b"[" * 100_000],
    ids=["empty", "html", "cut", "null", "number", "text", "object", "no id", "no list", "deep"],
)
async def test_an_answer_of_another_shape_fails_the_reading(rest: Bench, body: bytes):
    assert rest.fake is not None
    for part in ("users", "members", "groups", "teams"):
        fresh = rest_bench(rest.kind, folder_of(rest))
        assert fresh.fake is not None

        def break_part(request: httpx.Request, part: str = part) -> httpx.Response | None:
            path = request.url.path
            hit = path.rstrip("0123456789").endswith((f"/{part}", f"/{part}/delta"))
            return httpx.Response(200, content=body) if hit else None

        await fresh.read()
        if not any(f"/{part}" in url.split("?")[0] for url in fresh.fake.requests):
            continue
        fresh = rest_bench(rest.kind, folder_of(rest))
        assert fresh.fake is not None
        fresh.fake.fault = break_part
        with pytest.raises(DirectoryError):
            await fresh.read()


async def test_a_limit_of_rate_is_waited_for_as_long_as_is_asked(rest: Bench):
    assert rest.fake is not None
    left = 3

    def limit(request: httpx.Request) -> httpx.Response | None:
        nonlocal left
        if "token" in request.url.path or left == 0:
            return None
        left -= 1
        return httpx.Response(429, headers={"retry-after": "7"}, json={})

    rest.fake.fault = limit
    assert (await rest.read())[0] == rest.expected()
    assert rest.slept == [7.0, 7.0, 7.0]


async def test_a_limit_that_lasts_too_long_is_tried_again_later(rest: Bench):
    assert rest.fake is not None
    wait = {"retry-after": str(int(LONGEST_WAIT_SECONDS) + 1)}
    rest.fake.fault = lambda r: None if "token" in r.url.path else httpx.Response(429, headers=wait)
    with pytest.raises(DirectoryUnavailableError):
        await rest.read()
    assert rest.slept == []


async def test_a_short_outage_is_overcome(rest: Bench):
    assert rest.fake is not None
    left = 2

    def outage(request: httpx.Request) -> httpx.Response | None:
        nonlocal left
        if "token" in request.url.path or left == 0:
            return None
        left -= 1
        if left:
            raise httpx.ConnectError("refused")
        return httpx.Response(503)

    rest.fake.fault = outage
    assert (await rest.read())[0] == rest.expected()


async def test_wrong_credentials_are_said_to_be_wrong(rest: Bench):
    folder = folder_of(rest)
    (folder / "secret").write_text("wrong")
    (folder / "account").write_text("{}")
    with pytest.raises(DirectoryRefusedError) as caught:
        await rest.read()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", ["okta", "github", "entra"])
async def test_a_link_to_another_server_is_not_followed(kind: str, tmp_path: Path):
    """It would be given our credentials."""
    bench = rest_bench(kind, tmp_path)
    assert bench.fake is not None
    evil = "https://evil.example.com/next"

    def lure(request: httpx.Request) -> httpx.Response | None:
        if "token" in request.url.path:
            return None
        if kind == "entra":
            return httpx.Response(200, json={"value": [], "@odata.nextLink": evil})
        return httpx.Response(200, json=[], headers={"link": f'<{evil}>; rel="next"'})

    bench.fake.fault = lure
    with pytest.raises(DirectoryUnavailableError, match="another server"):
        await bench.read()
    assert not any("evil" in url for url in bench.fake.requests)


async def test_github_says_when_its_budget_is_back(tmp_path: Path):
    bench = rest_bench("github", tmp_path)
    assert bench.fake is not None
    left = 1

    def limit(_: httpx.Request) -> httpx.Response | None:
        nonlocal left
        left -= 1
        reset = str(int(FakeClock().now()) + 30)
        headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": reset}
        return httpx.Response(403, headers=headers, json={"message": "API rate limit exceeded"}) if left >= 0 else None

    bench.fake.fault = limit
    await bench.read()
    assert bench.slept == [30.0]


async def test_entra_reads_only_what_has_changed_and_everything_when_its_link_has_expired(tmp_path: Path):
    bench = rest_bench("entra", tmp_path)
    assert isinstance(bench.fake, FakeEntra)
    await bench.read()
    whole = len(bench.fake.requests)
    bench.population.people["person4"] = False
    bench.population.members["few"].remove("person10")
    bench.fake.requests.clear()
    found, inactive = await bench.read()
    assert (found, inactive) == (bench.expected(), {"person4"})
    assert len(bench.fake.requests) == 2 < whole
    bench.fake.expire()
    bench.population.join("late", "person2")
    assert (await bench.read())[0] == bench.expected()


async def test_an_interrupted_delta_is_told_again(tmp_path: Path):
    bench = rest_bench("entra", tmp_path)
    assert bench.fake is not None
    await bench.read()
    bench.population.join("few", "person7", "person8", "person6", "person5")
    bench.population.people["person2"] = False
    bench.fake.fault = lambda request: httpx.Response(500) if "groups" in request.url.path else None
    with pytest.raises(DirectoryUnavailableError):
        await bench.read()
    bench.fake.fault = None
    assert await bench.read() == (bench.expected(), {"person2"})


async def test_keycloak_listings_that_miss_somebody_are_not_believed(tmp_path: Path):
    """Pages go by offset: a deletion meanwhile makes another person fall between two of them."""
    bench = rest_bench("keycloak", tmp_path)
    assert bench.fake is not None
    listings = 0

    def delete_meanwhile(request: httpx.Request) -> httpx.Response | None:
        nonlocal listings
        if request.url.path.endswith("/users") and request.url.params["first"] == "3" and listings == 0:
            listings += 1
            del bench.population.people["person0"]
            for members in bench.population.members.values():
                members[:] = [member for member in members if member != "person0"]
        return None

    bench.fake.fault = delete_meanwhile
    assert (await bench.read())[0] == bench.expected()


async def test_keycloak_that_gives_less_than_a_page_is_not_believed(tmp_path: Path):
    bench = rest_bench("keycloak", tmp_path)
    assert isinstance(bench.source, KeycloakSource)
    bench.source.page = 5
    with pytest.raises(DirectoryUnavailableError, match="listing"):
        await bench.read()


async def test_ldap_people_may_say_their_groups_themselves(server: Slapd, tmp_path: Path):
    known = population()
    known.join("inner", "person3")
    known.groups["outer"] = "Outer"
    known.nested = {"outer": ["inner"]}
    publish(server, known)
    source = ldap_source(server, tmp_path, membership="memberof", member_attribute="memberOf")
    bench = Bench("ldap", known, source, lambda group: known.groups[group])
    assert (await bench.read())[0] == bench.expected()


async def test_ldap_reads_more_than_the_servers_size_limit_in_pages_and_not_without(server: Slapd, tmp_path: Path):
    known = Population(people={f"crowd{n}": True for n in range(130)})
    known.join("everyone", *known.people)
    publish(server, known)
    found, _ = await Bench("ldap", known, ldap_source(server, tmp_path), lambda g: known.groups[g]).read()
    assert len(found) == 130
    # The server refuses pages this large: half of the people would be no people.
    with pytest.raises(DirectoryError):
        await Bench("ldap", known, ldap_source(server, tmp_path, page_size=1000), lambda g: known.groups[g]).read()


# The library loses sight of a socket whose certificate bears another name; it goes with the next collection.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("fault", ["password", "authority", "name", "away", "base", "no id"])
async def test_ldap_faults_fail_the_reading(server: Slapd, tmp_path: Path, fault: str):
    known = population()
    publish(server, known)
    changes: dict[str, Any] = {
        "authority": {"ca_file": None},
        "name": {"url": server.tls_url.replace("localhost", "127.0.0.1")},
        "away": {"url": "ldaps://localhost:1"},
        "base": {"users_base": f"ou=nowhere,{SUFFIX}"},
        "no id": {"entry_id": "employeeNumber"},
    }.get(fault, {})
    source = ldap_source(server, tmp_path, **changes)
    if fault == "password":
        (tmp_path / "secret").write_text("wrong")
    with pytest.raises(DirectoryRefusedError if fault == "password" else DirectoryUnavailableError):
        await source.read(Roster(), Progress())
