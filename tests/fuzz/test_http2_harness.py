"""Both HTTP/2 speakers under Hypothesis: short here, long by hand with ``make fuzz``."""

from collections.abc import Callable

import pytest
import structlog.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.http2_harness import PIECES, guard_of_bytes, server_of_bytes

DATA = st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=12).map(b"".join)


@pytest.mark.parametrize("speaker", [server_of_bytes, guard_of_bytes])
def test_s82_no_bytes_break_a_speaker(speaker: Callable[[bytes], None]):
    @settings(max_examples=150, deadline=None)
    @given(DATA)
    def any_bytes(data: bytes) -> None:
        speaker(data)

    with structlog.testing.capture_logs():
        any_bytes()
