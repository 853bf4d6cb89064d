"""What clients get where Envoy itself must refuse: a safe text, the request's id and, where it helps, when to come again.

Two kinds of refusal are worded: nobody could decide, and the application behind the route gives no answer. Everything else goes out as
it is, refusals that authorize has worded first of all: to Envoy they are local replies too, told apart by the details of the response.
"""

import base64
import html
import json
import struct
from collections.abc import Iterator
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

_FILTER = "envoy.access_loggers.extension_filters.cel"
_UNDECIDED = "response.code_details == 'ext_authz_error'"
# Envoy's names: `source/common/stream_info/stream_info.h`, `ResponseCodeDetailValues`.
_UNANSWERED = (
    "(response.code_details.startsWith('upstream_') || "
    "response.code_details in ['no_healthy_upstream', 'response_timeout', 'request_overall_timeout'])"
)
# A condition about a header that is missing holds nowhere, so each asks first.
_GRPC, _WEB = "application/grpc", "application/grpc-web"
_TRAILERS = 0x80
_HTML = "('accept' in request.headers && request.headers['accept'].contains('text/html'))"
_GRPC_UNAVAILABLE = "14"
_REQUEST_ID = "%REQ(X-REQUEST-ID)%"
"""Envoy's command. The id is Envoy's own and nothing to escape: :func:`doorward_proxy.resources.tracing.early_mutations`."""
_ID_STANDS_HERE = "request-id-stands-here"
_UNANSWERED_TITLE = "No answer"
_UNANSWERED_TEXT = "The application behind this address does not answer at this moment. Try again later."


def local_replies() -> LocalReplyConfig:
    """The same in every configuration. The first mapper whose condition holds is the only one that counts."""
    return LocalReplyConfig(
        mappers=[
            *_grpc_web(_UNDECIDED, UNAVAILABLE_TEXT),
            *_grpc_web(_UNANSWERED, _UNANSWERED_TEXT),
            # gRPC has no such header, and its status says all; but the text of a failed connection is nothing for clients.
            ResponseMapper(filter=_when(_UNDECIDED, _sends(_GRPC))),
            _mapper(_when(_UNANSWERED, _sends(_GRPC)), _UNANSWERED_TEXT, "text/plain"),
            *_worded(_UNDECIDED, "unavailable", UNAVAILABLE_TITLE, UNAVAILABLE_TEXT, (RETRY_AFTER,)),
            # Whether and when an application comes back is not known here: no `Retry-After`.
            *_worded(_UNANSWERED, "no-answer", _UNANSWERED_TITLE, _UNANSWERED_TEXT),
        ]
    )


def _worded(
    condition: str, error: str, title: str, text: str, headers: tuple[tuple[str, str], ...] = ()
) -> Iterator[ResponseMapper]:
    """A page for browsers, JSON for everybody else."""
    page = refusal_page(title, f"<p>{html.escape(text)}</p>", "Request", _ID_STANDS_HERE)
    told = json.dumps({"error": error, "message": text, "request_id": _ID_STANDS_HERE}) + "\n"
    headers = (*SECURITY_HEADERS, *headers)
    yield _mapper(
        _when(condition, _HTML),
        page,
        "text/html; charset=utf-8",
        (*headers, ("content-security-policy", content_security_policy())),
    )
    yield _mapper(_when(condition), told, "application/json", headers)


def _grpc_web(condition: str, text: str) -> Iterator[ResponseMapper]:
    """To Envoy gRPC-Web is no gRPC. Its clients read the status where they read trailers: in a last frame of the body.

    Source: the gRPC-Web protocol, "Message framing". In the text form the body is Base64.
    """
    trailers = f"grpc-status:{_GRPC_UNAVAILABLE}\r\ngrpc-message:{text}\r\n".encode()
    frame = struct.pack(">BI", _TRAILERS, len(trailers)) + trailers
    for kind, body in ((f"{_WEB}-text", base64.b64encode(frame)), (_WEB, frame)):
        yield ResponseMapper(
            filter=_when(condition, _sends(kind)),
            status_code=count(HTTPStatus.OK),
            headers_to_add=overwritten(SECURITY_HEADERS),
            body_format_override=SubstitutionFormatString(
                text_format_source=DataSource(inline_bytes=body.replace(b"%", b"%%")), content_type=f"{kind}+proto"
            ),
        )


def _mapper(
    condition: AccessLogFilter, body: str, content_type: str, headers: tuple[tuple[str, str], ...] = ()
) -> ResponseMapper:
    body = body.replace("%", "%%").replace(_ID_STANDS_HERE, _REQUEST_ID)
    return ResponseMapper(
        filter=condition,
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
