"""The databroker: versioned records on Redis, one ordered change feed, leases.

    server ── rights ──► store (port) ── codec seals ──► Redis or Valkey
                │                                           │ feed
                └── watch ◄── feed reader ◄─────────────────┘
                      └── heartbeat: a write that proves freshness, granted to watchers as a read lease

What does not belong here: what a session or a user means, and who may do what with them.
"""
