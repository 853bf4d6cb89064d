"""Envoy's messages about a guarded stream: what Check said about it, and the two answers that change nothing."""

import base64
import binascii

from doorward.envoy_api.envoy.service.ext_proc.v3.external_processor_pb2 import (
    HeadersResponse,
    ProcessingRequest,
    ProcessingResponse,
    TrailersResponse,
)
from doorward.route.internal import METADATA_NAMESPACE, METADATA_STREAM

HEADERS_PASS = ProcessingResponse(request_headers=HeadersResponse()).SerializeToString()
"""Lets the request go on as it is."""
TRAILERS_PASS = ProcessingResponse(response_trailers=TrailersResponse()).SerializeToString()
"""Lets the response's trailers go on as they are."""


def asks_for_trailers(message: ProcessingRequest) -> bool:
    """Whether Envoy has come to the end of the response."""
    return message.HasField("response_trailers")


def description_of(message: ProcessingRequest) -> bytes | None:
    """What Check said about the stream that begins; ``None`` when it said nothing, and so did not allow it."""
    if not message.HasField("request_headers"):
        return None
    metadata = message.metadata_context.filter_metadata.get(METADATA_NAMESPACE)
    value = metadata.fields.get(METADATA_STREAM) if metadata is not None else None
    if value is None or not value.string_value:
        return None
    try:
        return base64.b64decode(value.string_value, validate=True)
    except (binascii.Error, ValueError):
        return None
