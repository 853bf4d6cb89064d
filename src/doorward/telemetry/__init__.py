"""What operators see: logs and metrics.

    logging   structured lines on standard error
    metrics   every metric of the decision path, declared in one file

What does not belong here: the decision log, which is a record of the authorize plane and not a debugging aid.
"""
