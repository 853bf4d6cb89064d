"""The HTTP filters, in their one order: hygiene, check, guard, cookies, router.

The list is the same in every configuration; what differs is the set of headers that hygiene deletes. A filter before
the check that answers by itself, or one after it that changes where a request goes, would undo the check.
"""

from collections.abc import Iterable, Sequence

from google.protobuf.message import Message

from doorward.config.settings import Settings
from doorward.envoy_api.envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import (
    HeaderMutation as Mutation,
)
from doorward.envoy_api.envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutationRules
from doorward.envoy_api.envoy.config.core.v3.backoff_pb2 import BackoffStrategy
from doorward.envoy_api.envoy.config.core.v3.base_pb2 import DataSource, HeaderValue, HeaderValueOption, RetryPolicy
from doorward.envoy_api.envoy.config.core.v3.config_source_pb2 import ApiVersion
from doorward.envoy_api.envoy.config.core.v3.grpc_service_pb2 import GrpcService
from doorward.envoy_api.envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz
from doorward.envoy_api.envoy.extensions.filters.http.ext_proc.v3.ext_proc_pb2 import (
    ExternalProcessor,
    MetadataOptions,
)
from doorward.envoy_api.envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from doorward.envoy_api.envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import (
    HeaderMutation,
    Mutations,
)
from doorward.envoy_api.envoy.extensions.filters.http.lua.v3.lua_pb2 import Lua
from doorward.envoy_api.envoy.extensions.filters.http.router.v3.router_pb2 import Router
from doorward.envoy_api.envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpFilter,
)
from doorward.envoy_api.envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import (
    PreviousHostsPredicate,
)
from doorward.envoy_api.envoy.type.matcher.v3.string_pb2 import ListStringMatcher, StringMatcher
from doorward.envoy_api.envoy.type.v3.http_status_pb2 import HttpStatus, StatusCode
from doorward.identity.cookies import OUR_PREFIX
from doorward.route.headers import told_by, told_headers
from doorward.route.internal import CLIENT_ADDRESS_HEADER, GROUP_HEADER, METADATA_NAMESPACE, TOKEN_HEADER
from doorward_proxy.resources.messages import YES, count, overwriting, packed, seconds
from doorward_proxy.resources.surroundings import AUTHORIZE_CLUSTER, GUARD_CLUSTER

HYGIENE = "envoy.filters.http.header_mutation"
CHECK = METADATA_NAMESPACE
GUARD = "envoy.filters.http.ext_proc"
COOKIES = "envoy.filters.http.lua"
ROUTER = "envoy.filters.http.router"
ORDER = (HYGIENE, CHECK, GUARD, COOKIES, ROUTER)

CHECK_TIMEOUT_SECONDS = 0.5
CHECK_RETRIES = 2
CHECK_PAUSE_SECONDS = 0.005
"""Between a check that failed and the next try: Envoy waits up to a second by itself, twice what a check has altogether."""
GUARD_ANSWER_SECONDS = 2.0
"""How long the guard may take to decide again before it answers; the request waits."""

OWN_PAGES_KEY = "own_pages"
"""In a route's metadata for the cookie filter: the upstream is ours, and may set our cookies."""

WELL_KNOWN_HEADERS = (
    "client-cert",
    "client-cert-chain",
    "forwarded",
    "proxy",  # a CGI program finds it where it looks for the proxy of its own requests
    "remote-user",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-real-ip",
    "x-rewrite-url",
    "x-url-scheme",
)
"""Headers that applications take for somebody's identity or for where the request really goes."""
DELETED_PREFIXES = (
    "x-doorward-",
    "x-auth-request-",
    "x-forwarded-",
    "x-original-",
    "impersonate-",
    "x-envoy-",
    "x-remote-",
)
"""Families of such headers: there is always one more of them than a list knows (`x-forwarded-access-token`, `x-original-path`)."""

UNREAD_HEADERS = (":authority", ":method", ":path", ":scheme")
"""What the check carries in fields of its own. Every other header goes with it, also those that no policy reads today: one that is
to read a header tomorrow must not find it missing on connections that are still served by yesterday's listener."""

COOKIE_SCRIPT = f"""
-- Drops cookies of ours from what an upstream sets: only our own pages may set them.
-- The mark is left on the way in, so that the check's own answers, which never came this far, keep theirs.
local ours = "{OUR_PREFIX.lower()}"
function envoy_on_request(handle)
  if handle:metadata():get("{OWN_PAGES_KEY}") ~= true then
    handle:streamInfo():dynamicMetadata():set("{COOKIES}", "from_upstream", true)
  end
  -- The check can set one value of a name; Kubernetes wants a header for each group. No group that is told holds a comma.
  local groups = handle:headers():get("{GROUP_HEADER}")
  if groups ~= nil and string.find(groups, ",", 1, true) then
    handle:headers():remove("{GROUP_HEADER}")
    for group in string.gmatch(groups, "[^,]+") do handle:headers():add("{GROUP_HEADER}", group) end
  end
end
function envoy_on_response(handle)
  local marks = handle:streamInfo():dynamicMetadata():get("{COOKIES}")
  if marks == nil or marks["from_upstream"] ~= true then return end
  local headers = handle:headers()
  local total = headers:getNumValues("set-cookie")
  if total == 0 then return end
  local kept = {{}}
  for index = 0, total - 1 do
    local value = headers:getAtIndex("set-cookie", index)
    -- A name may be preceded by blanks, and a cookie without a name is read by its value.
    local bare = string.lower(string.gsub(value, "^[%s=]+", ""))
    if string.sub(bare, 1, #ours) ~= ours then kept[#kept + 1] = value end
  end
  if #kept == total then return end
  headers:remove("set-cookie")
  for _, value in ipairs(kept) do headers:add("set-cookie", value) end
end
"""


