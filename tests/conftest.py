"""What holds for every test."""

import structlog
from hypothesis import settings

# Time is measured by benches, in ratios. A deadline here would fail for another process on the same machine.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

# Until a process configures its logs, structlog draws tracebacks with every local value. That takes seconds for
# settings with routes, on the loop of the part under test.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.dev.ConsoleRenderer(colors=False),
    ]
)
