"""The authorize plane as a process; the only place that builds its concrete parts."""

import asyncio
import contextlib
import gc
import itertools
import math
import random
import secrets
import time
from pathlib import Path

import grpc.aio
from prometheus_client import CollectorRegistry

from doorward.api.authorize.v1.authorize_pb2_grpc import add_AuthorizeServiceServicer_to_server
from doorward.api.external.v1 import external_pb2
from doorward.api.guard.v1.guard_pb2_grpc import add_GuardServiceServicer_to_server
from doorward.api.process.v1.process_pb2 import Process
from doorward.api.session.v1 import session_pb2
from doorward.api.user.v1 import user_pb2
from doorward.clock import SystemClock
from doorward.config.apart import ConfigurationReader
from doorward.config.references import no_secret
from doorward.config.reload import watch_settings
from doorward.config.settings import DecisionLogSettings, Settings
from doorward.identity import session as sessions
from doorward.identity import user as users
from doorward.identity.directory import GROUP_TYPE, STATE_TYPE, USER_TYPE
from doorward.identity.external_record import RECORD_TYPE as EXTERNAL_TYPE
from doorward.identity.external_record import SOURCE_TYPE
from doorward.identity.grant import RECORD_TYPE as GRANT_TYPE
from doorward.identity.issuer_keys import RECORD_TYPE as ISSUER_KEYS_TYPE
from doorward.identity.service_account import RECORD_TYPE as SERVICE_ACCOUNT_TYPE
from doorward.identity.upstream_token import RECORD_TYPE as UPSTREAM_TOKEN_TYPE
from doorward.keys.flow import FlowSealer, SignInSigner
from doorward.keys.handle import HandleSealer
from doorward.keys.sealed import Sealer
from doorward.keys.service_token import TokenHasher
from doorward.keys.store import KeyStore, Purpose
from doorward.records.client import RecordClient
from doorward.records.packing import MessagePacker, Names, Packer
from doorward.records.replica import Replica
from doorward.rpc.grpc_server import GrpcServer
from doorward.rpc.plane_listener import admitted, listen
from doorward.rpc.planes import Plane
from doorward.rpc.server import start_all, stop_all
from doorward.runtime.neighbours import Neighbours
from doorward.runtime.parts import until_stopped
from doorward.runtime.reporter import Reporter, behind
from doorward.runtime.service import ServeOptions, Stop, run_service
from doorward.telemetry.otlp import OtlpSender
from doorward.telemetry.probes import ProbeServer
from doorward.telemetry.tracing import Tracer, span_sender
from doorward_authorize.activity import ActivityTracker
from doorward_authorize.asked_decisions import AskedDecisions
from doorward_authorize.assertion import AssertionSigner
from doorward_authorize.check_response import Responder
from doorward_authorize.checker import Checker
from doorward_authorize.decision_log import DecisionLog
from doorward_authorize.decision_record import RecordEncoder
from doorward_authorize.directories import Directories
from doorward_authorize.evaluator import Evaluator
from doorward_authorize.explanations import Explanations
from doorward_authorize.external_records import ExternalRecords
from doorward_authorize.external_tokens import ExternalTokens
from doorward_authorize.gateway_door import GatewayDoor
from doorward_authorize.gateways import Gateways
from doorward_authorize.grants import Grants
from doorward_authorize.guard.records import CutRecords
from doorward_authorize.guard.service import SERVICE_NAME as GUARD_SERVICE_NAME
from doorward_authorize.guard.service import GuardServicer
from doorward_authorize.guard.spans import StreamSpans
from doorward_authorize.guard.watcher import Watcher
from doorward_authorize.held_decisions import HeldDecisions
from doorward_authorize.log_file import LogFile
from doorward_authorize.metrics import AuthorizeMetrics
from doorward_authorize.otlp_export import record_sender
from doorward_authorize.outcome import NOT_RECORDED
from doorward_authorize.principals import Principals
from doorward_authorize.server import SERVICE_NAME, AuthorizeServicer
from doorward_authorize.service_accounts import ServiceAccounts
from doorward_authorize.sign_in_redirect import SignInRedirect
from doorward_authorize.snapshot import compile_in_slices, compile_snapshot, let_go
from doorward_authorize.transport import check_methods
from doorward_authorize.upstream_tokens import UpstreamTokens

