"""Envoy's own spans: which requests get one, what stands in it, and where it goes.

A client must not decide how many there are: what it says of a trace is removed before a span begins, and each trace begins here.
"""

from urllib.parse import urlsplit

from doorward.config.settings import TracingSettings
from doorward.envoy_api.envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import (
    HeaderMutation as Mutation,
)
from doorward.envoy_api.envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from doorward.envoy_api.envoy.config.core.v3.http_service_pb2 import HttpService
from doorward.envoy_api.envoy.config.core.v3.http_uri_pb2 import HttpUri
from doorward.envoy_api.envoy.config.trace.v3.http_tracer_pb2 import Tracing as Provider
from doorward.envoy_api.envoy.config.trace.v3.opentelemetry_pb2 import OpenTelemetryConfig
from doorward.envoy_api.envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    RequestIDExtension,
)
from doorward.envoy_api.envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import (
    HeaderMutation as EarlyMutation,
)
from doorward.envoy_api.envoy.extensions.request_id.uuid.v3.uuid_pb2 import UuidRequestIdConfig
from doorward.envoy_api.envoy.extensions.tracers.opentelemetry.samplers.v3.parent_based_sampler_pb2 import (
    ParentBasedSamplerConfig,
)
from doorward.envoy_api.envoy.extensions.tracers.opentelemetry.samplers.v3.trace_id_ratio_based_sampler_pb2 import (
    TraceIdRatioBasedSamplerConfig,
)
from doorward.envoy_api.envoy.type.tracing.v3.custom_tag_pb2 import CustomTag
from doorward.envoy_api.envoy.type.v3.percent_pb2 import FractionalPercent, Percent
from doorward_proxy.resources.messages import NO, count, packed, seconds
from doorward_proxy.resources.surroundings import TRACES_CLUSTER

_SEND_SECONDS = 5.0
_PATH = "/v1/traces"
_UNTOLD_TAGS = (
    "grpc.authority",
    "grpc.content_type",
    "grpc.message",
    "grpc.path",
    "grpc.timeout",
    "guid:x-client-trace-id",
    "guid:x-request-id",
    "http.url",
    "peer.address",
    "user_agent",
)
"""What Envoy would say of paths, queries, people and what clients write."""


def tracing(settings: TracingSettings) -> HttpConnectionManager.Tracing:
    """What the connection manager traces."""
    return _tracing(_uri(settings.otlp_endpoint), round(settings.sample * 1_000_000))


def tracing_form(found: HttpConnectionManager.Tracing) -> HttpConnectionManager.Tracing:
    """What ``found`` must be, for the collector and the share that stand in it."""
    config, sampler, share = OpenTelemetryConfig(), ParentBasedSamplerConfig(), TraceIdRatioBasedSamplerConfig()
    found.provider.typed_config.Unpack(config)
    config.sampler.typed_config.Unpack(sampler)
    sampler.wrapped_sampler.typed_config.Unpack(share)
    return _tracing(config.http_service.http_uri.uri, share.sampling_percentage.numerator)


def _tracing(uri: str, share_of_million: int) -> HttpConnectionManager.Tracing:
    share = TraceIdRatioBasedSamplerConfig(
        sampling_percentage=FractionalPercent(
            numerator=share_of_million, denominator=FractionalPercent.DenominatorType.MILLION
        )
    )
    # What is traced is decided once, at the beginning: what Envoy asks about a request follows.
    sampler = ParentBasedSamplerConfig(
        wrapped_sampler=TypedExtensionConfig(
            name="envoy.tracers.opentelemetry.samplers.trace_id_ratio_based", typed_config=packed(share)
        )
    )
    config = OpenTelemetryConfig(
        http_service=HttpService(http_uri=HttpUri(uri=uri, cluster=TRACES_CLUSTER, timeout=seconds(_SEND_SECONDS))),
        service_name="doorward-proxy",
        sampler=TypedExtensionConfig(
            name="envoy.tracers.opentelemetry.samplers.parent_based", typed_config=packed(sampler)
        ),
    )
    tracing = HttpConnectionManager.Tracing
    return tracing(
        # Else whoever writes `x-client-trace-id` would be traced.
        client_sampling=Percent(value=0),
        random_sampling=Percent(value=100),
        overall_sampling=Percent(value=100),
        max_path_tag_length=count(0),
        custom_tags=[CustomTag(tag=name, literal=CustomTag.Literal(value="-")) for name in _UNTOLD_TAGS],
        provider=Provider.Http(name="envoy.tracers.opentelemetry", typed_config=packed(config)),
    )


def early_mutations(*, traced: bool) -> list[TypedExtensionConfig]:
    """What goes before Envoy names a request and begins a span: a client's `x-request-id`, `traceparent` and `tracestate`.

    The last two only where requests are traced; else they are the upstream's matter.
    By itself Envoy keeps an id that comes from a private address, whatever is in it: it would stand in records, logs and pages, and
    could be the one of somebody else's request. Of the others it would trace whatever the first asks for, and copy the second into
    every span and every check; sixty kilobytes of it would make a check cost a hundred.
    """
    names = ("x-request-id", "traceparent", "tracestate") if traced else ("x-request-id",)
    config = EarlyMutation(mutations=[Mutation(remove=name) for name in names])
    return [
        TypedExtensionConfig(
            name="envoy.http.early_header_mutation.header_mutation",
            typed_config=packed(config),
        )
    ]


def request_ids() -> RequestIDExtension:
    """The sampler alone decides: by itself, Envoy would trace no request to which a client gave an id that is none of its own form."""
    config = UuidRequestIdConfig(pack_trace_reason=NO, use_request_id_for_trace_sampling=NO)
    return RequestIDExtension(typed_config=packed(config))


def _uri(endpoint: str) -> str:
    """The address of a collector, without a name and password in it: they would go nowhere."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}{_PATH}"
