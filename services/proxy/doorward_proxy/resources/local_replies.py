"""What clients get where Envoy itself must refuse: a safe text, the request's id and, where it helps, when to come again.

Two kinds of refusal are worded: nobody could decide, and the application behind the route gives no answer. Everything else goes out as
it is, refusals that authorize has worded first of all: to Envoy they are local replies too, told apart by the details of the response.
"""

import html
import json
from collections.abc import Iterator

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
from doorward_proxy.resources.messages import overwritten, packed

_FILTER = "envoy.access_loggers.extension_filters.cel"
_UNDECIDED = "response.code_details == 'ext_authz_error'"
# Envoy's names: `source/common/stream_info/stream_info.h`, `ResponseCodeDetailValues`.
_UNANSWERED = (
    "(response.code_details.startsWith('upstream_') || "
    "response.code_details in ['no_healthy_upstream', 'response_timeout', 'request_overall_timeout'])"
)
# A condition about a header that is missing holds nowhere, so each asks first.
_GRPC = "('content-type' in request.headers && request.headers['content-type'].startsWith('application/grpc'))"
_HTML = "('accept' in request.headers && request.headers['accept'].contains('text/html'))"
_REQUEST_ID = "%REQ(X-REQUEST-ID)%"
"""Envoy's command. The id is Envoy's own and nothing to escape: :func:`doorward_proxy.resources.tracing.early_mutations`."""
_ID_STANDS_HERE = "request-id-stands-here"
_UNANSWERED_TITLE = "No answer"
_UNANSWERED_TEXT = "The application behind this address does not answer at this moment. Try again later."


def local_replies() -> LocalReplyConfig:
    """The same in every configuration. The first mapper whose condition holds is the only one that counts."""
    return LocalReplyConfig(
        mappers=[
            # gRPC has no such header, and its status says all; but the text of a failed connection is nothing for clients.
            ResponseMapper(filter=_when(_UNDECIDED, _GRPC)),
            _mapper(_when(_UNANSWERED, _GRPC), _UNANSWERED_TEXT, "text/plain"),
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


def _when(*conditions: str) -> AccessLogFilter:
    """Where all of the conditions hold, in CEL: no filter of Envoy's own knows the details of a response."""
    expression = ExpressionFilter(expression=" && ".join(conditions))
    return AccessLogFilter(extension_filter=ExtensionFilter(name=_FILTER, typed_config=packed(expression)))
