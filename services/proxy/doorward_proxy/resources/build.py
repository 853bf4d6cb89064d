"""Settings and a certificate become one snapshot."""

from doorward.config.settings import Settings
from doorward.envoy_api.envoy.config.cluster.v3.cluster_pb2 import Cluster
from doorward.envoy_api.envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from doorward.keys.local_authority import CertifiedKey
from doorward.rpc.credentials import PlaneCertificate
from doorward_proxy.resources.clusters import clusters
from doorward_proxy.resources.listeners import public_listener
from doorward_proxy.resources.routes import HostCache, is_scoped, route_configuration, unknown_host
from doorward_proxy.resources.surroundings import Surroundings
from doorward_proxy.resources.tls import certificate_secret, plane_secrets
from doorward_proxy.xds.snapshot import Snapshot


class SnapshotBuilder:
    """Builds one snapshot after another, and what has not changed only once.

    Concurrency: belongs to one task.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._hosts = HostCache()
        self._clusters: dict[str, Cluster] = {}
        self._before: Snapshot | None = None

    def build(
        self, settings: Settings, certified: CertifiedKey, plane_certificate: PlaneCertificate | None = None
    ) -> Snapshot:
        """See ``build_snapshot``."""
        hosts = self._hosts.hosts(settings)
        scoped = is_scoped(settings)
        upstreams = [built.upstreams for built in hosts.values() if built.upstreams]
        self._clusters = clusters(settings, self._surroundings, upstreams, self._clusters)
        self._before = Snapshot.of(
            generation=settings.generation,
            clusters=self._clusters.values(),
            secrets=_secrets(certified, plane_certificate),
            listeners=[public_listener(settings)],
            routes=[] if scoped else [route_configuration([*(built.host for built in hosts.values()), unknown_host()])],
            scopes=[built.scope for built in hosts.values()] if scoped else [],
            before=self._before,
        )
        return self._before


def build_snapshot(
    settings: Settings,
    certified: CertifiedKey,
    surroundings: Surroundings,
    plane_certificate: PlaneCertificate | None = None,
) -> Snapshot:
    """Everything that Envoy is to be told for ``settings``; ``plane_certificate`` is needed where planes are at addresses."""
    return SnapshotBuilder(surroundings).build(settings, certified, plane_certificate)


def _secrets(certified: CertifiedKey, plane_certificate: PlaneCertificate | None) -> list[Secret]:
    secrets = [certificate_secret(certified)]
    if plane_certificate is not None:
        ours = CertifiedKey(plane_certificate.certificate_pem, plane_certificate.key_pem)
        secrets += plane_secrets(ours, plane_certificate.authorities_pem)
    return secrets
