"""Settings and a certificate become one snapshot."""

from doorward.config.settings import Settings
from doorward.keys.local_authority import CertifiedKey
from doorward.rpc.credentials import PlaneCertificate
from doorward_proxy.resources.clusters import clusters
from doorward_proxy.resources.listeners import public_listener
from doorward_proxy.resources.routes import route_configuration, virtual_hosts
from doorward_proxy.resources.surroundings import Surroundings
from doorward_proxy.resources.tls import certificate_secret, plane_secrets
from doorward_proxy.xds.snapshot import Snapshot


def build_snapshot(
    settings: Settings,
    certified: CertifiedKey,
    surroundings: Surroundings,
    plane_certificate: PlaneCertificate | None = None,
) -> Snapshot:
    """Everything that Envoy is to be told for ``settings``; ``plane_certificate`` is needed where planes are at addresses."""
    secrets = [certificate_secret(certified)]
    if plane_certificate is not None:
        ours = CertifiedKey(plane_certificate.certificate_pem, plane_certificate.key_pem)
        secrets += plane_secrets(ours, plane_certificate.authorities_pem)
    return Snapshot.of(
        generation=settings.generation,
        clusters=clusters(settings, surroundings).values(),
        secrets=secrets,
        listeners=[public_listener(settings)],
        routes=[route_configuration(virtual_hosts(settings).values())],
    )
