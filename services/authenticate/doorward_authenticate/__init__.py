"""The authenticate plane: the relying party.

    protected host ── signed request ──► sign_in ── no live session ──► identity provider
                                            │                              │ code
                                            │                          callback: exchange, verify, write session
                                            ▼                              │
    protected host ◄── one-time code ───────┴──────────────────────────────┘
    proxy plane ── RedeemCode ──► codes: spent first, then checked ──► session handle

What does not belong here: what somebody may do (policy), and any page on a protected host (the proxy plane's).
"""
