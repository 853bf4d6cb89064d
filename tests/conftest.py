"""What holds for every test."""

import structlog

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