REPLICATED = (
    sessions.RECORD_TYPE,
    users.RECORD_TYPE,
    SERVICE_ACCOUNT_TYPE,
    USER_TYPE,
    GROUP_TYPE,
    STATE_TYPE,
)
"""Types that a decision may depend on and that every databroker knows."""
REPLICATED_IF_KNOWN = (ISSUER_KEYS_TYPE, GRANT_TYPE, EXTERNAL_TYPE, SOURCE_TYPE, UPSTREAM_TOKEN_TYPE)
"""Those that have come later. Without them keys and tokens are missing, grants and external records are unknown: nobody gets in by any."""
_STOP_SECONDS = 1.0
_DRAIN_SECONDS = 2.0
_NOTICED_SECONDS = 0.5
"""Every Envoy has asked by then whether we serve (it asks four times a second), and sends its checks elsewhere."""
COLLECT_AFTER = (10_000, 1_000, 1_000)
"""When the collector looks for cycles. Records wait in a queue for a moment, and looking at them again and again costs a fifth of a check;
looking at everything, ten thousand routes above all, holds every check for a second. Nothing that lives long here is part of a cycle."""


def run(options: ServeOptions) -> int:
    """Run the plane until a signal ends it, and return the exit status."""
    return run_service(options, serve)


class DatabrokerSource:
    """The databroker, asked for one session."""

    def __init__(self, client: RecordClient) -> None:
        self._client = client

    async def session(self, session_id: str) -> bytes:
        """See ``RecordSource.session``."""
        return (await self._client.get(sessions.RECORD_TYPE, session_id)).data


