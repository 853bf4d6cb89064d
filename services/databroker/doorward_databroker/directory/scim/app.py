"""The listener's application: whose token, which directory, then the protocol."""

import json
from collections.abc import Mapping
from http import HTTPStatus

import structlog
from scim2_models import (
    AuthenticationScheme,
    Bulk,
    ChangePassword,
    EnterpriseUser,
    ETag,
    Filter,
    Group,
    Patch,
    ResourceType,
    ScimPolicy,
    ScimProvider,
    ServiceProviderConfig,
    Sort,
    User,
)
from scim2_server.requests import ScimRequest
from scim2_server.service import ScimService
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from doorward.errors import ConflictError, DoorwardError
from doorward_databroker.directory.scim.patching import PatchHandler
from doorward_databroker.directory.scim.storage import ScimStorage
from doorward_databroker.directory.scim.tokens import BearerTokens

BODY_LIMIT_BYTES = 4 * 1024 * 1024
_MEDIA_TYPE = "application/scim+json"
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_RETRY_SECONDS = "5"

_log = structlog.stdlib.get_logger(__name__)


def scim_provider() -> ScimProvider:
    """What is served: users with the enterprise extension, and groups."""
    return ScimProvider(
        models=[User, EnterpriseUser, Group],
        resource_types=[ResourceType.from_resource(User[EnterpriseUser]), ResourceType.from_resource(Group)],
        config=ServiceProviderConfig(
            patch=Patch(supported=True),
            bulk=Bulk(supported=False, max_operations=0, max_payload_size=0),
            filter=Filter(supported=True, max_results=500),
            change_password=ChangePassword(supported=False),
            sort=Sort(supported=True),
            etag=ETag(supported=True),
            authentication_schemes=[
                AuthenticationScheme(
                    type=AuthenticationScheme.Type.oauthbearertoken,
                    name="Bearer token",
                    description="A token from the operator.",
                    primary=True,
                )
            ],
        ),
        # Entra names who leaves in the value, and who comes by a filter that matches nobody yet; both are plain to read.
        policy=ScimPolicy(
            remove_value_as_filter=ScimPolicy.RemoveValue.apply,
            unmatched_path_filter=ScimPolicy.UnmatchedPathFilter.create,
        ),
    )


class PushedDirectory:
    """One directory as the listener sees it."""

    def __init__(self, storage: ScimStorage, tokens: BearerTokens, service: ScimService) -> None:
        self.storage = storage
        self.tokens = tokens
        self.service = service
        self.handler = PatchHandler(service, storage, storage)


def scim_app(directories: Mapping[str, PushedDirectory]) -> Starlette:
    """The application; ``directories`` may change while it runs."""

    async def serve(request: Request) -> Response:
        directory = directories.get(request.path_params["directory"])
        try:
            # An unknown directory answers as a wrong token does: which there are is nobody's business.
            if directory is None or not directory.tokens.accepts(request.headers.get("authorization", "")):
                _log.warning("a SCIM request was refused", directory=request.path_params["directory"][:64])
                return _error(HTTPStatus.UNAUTHORIZED, "no valid token", {"www-authenticate": 'Bearer realm="SCIM"'})
            body = await _body(request)
            if body is None:
                return _error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {BODY_LIMIT_BYTES} bytes")
            return await _handled(directory, request, body)
        except ConflictError:
            return _unavailable("another replica has taken over")
        except DoorwardError as error:
            _log.error("a SCIM request cannot be served", path=request.url.path, reason=str(error))
            return _unavailable("not now")

    return Starlette(routes=[Route("/{directory}/v2{path:path}", serve, methods=_METHODS)])


async def _handled(directory: PushedDirectory, request: Request, body: bytes) -> Response:
    base = f"{request.url.scheme}://{request.url.netloc}/{request.path_params['directory']}/v2"
    asked = ScimRequest(
        method=request.method,
        base_url=base,
        path=request.path_params["path"] or "/",
        query=dict(request.query_params),
        headers=dict(request.headers),
        body=body,
    )
    try:
        answer = await directory.handler.handle(asked)
    except DoorwardError:
        raise
    except Exception as error:
        answer = directory.service.error_response(error)
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            # A bug; the client learns nothing of it.
            _log.error("a SCIM request failed", path=request.url.path, error=str(error), exc_info=True)
    content = b"" if answer.body is None else json.dumps(answer.body).encode()
    headers = {**answer.headers, "cache-control": "no-store"}
    return Response(content, answer.status, headers)


async def _body(request: Request) -> bytes | None:
    """The body, or ``None`` when it is too long."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT_BYTES:
            return None
    return bytes(body)


def _unavailable(detail: str) -> Response:
    return _error(HTTPStatus.SERVICE_UNAVAILABLE, detail, {"retry-after": _RETRY_SECONDS})


def _error(status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    content = {
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"],
        "status": str(int(status)),
        "detail": detail,
    }
    return JSONResponse(content, status, {"cache-control": "no-store", **(headers or {})}, media_type=_MEDIA_TYPE)
