"""Asks an authorizer what somebody may do, with nothing of Doorward's installed: the services describe themselves.

    pip install grpcio grpcio-reflection
    python examples/decide_by_reflection.py SOCKET SESSION ROUTE [PATH]

SOCKET is ``gateway.NAME.0.sock`` in the run folder, for one of the ``gateways`` of the configuration. SESSION is the id of a session,
ROUTE the name of a route.
"""

import sys
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "doorward.api.authorize.v1.AuthorizeService"


def main(socket: str, session_id: str, route: str, path: str = "/") -> int:
    # A name for the socket is demanded by gRPC alone.
    with grpc.insecure_channel(f"unix:{socket}", options=[("grpc.default_authority", "localhost")]) as channel:
        services = ProtoReflectionDescriptorDatabase(channel)
        print(f"services: {', '.join(services.get_services())}")
        decision = decide(channel, services, session_id, route, path)
    print(f"{route}{path}: {decision['effect']} ({', '.join(decision['reasons'])})")
    return 0 if decision["effect"] == "EFFECT_ALLOW" else 1


def decide(
    channel: grpc.Channel, services: ProtoReflectionDescriptorDatabase, session_id: str, route: str, path: str
) -> dict[str, Any]:
    """The decision, as JSON has it."""
    method = DescriptorPool(services).FindServiceByName(SERVICE).methods_by_name["Decide"]
    request_type, response_type = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    call = channel.unary_unary(
        f"/{SERVICE}/{method.name}",
        request_serializer=request_type.SerializeToString,
        response_deserializer=response_type.FromString,
    )
    question = {
        "subject": {"session_id": session_id},
        "request": {"route_id": route, "method": "GET", "path": path},
    }
    answer = call(json_format.ParseDict(question, request_type()), timeout=1)
    return json_format.MessageToDict(answer)["decision"]


if __name__ == "__main__":
    if not 4 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