async def serve(options: ServeOptions, stop: Stop) -> None:
    """Serve until ``stop``. Without the databroker, checks are answered 503 and it is looked for until it is back."""
    gc.set_threshold(*COLLECT_AFTER)
    reader = ConfigurationReader(options.config_path, secrets=no_secret)
    settings = await reader.settings()
    clock = SystemClock()
    neighbours = Neighbours(Plane.AUTHORIZE, options, settings.planes, clock)
    keys = KeyStore(options.keys_dir)
    neighbours.watch_keys(keys)
    registry = CollectorRegistry()
    metrics = AuthorizeMetrics(registry)
    authorizer_id = secrets.token_hex(4)
    process_id = f"{options.worker}-{authorizer_id}"
    channel = neighbours.databroker()
    replica = Replica(
        channel,
        REPLICATED,
        f"{options.worker}-{authorizer_id}",
        clock,
        settings.staleness.longest,
        packers(),
        REPLICATED_IF_KNOWN,
    )
    metrics.data_age.set_function(lambda: math.inf if (age := replica.data_age_seconds) is None else age)
    metrics.sessions.set_function(lambda: replica.count(sessions.RECORD_TYPE))
    probes = ProbeServer(registry, replica.is_fresh)
    handles = HandleSealer(Sealer(keys.keyring(Purpose.SESSION_HANDLE)))
    client = RecordClient(channel)

    def idle_seconds() -> float | None:
        return evaluator.snapshot.settings.session_idle_seconds

    activity = ActivityTracker(client, idle_seconds, clock)
    directories = Directories(replica, clock)
    replica.subscribe(directories.on_record)
    grants, external = Grants(replica.get, replica.knows), ExternalRecords(replica.get, clock)
    replica.subscribe(grants.on_record)
    replica.subscribe(external.on_record)
    accounts = ServiceAccounts(replica, TokenHasher(keys.keyring(Purpose.SERVICE_ACCOUNT)), clock)
    principals = Principals(
        handles,
        replica,
        DatabrokerSource(client),
        clock,
        activity,
        directories,
        accounts,
        grants=grants,
        external=external,
        external_tokens=ExternalTokens(replica, directories, clock),
    )
    evaluator = Evaluator(compile_snapshot(settings, None, clock.monotonic()), principals, replica, clock, metrics)
    flow_keys = keys.keyring(Purpose.FLOW)
    responder = Responder(
        AssertionSigner(keys.keyring(Purpose.ASSERTION), clock),
        SignInRedirect(FlowSealer(Sealer(flow_keys)), SignInSigner(flow_keys), clock),
        clock,
        UpstreamTokens(replica.get, clock),
    )
    held = HeldDecisions()
    log, export = _decision_log(settings.decision_log, keys, authorizer_id, metrics, held)
    spans, tracer = None, None
    if settings.tracing is not None:
        resource = {"service.name": "doorward-authorize", "service.instance.id": authorizer_id}
        spans = span_sender(settings.tracing.otlp_endpoint, resource, metrics.span_drops.inc)
        tracer = Tracer(settings.tracing.sample, spans.offer, clock.now, random.random)
    gateways = Gateways(lambda: evaluator.snapshot, metrics, clock)
    explanations = Explanations(held, client, clock, metrics)
    checker = Checker(
        authorizer_id=authorizer_id,
        evaluator=evaluator,
        responder=responder,
        log=log,
        held=held,
        explanations=explanations,
        gateways=gateways,
        data_version=lambda: replica.version,
        clock=clock,
        metrics=metrics,
        tracer=tracer,
        others_may_know=lambda: any(
            process.plane == Plane.AUTHORIZE and process.ready and process.id != process_id
            for process in reporter.processes
        ),
    )
    cut = itertools.count(1)
    cuts = CutRecords(
        log,
        held,
        lambda: f"{authorizer_id}-c-{next(cut):x}",
        clock.now,
        lambda: evaluator.snapshot.generation,
        lambda: replica.version,
    )
    watcher = Watcher(
        evaluator,
        principals,
        replica.is_fresh,
        clock,
        metrics,
        activity.touch,
        cuts.on_cut,
        idle_seconds,
        StreamSpans(tracer),
    )
    guards = GuardServicer(watcher, lambda: replica.data_age_seconds, metrics.failures.inc)
    replica.subscribe(guards.on_record)
    asked = itertools.count(1)
    decisions = AskedDecisions(
        log, held, lambda: f"{authorizer_id}-q-{next(asked):x}", lambda: replica.version, clock, metrics
    )
    servicer = AuthorizeServicer(evaluator, principals, replica, explanations, gateways, decisions)

    def register(server: grpc.aio.Server) -> None:
        add_AuthorizeServiceServicer_to_server(servicer, server)
        add_GuardServiceServicer_to_server(guards, server)

    leaving = asyncio.Event()

    def is_serving() -> bool:
        return replica.is_fresh() and not leaving.is_set()

    door = GatewayDoor(
        checker, is_serving, lambda server: add_AuthorizeServiceServicer_to_server(servicer, server), [SERVICE_NAME]
    )
    own_services = neighbours.servers(
        "authorize_services",
        [(Plane.OPERATOR, neighbours.local.authorize_of(options.worker))],
        [Plane.OPERATOR, Plane.PROXY],
        register,
        [SERVICE_NAME, GUARD_SERVICE_NAME],
        door.methods_of,
    )
    checks = GrpcServer(
        door.methods_behind(check_methods(checker, is_serving)), admits=admitted([Plane.PROXY], gateways=True)
    )
    place = neighbours.place("authorize", neighbours.local.check(options.worker))

    async def follow_gateways(newest: Settings) -> None:
        """Where planes are known by their sockets, so are gateways."""
        if isinstance(place, Path):
            await door.follow(newest, lambda name: neighbours.local.gateway(name, options.worker))

    def describe(process: Process) -> None:
        process.generation = evaluator.snapshot.generation
        process.ready = replica.is_fresh()
        age = replica.data_age_seconds
        process.data_age_ms = -1 if age is None else int(age * 1000)
        neighbours.describe(process)

    reporter = Reporter(channel, describe, process_id)

    def on_reports() -> None:
        """Proxies that run our generation ask for removed routes no more."""
        before = evaluator.snapshot
        if before.has_removed and not behind(reporter.processes, [Plane.PROXY], before.generation):
            evaluator.snapshot = before.without_removed()
            guards.on_snapshot(before, evaluator.snapshot)

    reporter.subscribe(on_reports)

    async def on_change(changed: Settings) -> None:
        before = evaluator.snapshot
        evaluator.snapshot = await compile_in_slices(changed, before, clock.monotonic())
        guards.on_snapshot(before, evaluator.snapshot)
        reporter.soon()
        await follow_gateways(changed)
        gc.freeze()  # it will be there for long
        parts = before.parts()
        del before
        await let_go(parts)

    tasks = {
        asyncio.create_task(replica.run(), name="replica"),
        asyncio.create_task(log.run(), name="decision log"),
        asyncio.create_task(watcher.run(), name="guarded streams"),
        asyncio.create_task(activity.run(), name="activity"),
        asyncio.create_task(explanations.run(), name="refusals"),
        asyncio.create_task(watch_settings(reader, settings, on_change), name="reload"),
        asyncio.create_task(neighbours.run(), name="certificate"),
        asyncio.create_task(reporter.run(), name="report"),
    }
    senders = {
        *([asyncio.create_task(export.run(), name="export")] if export is not None else []),
        *([asyncio.create_task(spans.run(), name="spans")] if spans is not None else []),
    }
    try:
        await listen(checks, place, neighbours.identity)
        await start_all(own_services)
        await follow_gateways(evaluator.snapshot.settings)
        await probes.start(options.health or neighbours.local.probes(Plane.AUTHORIZE, options.worker))
        await until_stopped(stop, tasks | senders, _announce(replica, stop))
    finally:
        # A check that meets a closing connection is asked once more, and must not come here again.
        leaving.set()
        await _unasked(checks)
        guards.drain()
        await asyncio.gather(checks.drain(_DRAIN_SECONDS), door.drain(_DRAIN_SECONDS))
        await stop_all(own_services, _STOP_SECONDS)
        await probes.stop()
        # The last records go to the collector too, so what sends to it ends after what writes them.
        for ending in (tasks, senders):
            for task in ending:
                task.cancel()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(asyncio.gather(*ending, return_exceptions=True), _STOP_SECONDS * 2)
        await channel.close(None)


