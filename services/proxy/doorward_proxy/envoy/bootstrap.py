"""What Envoy is started with: where the discovery service is, and an admin interface that nobody else can open.

No runtime layer: what can be switched at run time past the gate is not configuration.
"""

from google.protobuf.json_format import MessageToJson

from doorward.envoy_api.envoy.config.bootstrap.v3.bootstrap_pb2 import Admin, Bootstrap
from doorward.envoy_api.envoy.config.cluster.v3.cluster_pb2 import Cluster
from doorward.envoy_api.envoy.config.core.v3.base_pb2 import Node
from doorward.envoy_api.envoy.config.core.v3.config_source_pb2 import ApiConfigSource, ApiVersion
from doorward.envoy_api.envoy.config.core.v3.grpc_service_pb2 import GrpcService
from doorward.envoy_api.envoy.config.core.v3.protocol_pb2 import Http2ProtocolOptions, KeepaliveSettings
from doorward.envoy_api.envoy.config.endpoint.v3.endpoint_components_pb2 import LocalityLbEndpoints
from doorward.envoy_api.envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from doorward.envoy_api.envoy.config.overload.v3.overload_pb2 import OverloadManager
from doorward.envoy_api.envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from doorward_proxy.resources.clusters import PROTOCOL_OPTIONS
from doorward_proxy.resources.messages import endpoint, from_discovery, packed, pipe_address, seconds
from doorward_proxy.resources.surroundings import DISCOVERY_CLUSTER, Surroundings

ADMIN_MODE = 0o600


def bootstrap(surroundings: Surroundings, limits: OverloadManager, *, node_id: str) -> Bootstrap:
    """The bootstrap of the Envoy that is called ``node_id``."""
    return Bootstrap(
        node=Node(id=node_id, cluster="doorward"),
        admin=Admin(
            address=pipe_address(surroundings.admin_socket, mode=ADMIN_MODE),
            # Whoever looks after Envoy must reach it also when clients have taken all connections.
            ignore_global_conn_limit=True,
        ),
        dynamic_resources=Bootstrap.DynamicResources(
            ads_config=ApiConfigSource(
                api_type=ApiConfigSource.ApiType.DELTA_GRPC,
                transport_api_version=ApiVersion.V3,
                grpc_services=[
                    GrpcService(envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=DISCOVERY_CLUSTER)),
                ],
                set_node_on_first_message_only=True,
            ),
            lds_config=from_discovery(),
            cds_config=from_discovery(),
        ),
        static_resources=Bootstrap.StaticResources(clusters=[_discovery(surroundings)]),
        overload_manager=limits,
    )


def as_json(message: Bootstrap) -> str:
    """``message`` in the form that Envoy reads from a file."""
    return MessageToJson(message, preserving_proto_field_name=True)


def _discovery(surroundings: Surroundings) -> Cluster:
    cluster = Cluster(
        name=DISCOVERY_CLUSTER,
        type=Cluster.DiscoveryType.STATIC,
        connect_timeout=seconds(1),
        load_assignment=ClusterLoadAssignment(
            cluster_name=DISCOVERY_CLUSTER,
            endpoints=[LocalityLbEndpoints(lb_endpoints=[endpoint(pipe_address(surroundings.discovery_socket))])],
        ),
    )
    # A control plane that hangs must be noticed, or Envoy would wait for it for ever.
    keepalive = KeepaliveSettings(interval=seconds(30), timeout=seconds(5))
    options = HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptions.ExplicitHttpConfig(
            http2_protocol_options=Http2ProtocolOptions(connection_keepalive=keepalive)
        )
    )
    cluster.typed_extension_protocol_options[PROTOCOL_OPTIONS].CopyFrom(packed(options))
    return cluster
