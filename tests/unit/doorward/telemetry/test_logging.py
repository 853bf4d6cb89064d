"""Log lines: whatever is in a field, a line is one JSON object."""

import json
import subprocess
import sys

PROGRAM = """
import logging, sys
import structlog
from doorward.telemetry.logging import configure_logging
configure_logging("test")
odd = 'a\\r\\n{"event":"forged"}\\x1b[31m\\u2028\\x7f\\ud800'
log = structlog.stdlib.get_logger("x")
log.warning("told", server_name=odd, agent=odd, claims={odd: [odd]}, raw=odd.encode("utf-8", "replace"))
try:
    raise ValueError(odd)
except ValueError:
    log.error("failed", exc_info=True)
logging.getLogger("library").warning("said %s", odd)
"""


def test_s81_no_value_splits_a_line():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, timeout=60)
    assert done.stderr.isascii()
    lines = done.stderr.decode().split("\n")
    told, failed, said = map(json.loads, lines[:-1])
    assert lines[-1] == ""
    assert (told["event"], failed["event"]) == ("told", "failed")
    assert told["server_name"].startswith("a\r\n{")
    assert "forged" in failed["exception"]
    assert said["event"].startswith("said a\r\n")
    assert not any(character < " " or character == "\x7f" for line in lines for character in line)
