"""What holds for every test."""

import pytest
import structlog
from hypothesis import settings
from tests.support.events import EVENTS

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

_printed: list[str] = []


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> None:
    """Hand what a test has counted to its report, which travels from the process that ran it."""
    item.user_properties += [("event", line) for line in EVENTS]
    EVENTS.clear()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what was counted."""
    if report.when == "call":
        _printed.extend(str(value) for name, value in report.user_properties if name == "event")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print it."""
    if _printed:
        terminalreporter.section("requests around events")
        for line in _printed:
            terminalreporter.write_line(line)
