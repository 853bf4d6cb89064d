"""Open streams: decided again whenever something that their decision read has changed.

    Check ── description ──► Envoy ──► the guard beside it ── description ──► service ─► watcher ─► decided, watched
                                                                                 ▲            │
                              records, configuration, clock ── change ─► watcher ── refusal ──┘

    description   what Check says about a stream, and how it is read again
    watcher       which streams a change concerns, and what becomes of them
    stream        a stream that a guard holds, what is said about it, and to whom
    agenda        when streams are decided again though nothing has changed
    service       the guards' calls
    spans         traces of streams, where those are wanted

What does not belong here: holding Envoy's calls (the guard in the proxy plane), and how a request is decided.
"""
