"""What operators see: logs and metrics.

    logging   structured lines on standard error
    probes    metrics, life and readiness on a listener of their own

What does not belong here: the decision log, which is a record of the authorize plane and not a debugging aid.
"""
