"""The life of a session between sign-in and sign-out: asked for at the identity provider, and ended when it says so.

    keeper   holds the lease, finds the sessions that are due ─► refresher, for each
    refresher
      └── begin an attempt (compare-and-set) ─► identity provider ─┬─ new tokens, new facts ─► stored in one write
                                                                   ├─ no answer ─► later; the session goes on
                                                                   └─ refused ─► newer tokens stored meanwhile? adopt : end
    tokens   the identity provider's tokens as a record, sealed
    idleness whether anybody has used a session lately

What does not belong here: requests. Nobody waits for a refresh; what a decision reads is what was last stored.
"""
