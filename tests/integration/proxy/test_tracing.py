"""Envoy's own spans, with a real Envoy and a collector: whose trace they are part of, what stands in them, how many there may be."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from tests.support.collector import Collector, Seen, collector
from tests.support.envoy import (
    EchoUpstream,
    FakeAuthorizer,
    RunningProxy,
    free_port,
    route,
    running_proxy,
    settings_of,
)

from doorward.config.settings import TracingSettings
from doorward.envoy_api.envoy.service.auth.v3 import external_auth_pb2
from doorward.telemetry.tracing import Parent, parse_traceparent

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
HUSH = "hush-hush"
SERVICE = "doorward-proxy"


@dataclass
class ListeningAuthorizer(FakeAuthorizer):
    """Remembers what stood around each check."""

    metadata: list[dict[str, str]] = field(default_factory=list)

    async def Check(self, request: external_auth_pb2.CheckRequest, context: Any) -> external_auth_pb2.CheckResponse:
        self.metadata.append(dict(context.invocation_metadata()))
        return await super().Check(request, context)


@dataclass
class Bench:
    proxy: RunningProxy
    authorizer: ListeningAuthorizer
    upstream: EchoUpstream
    collector: Collector


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench() -> AsyncIterator[Bench]:
    """Everything is traced."""
    authorizer, upstream = ListeningAuthorizer(), EchoUpstream(free_port())
    upstream.response_headers = [(b"grpc-message", HUSH.encode())]
    with collector() as collected:
        to = [("http", "127.0.0.1", upstream.port)]
        settings = settings_of(
            route(to=to),
            tracing=TracingSettings(otlp_endpoint=collected.endpoint, sample=1.0),
        )
        async with upstream.running(), running_proxy(settings, authorizer) as proxy:
            yield Bench(proxy, authorizer, upstream, collected)


async def traced(bench: Bench, path: str = "/", **request: str) -> tuple[Parent, list[Seen]]:
    """What a check was told about its trace, and Envoy's spans of that trace: of the request, of its check, of its guard."""
    async with asyncio.timeout(10):
        # Between two tests nobody answers Envoy's question whether the authorizer is well.
        while (await bench.proxy.get(path, **request)).status == 503:
            await asyncio.sleep(0.05)
    told = parse_traceparent(bench.authorizer.metadata[-1]["traceparent"])
    assert told is not None
    for _ in range(3):
        await bench.proxy.get()  # Envoy sends five spans at once; fewer would wait for five seconds

    def found() -> list[Seen]:
        spans = [span for span in bench.collector.of(SERVICE) if span.trace_id == told.trace_id]
        return spans if any(span.name == "ingress" for span in spans) else []

    return told, await bench.collector.wait(found)


def named(spans: list[Seen], name: str) -> Seen:
    (span,) = [span for span in spans if name in span.name]
    return span


async def test_a_request_and_what_is_asked_about_it_are_spans_of_one_trace(bench: Bench) -> None:
    bench.upstream.requests.clear()
    told, spans = await traced(bench)
    request, check = named(spans, "ingress"), named(spans, "Authorization.Check")
    assert (request.parent_id, check.parent_id) == ("", request.span_id)
    assert (told.span_id, told.is_sampled) == (check.span_id, True)
    upstream = parse_traceparent(dict(bench.upstream.requests[0]["headers"])["traceparent"])
    assert upstream == Parent(request.trace_id, request.span_id, is_sampled=True)


async def test_s50_spans_hold_no_path_no_query_no_person_and_no_text_of_clients(bench: Bench) -> None:
    headers = (
        f"traceparent: {SAMPLED}\r\ntracestate: a={HUSH}\r\nuser-agent: {HUSH}\r\nx-client-trace-id: {HUSH}\r\n"
        f"x-request-id: {HUSH}\r\nx-envoy-downstream-service-cluster: {HUSH}\r\nx-envoy-original-path: /{HUSH}\r\n"
        f"cookie: a={HUSH}\r\nauthorization: Bearer {HUSH}\r\ncontent-type: application/grpc\r\ngrpc-timeout: 1S\r\n"
        f"referer: https://app.localhost/{HUSH}\r\nbaggage: a={HUSH}\r\n"
    )
    for host in ("app.localhost", f"{HUSH}.localhost"):
        await traced(bench, f"/{HUSH}?token={HUSH}", host=host, headers=headers)
    told = [item for span in bench.collector.spans for item in (("", span.name), *span.attributes.items())]
    assert [item for item in told if HUSH in item[1] or "127.0.0.1" in item[1]] == []
    assert not [span for span in bench.collector.spans if HUSH in span.text]


async def test_what_a_client_says_of_a_trace_reaches_nobody(bench: Bench) -> None:
    """Sixty kilobytes of `tracestate` would be read at every check."""
    bench.authorizer.checks.clear()
    bench.authorizer.metadata.clear()
    bench.upstream.requests.clear()
    told, spans = await traced(bench, headers=f"traceparent: {SAMPLED}\r\ntracestate: a={'x' * 20_000}\r\n")
    assert (told.trace_id == TRACE, named(spans, "ingress").parent_id) == (False, "")
    said = {item.key for item in bench.authorizer.checks[0].attributes.request.http.header_map.headers}
    assert not said & {"traceparent", "tracestate"}
    assert bench.authorizer.metadata[0]["tracestate"] == ""
    assert dict(bench.upstream.requests[0]["headers"])["tracestate"] == ""


async def test_a_client_that_wants_everything_traced_gets_no_more_than_the_share(bench: Bench) -> None:
    """The last one: it changes the configuration."""
    to = [("http", "127.0.0.1", bench.upstream.port)]
    nothing = TracingSettings(otlp_endpoint=bench.collector.endpoint, sample=0.0)
    await bench.proxy.publish(settings_of(route(to=to), generation="g2", port=bench.proxy.port, tracing=nothing))
    for parent in ("", f"traceparent: {SAMPLED}\r\n", f"traceparent: {UNSAMPLED}\r\n", f"traceparent: {SAMPLED}-x\r\n"):
        bench.authorizer.metadata.clear()
        headers = f"{parent}x-client-trace-id: 1\r\nx-envoy-force-trace: true\r\n"
        for _ in range(5):
            assert (await bench.proxy.get(headers=headers)).status == 200
        found = [parse_traceparent(metadata["traceparent"]) for metadata in bench.authorizer.metadata]
        assert [item is not None and item.is_sampled for item in found] == [False] * 5
    await bench.proxy.publish(settings_of(route(to=to), generation="g3", port=bench.proxy.port))
    await bench.proxy.get(headers=f"traceparent: {SAMPLED}\r\n")
    assert dict(bench.upstream.requests[-1]["headers"])["traceparent"] == SAMPLED, "without tracing, as it came"
