"""The authorize plane: the decision for each request and each open stream.

    Envoy ── Check ──► transport ─► check_request ─► evaluator ─► check_response ──► Envoy
                                        principals ──┤    └─► decision_log, held decisions
                                        snapshot ────┘
    Envoy ── guard stream ─► guard: decided again whenever something that was read changes

What does not belong here: matching a request to a route (Envoy has done that and says which), signing people in, and any
network call on the way to a decision.
"""
