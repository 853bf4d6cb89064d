"""Settings and a certificate become one snapshot."""

from doorward.config.settings import Settings
from doorward.keys.local_authority import CertifiedKey
from doorward_proxy.resources.clusters import clusters
from doorward_proxy.resources.listeners import public_listener
from doorward_proxy.resources.routes import route_configuration, virtual_hosts
from doorward_proxy.resources.surroundings import Surroundings
from doorward_proxy.resources.tls import certificate_secret
from doorward_proxy.xds.snapshot import Snapshot


def build_snapshot(settings: Settings, certified: CertifiedKey, surroundings: Surroundings) -> Snapshot:
    """Everything that Envoy is to be told for ``settings``."""
    return Snapshot.of(
        generation=settings.generation,
        clusters=clusters(settings, surroundings).values(),
        secrets=[certificate_secret(certified)],
        listeners=[public_listener(settings)],
        routes=[route_configuration(virtual_hosts(settings).values())],
    )
