"""TLS towards browsers and towards upstreams."""

import ipaddress
from pathlib import Path

from doorward.config.settings import ClientCertificateSettings
from doorward.envoy_api.envoy.config.core.v3.base_pb2 import DataSource, TransportSocket
from doorward.envoy_api.envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    SubjectAltNameMatcher,
    TlsCertificate,
    TlsParameters,
)
from doorward.envoy_api.envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig, Secret
from doorward.envoy_api.envoy.extensions.transport_sockets.tls.v3.tls_pb2 import (
    CommonTlsContext,
    DownstreamTlsContext,
    UpstreamTlsContext,
)
from doorward.envoy_api.envoy.type.matcher.v3.string_pb2 import StringMatcher
from doorward.keys.local_authority import CertifiedKey
from doorward.keys.plane_authority import plane_host, plane_uri
from doorward_proxy.resources.messages import NO, count, from_discovery, packed
from doorward_proxy.resources.surroundings import CERTIFICATE, PLANE_AUTHORITIES, PLANE_CERTIFICATE

TLS_SOCKET = "envoy.transport_sockets.tls"

_PARAMETERS = TlsParameters(tls_minimum_protocol_version=TlsParameters.TlsProtocol.TLSv1_2)


_BETWEEN_PLANES = TlsParameters(
    # As a client Envoy would stop at 1.2 by itself.
    tls_minimum_protocol_version=TlsParameters.TlsProtocol.TLSv1_3,
    tls_maximum_protocol_version=TlsParameters.TlsProtocol.TLSv1_3,
)


def certificate_secret(certified: CertifiedKey) -> Secret:
    """The listener's certificate; a secret of its own, so that it is replaced without touching the listener."""
    return Secret(
        name=CERTIFICATE,
        tls_certificate=TlsCertificate(
            certificate_chain=DataSource(inline_bytes=certified.certificate_pem),
            private_key=DataSource(inline_bytes=certified.key_pem),
        ),
    )


def downstream_socket(clients: ClientCertificateSettings | None = None) -> TransportSocket:
    """TLS of the public listener, with the certificate from discovery; with ``clients``, clients are asked for theirs.

    Who has none goes on without; one that does not verify ends the handshake. Trust lies in the listener itself and not in discovery,
    so that connections which were checked by an earlier one drain when it changes. Sessions are not resumed there: a resumed one would
    keep what was found at its beginning.
    """
    common = CommonTlsContext(
        tls_params=_PARAMETERS,
        tls_certificate_sds_secret_configs=[SdsSecretConfig(name=CERTIFICATE, sds_config=from_discovery())],
        alpn_protocols=["h2", "http/1.1"],
    )
    context = DownstreamTlsContext(common_tls_context=common, require_client_certificate=NO)
    if clients is not None:
        validation = CertificateValidationContext(
            trusted_ca=DataSource(inline_string=clients.authorities_pem),
            # Envoy counts authorities, the one that is trusted included (seen on 1.40).
            max_verify_depth=count(clients.intermediates + 1),
        )
        if clients.revocation_pem is not None:
            validation.crl.inline_string = clients.revocation_pem
        context.common_tls_context.validation_context.CopyFrom(validation)
        context.disable_stateless_session_resumption = True
        context.disable_stateful_session_resumption = True
    return TransportSocket(name=TLS_SOCKET, typed_config=packed(context))


def upstream_socket(*, server_name: str, ca_pem: str | None, trust_store: Path, skip_verify: bool) -> TransportSocket:
    """TLS to an upstream: a trust store and exactly this name, unless the operator gave up both.

    ``server_name`` is a host name or an address; an address is verified but not sent as SNI (RFC 6066, section 3).
    """
    common = CommonTlsContext(tls_params=_PARAMETERS)
    address = _is_address(server_name)
    if not skip_verify:
        san = SubjectAltNameMatcher.SanType
        context = CertificateValidationContext(
            match_typed_subject_alt_names=[
                SubjectAltNameMatcher(
                    san_type=san.IP_ADDRESS if address else san.DNS, matcher=StringMatcher(exact=server_name)
                )
            ]
        )
        if ca_pem is None:
            context.trusted_ca.filename = str(trust_store)
        else:
            context.trusted_ca.inline_string = ca_pem
        common.validation_context.CopyFrom(context)
    return TransportSocket(
        name=TLS_SOCKET,
        typed_config=packed(UpstreamTlsContext(common_tls_context=common, sni="" if address else server_name)),
    )


def plane_secrets(certified: CertifiedKey, authorities_pem: bytes) -> tuple[Secret, Secret]:
    """Our certificate towards other planes and the authorities that we trust there; replaced without touching a cluster."""
    return (
        Secret(
            name=PLANE_CERTIFICATE,
            tls_certificate=TlsCertificate(
                certificate_chain=DataSource(inline_bytes=certified.certificate_pem),
                private_key=DataSource(inline_bytes=certified.key_pem),
            ),
        ),
        Secret(
            name=PLANE_AUTHORITIES,
            validation_context=CertificateValidationContext(trusted_ca=DataSource(inline_bytes=authorities_pem)),
        ),
    )


def plane_socket(plane: str) -> TransportSocket:
    """Mutual TLS to another plane: its certificate must name exactly that plane."""
    return TransportSocket(
        name=TLS_SOCKET,
        typed_config=packed(
            UpstreamTlsContext(
                common_tls_context=CommonTlsContext(
                    tls_params=_BETWEEN_PLANES,
                    tls_certificate_sds_secret_configs=[
                        SdsSecretConfig(name=PLANE_CERTIFICATE, sds_config=from_discovery())
                    ],
                    combined_validation_context=CommonTlsContext.CombinedCertificateValidationContext(
                        default_validation_context=CertificateValidationContext(
                            match_typed_subject_alt_names=[
                                SubjectAltNameMatcher(
                                    san_type=SubjectAltNameMatcher.SanType.URI,
                                    matcher=StringMatcher(exact=plane_uri(plane)),
                                )
                            ]
                        ),
                        validation_context_sds_secret_config=SdsSecretConfig(
                            name=PLANE_AUTHORITIES, sds_config=from_discovery()
                        ),
                    ),
                    alpn_protocols=["h2"],
                ),
                sni=plane_host(plane),
            )
        ),
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
