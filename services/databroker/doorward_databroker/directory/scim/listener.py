"""The listener of directories that push: a port and certificates of its own, apart from the data plane's."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import h2corn
from scim2_models import Resource
from scim2_server.service import ScimService

from doorward.clock import Clock
from doorward.config.directory_settings import DirectorySettings, ScimConnection
from doorward.config.endpoints import Address
from doorward.config.settings import TlsSettings
from doorward.records.client import RecordClient
from doorward_databroker.directory.scim.app import BODY_LIMIT_BYTES, PushedDirectory, scim_app, scim_provider
from doorward_databroker.directory.scim.keeper import keep_serving
from doorward_databroker.directory.scim.storage import ScimStorage
from doorward_databroker.directory.scim.tokens import BearerTokens
from doorward_databroker.directory.synchroniser import Records

_SHUTDOWN_SECONDS = 1.0


def pushed_directory(settings: DirectorySettings, records: Records, clock: Clock) -> PushedDirectory:
    """One directory that pushes; it serves once its storage holds a lease.

    Raises:
        TypeError: it is one that is read.
    """
    connection = settings.connection
    if not isinstance(connection, ScimConnection):
        raise TypeError("a directory that is read does not push")
    service = ScimService(scim_provider())
    storage = ScimStorage(settings, connection, records, _models(service), clock)
    return PushedDirectory(storage, BearerTokens(connection), service)


def _models(service: ScimService) -> Callable[[str], type[Resource[Any]]]:
    return lambda kind: service.get_model(service.get_resource_type(kind))


def scim_server(directories: dict[str, PushedDirectory], address: Address, tls: TlsSettings | None) -> h2corn.Server:
    """The server; without ``tls`` only this machine may speak with it, which the configuration has made sure of."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    return h2corn.Server(
        scim_app(directories),
        h2corn.Config(
            bind=(f"{host}:{address.port}",),
            certfile=tls.certificate_file if tls is not None else None,
            keyfile=tls.key_file if tls is not None else None,
            access_log=False,
            lifespan="off",
            server_header="off",
            max_request_body_size=BODY_LIMIT_BYTES + 1,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        ),
    )


async def serve_pushed(
    settings: list[DirectorySettings],
    address: Address,
    tls: TlsSettings | None,
    client: RecordClient,
    clock: Clock,
    holder: str,
) -> None:
    """Serve every directory that pushes until cancelled."""
    directories = {item.id: pushed_directory(item, client, clock) for item in settings if item.pushes}
    server = scim_server(directories, address, tls)
    serving = asyncio.ensure_future(server.serve())
    try:
        async with asyncio.TaskGroup() as group:
            for name, directory in directories.items():
                group.create_task(keep_serving(name, directory.storage, client, holder, clock))
            await asyncio.shield(serving)
    finally:
        server.shutdown()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(serving, _SHUTDOWN_SECONDS * 3)
