"""The guard beside Envoy: holds Envoy's calls for open streams, and ends those whose access has ended.

    Envoy ── one call a stream ──► http2 ─► streams ◄─ link ◄── one call for all ──► authorize, or the next authorizer
                                              │
                               proof that a stream may go on; none in time ─► cut

A process of its own: it outlives authorizers without cutting anything, and nothing that the control plane computes can
make it late. It decides nothing. A stream goes on only while an authorizer with fresh data has said so within the
staleness limit of the stream's route; whatever else happens, it is cut.

INVARIANT: no call of Envoy's ends with status OK. To Envoy that would mean that nobody watches any more and all is well.

What does not belong here: decisions, and anything of the configuration.
"""
