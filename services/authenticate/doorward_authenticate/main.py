"""The authenticate plane as a process; the only place that builds its concrete parts."""

import asyncio
import contextlib
import random
import secrets
from collections.abc import Mapping

import httpx
from prometheus_client import CollectorRegistry, Counter
from starlette.types import ASGIApp

from doorward.api.authenticate.v1.authenticate_pb2_grpc import add_AuthenticateServiceServicer_to_server
from doorward.api.process.v1.process_pb2 import Process
from doorward.clock import Clock, SystemClock
from doorward.config.apart import ConfigurationReader
from doorward.config.reload import watch_settings
from doorward.config.settings import Settings
from doorward.keys.code import CodeSealer
from doorward.keys.flow import SignInSigner
from doorward.keys.handle import HandleSealer
from doorward.keys.sealed import Sealer
from doorward.keys.store import KeyStore, Purpose
from doorward.records.client import RecordClient
from doorward.route.internal import CALLBACK_PATH
from doorward.rpc.planes import Plane
from doorward.rpc.server import start_all, stop_all
from doorward.runtime.neighbours import Neighbours
from doorward.runtime.parts import until_stopped
from doorward.runtime.reporter import Reporter
from doorward.runtime.service import ServeOptions, Stop, run_service
from doorward.telemetry.probes import ProbeServer
from doorward.telemetry.tracing import Tracer, span_sender
from doorward.web.pages import Pages
from doorward_authenticate.app import sign_in_app, sign_in_server
from doorward_authenticate.codes import Codes
from doorward_authenticate.identity_providers.fetch import http_client
from doorward_authenticate.identity_providers.relying_party import OidcRelyingParty, RelyingParty
from doorward_authenticate.issuer_keys import IssuerKeysKeeper
from doorward_authenticate.pending import PendingSealer
from doorward_authenticate.server import SERVICE_NAME, AuthenticateServicer
from doorward_authenticate.session_life.keeper import Keeper
from doorward_authenticate.session_life.refresher import Refresher
from doorward_authenticate.sessions import SessionLimits, SessionWriter
from doorward_authenticate.sign_in import SignInPages
from doorward_authenticate.traced import Traced

_STOP_SECONDS = 1.0


def run(options: ServeOptions) -> int:
    """Run the plane until a signal ends it, and return the exit status."""
    return run_service(options, serve)


async def serve(options: ServeOptions, stop: Stop) -> None:
    """Serve until ``stop``. Identity providers and databroker are looked for when they are needed."""
    reader = ConfigurationReader(options.config_path, in_brief=True)
    settings = await reader.settings()
    clock = SystemClock()
    neighbours = Neighbours(Plane.AUTHENTICATE, options, settings.planes, clock)
    keys = KeyStore(options.keys_dir)
    neighbours.watch_keys(keys)
    client = http_client()
    channel = neighbours.databroker()
    handles = HandleSealer(Sealer(keys.keyring(Purpose.SESSION_HANDLE)))
    pending = Sealer(keys.keyring(Purpose.PENDING_SIGN_IN))
    records = RecordClient(channel)
    token_sealer = Sealer(keys.keyring(Purpose.PROVIDER_TOKENS))
    sessions = SessionWriter(
        records,
        token_sealer,
        SessionLimits.of(settings),
        clock,
    )
    codes = Codes(CodeSealer(Sealer(keys.keyring(Purpose.ONE_TIME_CODE))), handles, sessions, clock)
    pages = Pages("doorward_authenticate")
    handlers = SignInPages(
        settings=settings,
        parties=relying_parties(settings, client, clock, {}),
        pages=pages,
        signer=SignInSigner(keys.keyring(Purpose.FLOW)),
        pending=PendingSealer(pending),
        handles=handles,
        forms=pending,
        sessions=sessions,
        codes=codes,
        clock=clock,
    )
    registry = CollectorRegistry()
    app: ASGIApp = sign_in_app(handlers, pages)
    spans = None
    if settings.tracing is not None:
        drops = Counter("doorward_span_drops", "Spans that the collector did not take.", registry=registry)
        spans = span_sender(settings.tracing.otlp_endpoint, {"service.name": "doorward-authenticate"}, drops.inc)
        app = Traced(app, Tracer(settings.tracing.sample, spans.offer, clock.now, random.random))
    servicer = AuthenticateServicer(codes, handles, sessions, clock)
    services = neighbours.servers(
        "authenticate",
        [(Plane.PROXY, neighbours.local.authenticate)],
        [Plane.PROXY],
        lambda server: add_AuthenticateServiceServicer_to_server(servicer, server),
        [SERVICE_NAME],
    )
    web = sign_in_server(
        app,
        neighbours.place("authenticate_pages", neighbours.local.authenticate_pages),
        neighbours.identity,
    )

    def describe(process: Process) -> None:
        process.generation = handlers.settings.generation
        process.ready = True
        neighbours.describe(process)

    reporter = Reporter(channel, describe)

    async def on_change(changed: Settings) -> None:
        handlers.parties = relying_parties(changed, client, clock, handlers.parties)
        handlers.settings = changed
        reporter.soon()
        sessions.limits = SessionLimits.of(changed)

    refresher = Refresher(
        records,
        token_sealer,
        lambda: handlers.parties,
        lambda: sessions.limits.rhythm,
        clock,
        directories=lambda: sessions.limits.directories,
        provider_tokens=lambda: sessions.limits.provider_tokens,
    )
    keeper = Keeper(records, refresher, clock, registry)
    issuer_keys = IssuerKeysKeeper(records, client, lambda: handlers.settings.token_issuers, clock, registry)
    tasks = {
        *([asyncio.create_task(spans.run(), name="spans")] if spans is not None else []),
        asyncio.create_task(keeper.run(records, secrets.token_hex(8)), name="session life"),
        asyncio.create_task(issuer_keys.run(secrets.token_hex(8)), name="issuers' keys"),
        asyncio.create_task(web.serve(), name="pages"),
        asyncio.create_task(neighbours.run(), name="certificate"),
        asyncio.create_task(reporter.run(), name="report"),
        asyncio.create_task(watch_settings(reader, settings, on_change), name="reload"),
    }
    probes = ProbeServer(registry, lambda: stop.serving)

    async def start() -> None:
        await probes.start(options.health or neighbours.local.probes(Plane.AUTHENTICATE, options.worker))
        await start_all(services)
        await web.wait_started()
        stop.ready()

    try:
        await until_stopped(stop, tasks, start())
    finally:
        await probes.stop()
        web.shutdown()
        await stop_all(services, _STOP_SECONDS)
        for task in tasks:
            if task.get_name() != "pages":
                task.cancel()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), _STOP_SECONDS * 4)
        await client.aclose()
        await channel.close(None)


def relying_parties(
    settings: Settings, client: httpx.AsyncClient, clock: Clock, before: Mapping[str, RelyingParty]
) -> dict[str, RelyingParty]:
    """One for each identity provider; those whose settings stay keep what they have fetched."""
    parties: dict[str, RelyingParty] = {}
    for provider in settings.identity_providers:
        old = before.get(provider.id)
        if old is not None and old.settings == provider:
            parties[provider.id] = old
            continue
        redirect_uri = f"{settings.authenticate_origin}{CALLBACK_PATH}/{provider.id}"
        parties[provider.id] = OidcRelyingParty(provider, redirect_uri, client, clock)
    return parties
