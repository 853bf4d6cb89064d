"""One trace through everything: Envoy's spans, the authorizer's below them, those of open streams and of sign-in pages."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from tests.support.collector import Collector, Seen, collector
from tests.support.deployment import short_folder, wait_for
from tests.support.open_streams import OpenStream, Place, holding_server
from tests.support.site import Site, everyone, site

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PROXY, AUTHORIZE, AUTHENTICATE = "doorward-proxy", "doorward-authorize", "doorward-authenticate"


@dataclass
class World:
    site: Site
    collector: Collector

    @contextmanager
    def open(self, name: str, path: str) -> Iterator[OpenStream]:
        place = Place(self.site.port, f"{name}.localhost", ssl.create_default_context(cafile=str(self.site.ca_file)))
        stream = OpenStream(place, f"GET {path} HTTP/1.1\nhost: {self.site.host(name)}\n\n")
        try:
            yield stream
        finally:
            stream.close()

    def find(self, service: str, name: str, **attributes: str) -> Seen:
        """The one span of a service and a name with these attributes, once it has arrived."""

        def found() -> list[Seen]:
            wanted = {f"doorward.{key}": value for key, value in attributes.items()}
            return [span for span in self.collector.of(service, name) if wanted.items() <= span.attributes.items()]

        wait_for(lambda: bool(found()), what=f"a span `{name}` of {service}")
        (span,) = found()
        return span

    def of_trace(self, trace: str, name: str) -> Seen:
        """Envoy's span of a name in one trace."""

        def found() -> list[Seen]:
            return [span for span in self.collector.of(PROXY, name) if span.trace_id == trace]

        for _ in range(3):
            # Envoy sends five spans at once; fewer would wait for five seconds.
            with self.open("more", "/"):
                pass
        wait_for(lambda: bool(found()), what=f"envoy's span `{name}`")
        (span,) = found()
        return span


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with short_folder() as folder, holding_server() as upstream, collector() as collected:
        to = f"http://127.0.0.1:{upstream.port}"
        routes = [
            {"name": "app", "from": "app", "to": to, "policy": everyone()},
            {"name": "more", "from": "more", "to": to, "policy": everyone()},
            {"name": "live", "from": "live", "to": to, "policy": everyone(), "continuous": True},
        ]
        with site(folder, routes, tracing={"otlp_endpoint": collected.endpoint, "sample": 1.0}) as made:
            yield World(made, collected)


def test_a_decision_is_below_envoy_s_span_for_its_check(world: World):
    with world.open("app", "/") as answer:
        assert answer.status == 200
    decided = world.find(AUTHORIZE, "check", route="app")
    asked, request = (world.of_trace(decided.trace_id, name) for name in ("Authorization.Check", "ingress"))
    assert [request.parent_id, asked.parent_id, decided.parent_id] == ["", request.span_id, asked.span_id]
    assert decided.attributes["doorward.outcome"] == "allow"


def test_a_page_of_a_sign_in_is_below_envoy_s_span_for_its_request(world: World):
    with world.open("authenticate", "/.doorward/nothing"):
        pass
    page = world.find(AUTHENTICATE, "page")
    assert page.parent_id == world.of_trace(page.trace_id, "ingress").span_id


def test_a_stream_has_spans_of_its_opening_and_of_its_end(world: World):
    with world.open("live", "/events") as stream:
        assert stream.status == 200
        opened = world.find(AUTHORIZE, "open stream", route="live", outcome="allow")
        asked = world.of_trace(opened.trace_id, "Authorization.Check")
        assert opened.parent_id == asked.span_id
        del world.site.routes[2]
        world.site.write()
        assert stream.has_ended(10)
    ended = world.find(AUTHORIZE, "guarded stream", route="live")
    assert (ended.parent_id, ended.attributes["doorward.reason"]) == (asked.span_id, "route-changed")
    assert ended.attributes["doorward.decision_id"] == opened.attributes["doorward.decision_id"]
    assert world.of_trace(ended.trace_id, "ExternalProcessor").parent_id == asked.parent_id
