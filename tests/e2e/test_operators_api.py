"""`Decide` and `Explain` as another gateway or a tool calls them: the real authorizer, over gRPC on its socket."""

import json
from collections.abc import Callable, Iterator

import grpc
import pytest
from tests.support.deployment import Running, wait_for
from tests.support.http_client import BrowserlessClient
from tests.support.site import Site

from doorward.api.authorize.v1 import authorize_pb2 as pb
from doorward.api.authorize.v1.authorize_pb2_grpc import AuthorizeServiceStub
from doorward.config.endpoints import LocalEndpoints, default_run_folder

pytestmark = pytest.mark.e2e
Browser = Callable[..., BrowserlessClient]
Url = Callable[[str], str]


@pytest.fixture
def authorize(demo: Running) -> Iterator[AuthorizeServiceStub]:
    socket = LocalEndpoints(default_run_folder(demo.data)).authorize
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        yield AuthorizeServiceStub(channel)


def sessions(demo: Running) -> dict[str, dict[str, str]]:
    """The newest session of each person."""
    found: dict[str, dict[str, str]] = {}
    for line in demo.command("session", "list", "--json").stdout.splitlines():
        session = json.loads(line)
        found.setdefault(session["email"], session)
    return found


def question(route: str, *, session: str = "", user: str = "", path: str = "/") -> pb.DecideRequest:
    subject = pb.Subject(session_id=session) if session else pb.Subject(user_id=user) if user else pb.Subject()
    return pb.DecideRequest(subject=subject, request=pb.RequestFacts(route_id=route, method="GET", path=path))


def test_decide_answers_as_a_request_would_be(browser: Browser, demo: Running, authorize: AuthorizeServiceStub):
    browser("alice")
    browser("bob")
    known = sessions(demo)
    alice, bob = known["alice@example.com"], known["bob@example.com"]
    for asked, effect in (
        (question("admin", session=alice["id"]), pb.EFFECT_ALLOW),
        (question("admin", user=alice["user_id"]), pb.EFFECT_ALLOW),
        (question("admin", session=bob["id"]), pb.EFFECT_DENY),
        (question("verify", session=bob["id"]), pb.EFFECT_ALLOW),
        (question("admin"), pb.EFFECT_SIGN_IN),
        (question("public"), pb.EFFECT_ALLOW),
    ):
        decision = authorize.Decide(asked, timeout=5).decision
        assert decision.effect == effect, asked
        assert decision.id
        assert decision.generation
        assert decision.reasons


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (question("nowhere"), grpc.StatusCode.NOT_FOUND),
        (question("@pages"), grpc.StatusCode.NOT_FOUND),
        (question("admin", session="0" * 32), grpc.StatusCode.NOT_FOUND),
        (question("admin", user="nobody"), grpc.StatusCode.NOT_FOUND),
        (question("public", path="/a/..;/b"), grpc.StatusCode.INVALID_ARGUMENT),
        (question("public", path=""), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.DecideRequest(), grpc.StatusCode.NOT_FOUND),
    ],
)
def test_decide_refuses_what_it_cannot_judge(
    authorize: AuthorizeServiceStub, asked: pb.DecideRequest, code: grpc.StatusCode
):
    with pytest.raises(grpc.RpcError) as caught:
        authorize.Decide(asked, timeout=5)
    assert caught.value.code() is code


def test_explain_says_why_for_a_page_that_was_shown_and_for_one_that_would_be(
    browser: Browser, url: Url, demo: Running, authorize: AuthorizeServiceStub
):
    bob = browser("bob")
    bob.navigate(url("admin") + "/")
    denied = bob.get(url("admin") + "/", headers={"accept": "application/json"})
    assert denied.status_code == 403
    shown = authorize.Explain(pb.ExplainRequest(decision_id=denied.json()["decision_id"]), timeout=5)
    assert (shown.decision.effect, shown.route) == (pb.EFFECT_DENY, "admin")
    assert "groups" in shown.text
    assert "eng" in shown.text
    assert "to be let in" in shown.text
    (remedy,) = json.loads(shown.json)["remedies"]
    assert [change["criterion"] for change in remedy["changes"]] == ["groups"]
    would = authorize.Explain(
        pb.ExplainRequest(request=question("admin", session=sessions(demo)["bob@example.com"]["id"])), timeout=5
    )
    assert (would.decision.effect, would.route) == (pb.EFFECT_DENY, "admin")
    for request in (pb.ExplainRequest(decision_id="never-made"), pb.ExplainRequest()):
        with pytest.raises(grpc.RpcError) as caught:
            authorize.Explain(request, timeout=5)
        assert caught.value.code() in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}


def test_two_workers_share_the_checks_and_each_decision_is_explained(open_site: Site):
    """One that got nothing would be there for nothing, and one whose decisions nobody finds is no use to an operator."""
    before = len(open_site.run.decisions())  # some may be of a worker that another test has killed

    def deciders() -> dict[str, str]:
        with open_site.client() as client:
            client.get(open_site.url("open") + "/shared")
        records = [record for record in open_site.run.decisions()[before:] if record["route"] == "open"]
        found = {str(record["decision_id"]).partition("-")[0]: str(record["decision_id"]) for record in records}
        return found if len(found) == 2 else {}

    for decision_id in wait_for(deciders, what="a decision of each worker").values():
        explained = open_site.run.command("explain", decision_id)
        assert explained.returncode == 0, explained.stderr

    def authorizers() -> int:
        status = json.loads(open_site.run.command("status", "--json").stdout)
        return sum(process["plane"] == "authorize" for process in status["processes"])

    wait_for(lambda: authorizers() == 2, what="both of them, and nobody else, in `status`")
