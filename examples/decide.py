"""Asks an authorizer what somebody may do, as a gateway or a tool of your own would.

    python examples/decide.py SOCKET SUBJECT ROUTE [PATH]

SOCKET is ``gateway.NAME.0.sock`` in the run folder, for one of the ``gateways`` of the configuration, which may ask about its own
routes and needs ``may_explain`` here; or ``authorize.sock``, which is the operator's. SUBJECT is a session id, a user id or the id of
a service account, ROUTE the name of a route.
"""

import sys

import grpc

from doorward.api.authorize.v1 import authorize_pb2 as pb
from doorward.api.authorize.v1.authorize_pb2_grpc import AuthorizeServiceStub


def main(socket: str, subject_id: str, route: str, path: str = "/") -> int:
    # The socket is for people who may enter the run folder; a name for it is demanded by gRPC alone.
    with grpc.insecure_channel(f"unix:{socket}", options=[("grpc.default_authority", "localhost")]) as channel:
        authorize = AuthorizeServiceStub(channel)
        subject = subject_of(authorize, subject_id, route)

        question = pb.DecideRequest(subject=subject, request=pb.RequestFacts(route_id=route, method="GET", path=path))
        decision = authorize.Decide(question, timeout=1).decision
        print(f"{route}{path}: {pb.Effect.Name(decision.effect)} ({', '.join(decision.reasons)})")

        # Several at once, for example to show a person only the buttons that will work.
        methods = ("GET", "POST", "DELETE")
        batch = pb.BatchDecideRequest()
        for method in methods:
            batch.requests.add(subject=subject, request=pb.RequestFacts(route_id=route, method=method, path=path))
        answers = authorize.BatchDecide(batch, timeout=1).responses
        allowed = [
            method for method, answer in zip(methods, answers, strict=True) if answer.decision.effect == pb.EFFECT_ALLOW
        ]
        print(f"methods: {', '.join(allowed) or 'none'}")

        reachable = authorize.ListAccessible(pb.ListAccessibleRequest(subject=subject), timeout=1)
        print(f"reachable: {', '.join(reachable.route_ids) or 'nothing'}")

        explanation = authorize.Explain(pb.ExplainRequest(request=question), timeout=1)
        print(explanation.text)
    return 0 if decision.effect == pb.EFFECT_ALLOW else 1


def subject_of(authorize: AuthorizeServiceStub, subject_id: str, route: str) -> pb.Subject:
    """The subject with this id: a session or service account if there is one, else a user."""
    session = pb.Subject(session_id=subject_id)
    question = pb.DecideRequest(subject=session, request=pb.RequestFacts(route_id=route, method="GET", path="/"))
    try:
        authorize.Decide(question, timeout=1)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return pb.Subject(user_id=subject_id)
    return session


if __name__ == "__main__":
    if not 4 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
