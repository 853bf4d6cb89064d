"""What clients get where Envoy itself must refuse: a safe text, the request's id and, where it helps, when to come again.

Seven kinds of refusal are worded, each for browsers, programs, gRPC and gRPC-Web: see ``_KINDS``. Everything else goes out as it is,
refusals that authorize has worded first of all: to Envoy they are local replies too, told apart by the details of the response.
"""

import base64
import html
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

from doorward.envoy_api.envoy.config.accesslog.v3.accesslog_pb2 import AccessLogFilter, ExtensionFilter
from doorward.envoy_api.envoy.config.core.v3.base_pb2 import DataSource
from doorward.envoy_api.envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from doorward.envoy_api.envoy.extensions.access_loggers.filters.cel.v3.cel_pb2 import ExpressionFilter
from doorward.envoy_api.envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    LocalReplyConfig,
    ResponseMapper,
)
from doorward.web.refusal_page import (
    SECURITY_HEADERS,
    UNAVAILABLE_TEXT,
    UNAVAILABLE_TITLE,
    content_security_policy,
    refusal_page,
)
from doorward.web.retry_after import RETRY_AFTER
from doorward_proxy.resources.messages import count, overwritten, packed
from doorward_proxy.resources.surroundings import AUTHENTICATE_CLUSTER, PAGES_CLUSTER

_FILTER = "envoy.access_loggers.extension_filters.cel"
# A condition about a header that is missing holds nowhere, so each asks first.
_GRPC, _WEB = "application/grpc", "application/grpc-web"
_TRAILERS = 0x80
_HTML = "('accept' in request.headers && request.headers['accept'].contains('text/html'))"
_REQUEST_ID = "%REQ(X-REQUEST-ID)%"
"""Envoy's command. The id is Envoy's own and nothing to escape: :func:`doorward_proxy.resources.tracing.early_mutations`."""
_ID_STANDS_HERE = "request-id-stands-here"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """One reason why Envoy refuses, and its words."""

    condition: str
    """In CEL. Names of details: `ResponseCodeDetailValues` in Envoy's `source/common/stream_info/stream_info.h`, and `ErrorPrefix`
    in its `ext_proc.cc`."""
    error: str
    """A program's word for it."""
    title: str
    text: str
    status: HTTPStatus | None = None
    """In place of the one that Envoy has for it."""
    grpc_status: int = 14
    """What a gRPC-Web client gets; Envoy itself makes the same of ``status`` for gRPC."""
    headers: tuple[tuple[str, str], ...] = ()


_OWN_ANSWER = "response.code_details == 'direct_response'"
"""What `routes.py` lets Envoy answer: an address that nobody configured, and a route that is broken."""
_AS_IT_IS = f"(response.code < 500 && !({_OWN_ANSWER})) || response.code_details == 'ext_authz_denied'"
"""Most of what Envoy answers by itself, and 408 where a client has not sent all of its request in time. One expression tells it apart;
else each such answer would pay for all of them."""
_UNANSWERED = (
    "(response.code_details.startsWith('upstream_') || "
    "response.code_details in ['no_healthy_upstream', 'response_timeout', 'request_overall_timeout', "
    "'max_duration_timeout', 'stream_idle_timeout'])"
)
_KINDS = (
    _Kind(
        condition="response.code_details == 'ext_authz_error'",
        error="unavailable",
        title=UNAVAILABLE_TITLE,
        text=UNAVAILABLE_TEXT,
        headers=(RETRY_AFTER,),
    ),
    # The guard has cut the request before there was an answer: what authorize allowed at first, it does not allow any more.
    _Kind(
        condition="response.code_details.startsWith('ext_proc_error_gRPC_error_7{')",
        error="ended",
        title="Access has ended",
        text="Access to this address has ended. Open it again to see why.",
        status=HTTPStatus.FORBIDDEN,
        grpc_status=7,
    ),
    # With many hosts Envoy checks nothing of one that it does not know, and the guard knows of no decision.
    _Kind(
        condition=f"(({_OWN_ANSWER} && response.code == 404) || response.code_details.startsWith('ext_proc_error_gRPC_error_5{{'))",
        error="not-found",
        title="Nothing is here",
        text="No application has this address.",
        status=HTTPStatus.NOT_FOUND,
        grpc_status=12,
    ),
    # Time mends nothing here: no `Retry-After`.
    _Kind(
        condition=_OWN_ANSWER,
        error="misconfigured",
        title="This address is not set up correctly",
        text="Nothing is wrong with your account or your device. Whoever looks after this address has to mend it.",
    ),
    # Envoy has 500 for a guard that is away and 504 for one that hangs; to clients it is all the same.
    _Kind(
        condition="response.code_details.startsWith('ext_proc_error')",
        error="unavailable",
        title=UNAVAILABLE_TITLE,
        text="Open connections cannot be watched at this moment. Try again soon.",
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        headers=(RETRY_AFTER,),
    ),
    _Kind(
        condition=f"{_UNANSWERED} && xds.cluster_name in ['{AUTHENTICATE_CLUSTER}', '{PAGES_CLUSTER}']",
        error="unavailable",
        title="Signing in and out is not possible right now",
        text="The sign-in service does not answer. Nothing is wrong with your account. Try again soon.",
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        headers=(RETRY_AFTER,),
    ),
    # Whether and when an application comes back is not known here: no `Retry-After`.
    _Kind(
        condition=_UNANSWERED,
        error="no-answer",
        title="No answer",
        text="The application behind this address does not answer at this moment. Try again later.",
    ),
)
"""The first whose condition holds is the only one that counts."""


