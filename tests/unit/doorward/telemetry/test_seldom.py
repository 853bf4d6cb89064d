"""A log that fills a disk while the store is away is a second outage."""

import structlog
from structlog.testing import capture_logs
from tests.support.fake_clock import FakeClock

from doorward.telemetry.seldom import SECONDS, Seldom


def test_the_first_is_logged_and_then_one_in_some_seconds_with_how_many_were_left_out():
    clock = FakeClock()
    with capture_logs() as logs:
        seldom = Seldom(structlog.stdlib.get_logger("x"), clock)
        for number in range(250):
            seldom.error("broken", reason=str(number))
            if number % 50 == 0:
                seldom.warning("late")
            clock.advance(0.1)
    broken = [log for log in logs if log["event"] == "broken"]
    assert [log.get("left_out") for log in broken] == [None, 99, 99]
    assert [log["reason"] for log in broken] == ["0", "100", "200"]
    assert {log["log_level"] for log in broken} == {"error"}
    assert [log.get("left_out") for log in logs if log["event"] == "late"] == [None, 1, 1]


def test_a_message_that_comes_seldom_is_always_logged():
    clock = FakeClock()
    with capture_logs() as logs:
        seldom = Seldom(structlog.stdlib.get_logger("x"), clock)
        for _ in range(3):
            seldom.error("broken")
            clock.advance(SECONDS)
    assert [log.get("left_out") for log in logs] == [None, None, None]