def packers() -> dict[str, Packer]:
    """How the replica keeps its records small; all share one table of names."""
    table = Names()
    providers = ("identity_provider_id", "context_class")
    return {
        sessions.RECORD_TYPE: MessagePacker(session_pb2.Session, table, ids=("user_id",), names=providers),
        users.RECORD_TYPE: MessagePacker(user_pb2.User, table, names=("issuer",), sets=("groups",)),
        EXTERNAL_TYPE: MessagePacker(external_pb2.ExternalRecord, table, names=("kind",)),
    }


def _decision_log(
    settings: DecisionLogSettings, keys: KeyStore, authorizer_id: str, metrics: AuthorizeMetrics, held: HeldDecisions
) -> tuple[DecisionLog, OtlpSender[str] | None]:
    resource = {"service.name": "doorward-authorize", "service.instance.id": authorizer_id}
    export = record_sender(settings.otlp_endpoint, resource, metrics) if settings.otlp_endpoint else None
    log = DecisionLog(
        LogFile(settings.file, settings.rotate_bytes, settings.keep_files, settings.keep_seconds),
        RecordEncoder(keys.keyring(Purpose.DECISION_FACTS), settings.loggable),
        metrics,
        audit_or_deny=settings.audit_or_deny,
        export=export,
        on_refused=lambda decision_id: held.refuse(decision_id, NOT_RECORDED),
    )
    return log, export


async def _unasked(checks: GrpcServer) -> None:
    """Go on answering until every Envoy has been told to ask others; at once when none is there."""
    deadline = time.monotonic() + _NOTICED_SECONDS
    while checks.connections and time.monotonic() < deadline:  # noqa: ASYNC110  # of many
        await asyncio.sleep(0.02)


async def _announce(replica: Replica, stop: Stop) -> None:
    """Ready once the first snapshot is complete; then its objects need not be looked at by every collection."""
    await replica.ready.wait()
    while not replica.is_fresh():  # noqa: ASYNC110  # freshness comes with time, and has no event
        await asyncio.sleep(0.01)
    gc.collect()
    gc.freeze()
    stop.ready()
