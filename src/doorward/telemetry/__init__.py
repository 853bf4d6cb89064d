"""What operators see: logs, metrics and traces.

    logging   structured lines on standard error
    probes    metrics, life and readiness on a listener of their own
    tracing   spans, joined to those of whoever asks
    otlp      the way to a collector

What does not belong here: the decision log, which is a record of the authorize plane and not a debugging aid.
"""