def http_filters(settings: Settings) -> list[HttpFilter]:
    """The filters of the public listener."""
    return [
        _filter(HYGIENE, hygiene(deleted_headers(settings))),
        _filter(CHECK, check()),
        _filter(GUARD, guard()),
        _filter(COOKIES, Lua(default_source_code=DataSource(inline_string=COOKIE_SCRIPT))),
        _filter(ROUTER, Router(suppress_envoy_headers=True)),
    ]


def deleted_headers(settings: Settings) -> list[str]:
    """Every header that no client may send: what any route can set, and the well-known ones; lower case, sorted.

    The union over all routes: see ``told_headers``. A name that is none cannot arrive, and Envoy would refuse the whole listener for it.
    """
    told = told_headers({group for item in settings.routes for group in told_by(item.route)})
    return sorted({*WELL_KNOWN_HEADERS, *told})


def hygiene(names: Sequence[str]) -> HeaderMutation:
    """Deletes what clients may not send, then says in headers of ours what Envoy itself knows."""
    deletions = list(_deletions(names))
    return HeaderMutation(
        mutations=Mutations(
            request_mutations=[
                *deletions,
                *OURS,
            ],
            # HTTP/2 request trailers reach an HTTP/2 upstream, and many frameworks fold them into the headers.
            request_trailers_mutations=[
                *deletions,
                *(Mutation(remove=name) for name in _ONLY_IN_TRAILERS),
            ],
        )
    )


OURS = (
    Mutation(append=overwriting(CLIENT_ADDRESS_HEADER, "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")),
    # The listener speaks TLS only, and what stood in these was the client's to write.
    Mutation(append=overwriting("x-forwarded-for", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")),
    Mutation(append=overwriting("x-forwarded-proto", "https")),
    # Envoy lets it through with an upgrade, and with whatever else it names. The next proxy would drop those headers before it passes the
    # upgrade on (RFC 9110, section 7.6.1): ours, which say who asks.
    Mutation(
        append=HeaderValueOption(
            header=HeaderValue(key="connection", value="upgrade"),
            append_action=HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS,
        )
    ),
)
"""What hygiene says after it has deleted."""

_ONLY_IN_TRAILERS = (
    "authorization",
    "cookie",
    TOKEN_HEADER,
    "host",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-request-id",
)
"""Legitimate in headers, never in trailers."""


def _deletions(names: Iterable[str]) -> Iterable[Mutation]:
    for name in names:
        yield Mutation(remove=name)
    for prefix in DELETED_PREFIXES:
        yield Mutation(
            remove_on_match=Mutation.RemoveOnMatch(key_matcher=StringMatcher(prefix=prefix, ignore_case=True))
        )


def check() -> ExtAuthz:
    """Asks authorize about every request; whatever is not a yes is a no."""
    return ExtAuthz(
        grpc_service=GrpcService(
            envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=AUTHORIZE_CLUSTER),
            # Not the one of `envoy_grpc`, which is for discovery alone.
            retry_policy=RetryPolicy(
                retry_on="connect-failure,refused-stream,reset,unavailable",
                num_retries=count(CHECK_RETRIES),
                # Envoy takes the longest pause for the deadline of each try, too: a shorter one would end checks that wait
                # for a new sign-in, or for a busy authorizer.
                retry_back_off=BackoffStrategy(
                    base_interval=seconds(CHECK_PAUSE_SECONDS), max_interval=seconds(CHECK_TIMEOUT_SECONDS)
                ),
                retry_host_predicate=[
                    RetryPolicy.RetryHostPredicate(
                        name="envoy.retry_host_predicates.previous_hosts",
                        typed_config=packed(PreviousHostsPredicate()),
                    )
                ],
                host_selection_retry_max_attempts=3,
            ),
            timeout=seconds(CHECK_TIMEOUT_SECONDS),
        ),
        transport_api_version=ApiVersion.V3,
        # A broken or missing authorizer is not the caller's fault: 503, never an open door.
        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
        # Without it, repeated headers arrive joined by commas and can no longer be told apart.
        encode_raw_headers=True,
        # The client's certificate, and the name under which it reached us: a certificate counts only where it was asked for.
        include_peer_certificate=True,
        include_tls_session=True,
        disallowed_headers=ListStringMatcher(patterns=[StringMatcher(exact=name) for name in UNREAD_HEADERS]),
    )


def guard() -> ExternalProcessor:
    """Holds a stream to authorize open for as long as the request lives; its abort ends the request.

    A trailer stays expected, or Envoy would end the guard's stream after the headers. The guard may change nothing.
    """
    mode = ProcessingMode
    return ExternalProcessor(
        grpc_service=GrpcService(envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=GUARD_CLUSTER)),
        processing_mode=mode(
            request_header_mode=mode.HeaderSendMode.SEND,
            response_header_mode=mode.HeaderSendMode.SKIP,
            request_body_mode=mode.BodySendMode.NONE,
            response_body_mode=mode.BodySendMode.NONE,
            request_trailer_mode=mode.HeaderSendMode.SKIP,
            response_trailer_mode=mode.HeaderSendMode.SEND,
        ),
        message_timeout=seconds(GUARD_ANSWER_SECONDS),
        mutation_rules=HeaderMutationRules(disallow_all=YES),
        route_cache_action=ExternalProcessor.RouteCacheAction.RETAIN,
        metadata_options=MetadataOptions(
            forwarding_namespaces=MetadataOptions.MetadataNamespaces(untyped=[METADATA_NAMESPACE])
        ),
    )


def _filter(name: str, config: Message) -> HttpFilter:
    return HttpFilter(name=name, typed_config=packed(config))