def local_replies() -> LocalReplyConfig:
    """The same in every configuration."""
    unworded = ResponseMapper(filter=_when(_AS_IT_IS))
    return LocalReplyConfig(mappers=[unworded, *(mapper for kind in _KINDS for mapper in _worded(kind))])


def _worded(kind: _Kind) -> Iterator[ResponseMapper]:
    """GRPC's own forms, a page for browsers, JSON for everybody else."""
    yield from _grpc_web(kind)
    # gRPC has no `Retry-After`: its status says all, and the text becomes its message.
    yield _mapper(kind, _sends(_GRPC), kind.text, "text/plain", ())
    page = refusal_page(kind.title, f"<p>{html.escape(kind.text)}</p>", "Request", _ID_STANDS_HERE)
    told = json.dumps({"error": kind.error, "message": kind.text, "request_id": _ID_STANDS_HERE}) + "\n"
    headers = (*SECURITY_HEADERS, *kind.headers)
    policy = ("content-security-policy", content_security_policy())
    yield _mapper(kind, _HTML, page, "text/html; charset=utf-8", (*headers, policy))
    yield _mapper(kind, None, told, "application/json", headers)


def _grpc_web(kind: _Kind) -> Iterator[ResponseMapper]:
    """To Envoy gRPC-Web is no gRPC. Its clients read the status where they read trailers: in a last frame of the body.

    Source: the gRPC-Web protocol, "Message framing". In the text form the body is Base64.
    """
    trailers = f"grpc-status:{kind.grpc_status}\r\ngrpc-message:{kind.text}\r\n".encode()
    frame = struct.pack(">BI", _TRAILERS, len(trailers)) + trailers
    for content_type, body in ((f"{_WEB}-text", base64.b64encode(frame)), (_WEB, frame)):
        yield ResponseMapper(
            filter=_when(kind.condition, _sends(content_type)),
            status_code=count(HTTPStatus.OK),
            headers_to_add=overwritten(SECURITY_HEADERS),
            body_format_override=SubstitutionFormatString(
                text_format_source=DataSource(inline_bytes=body.replace(b"%", b"%%")),
                content_type=f"{content_type}+proto",
            ),
        )


def _mapper(
    kind: _Kind, asked: str | None, body: str, content_type: str, headers: tuple[tuple[str, str], ...]
) -> ResponseMapper:
    body = body.replace("%", "%%").replace(_ID_STANDS_HERE, _REQUEST_ID)
    return ResponseMapper(
        filter=_when(kind.condition) if asked is None else _when(kind.condition, asked),
        status_code=None if kind.status is None else count(kind.status),
        headers_to_add=overwritten(headers),
        body_format_override=SubstitutionFormatString(
            text_format_source=DataSource(inline_string=body), content_type=content_type
        ),
    )


def _sends(content_type: str) -> str:
    """The condition that a request is of this type, or of one that begins so."""
    return f"('content-type' in request.headers && request.headers['content-type'].startsWith('{content_type}'))"


def _when(*conditions: str) -> AccessLogFilter:
    """Where all of the conditions hold, in CEL: no filter of Envoy's own knows the details of a response."""
    expression = ExpressionFilter(expression=" && ".join(conditions))
    return AccessLogFilter(extension_filter=ExtensionFilter(name=_FILTER, typed_config=packed(expression)))
