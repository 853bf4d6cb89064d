"""Names and durations: written alike in the file and on the command line, which needs none of the file's models for them."""

from doorward.source import duration_seconds

NAME = r"^[a-z0-9](?:[a-z0-9_.-]{0,62}[a-z0-9])?$"


LONGEST_SECONDS = 100 * 366 * 86_400.0
"""A hundred years: nothing lives longer, and no clock, certificate or record says what lies much beyond."""


def parse_duration(value: object) -> float:
    """Seconds of a text such as ``1h30m``; raises ``ValueError`` for anything else, and for more than a hundred years."""
    seconds = duration_seconds(value) if isinstance(value, str) else None
    if seconds is None:
        raise ValueError("expected a duration such as `30s`, `250ms` or `1h30m`")
    if seconds > LONGEST_SECONDS:
        raise ValueError("longer than a hundred years")
    return seconds
