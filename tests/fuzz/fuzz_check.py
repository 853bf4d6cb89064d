"""CheckRequests under atheris: ``make fuzz``, or with a folder for the corpus.

    python tests/fuzz/fuzz_check.py [CORPUS] -max_total_time=60

The first byte of an input chooses whether the rest is a message or spells one.
"""

import logging
import sys

import atheris
import structlog

with atheris.instrument_imports(include=["doorward_authorize", "doorward.identity", "doorward.route", "doorward.keys"]):
    from tests.fuzz.check_harness import check_of_bytes, request_of, request_of_bytes

_KINDS = (check_of_bytes, request_of_bytes)


def one_input(data: bytes) -> None:
    """Run the harness that the first byte names."""
    if data:
        _KINDS[data[0] % len(_KINDS)](data[1:])


def mutated(data: bytes, limit: int, seed: int) -> bytes:
    """A change as libFuzzer makes them, and now and then the message that an input spells."""
    if seed % 5 == 0 and data[:1] and data[0] % 2:
        return (b"\x00" + request_of(data[1:]).SerializeToString())[:limit]
    return bytes(atheris.Mutate(data, limit))


def main() -> None:
    """Fuzz until the time is over or something does not hold."""
    # Refusals of malformed messages are logged with their traces, which would take nearly all of the time.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    atheris.Setup(sys.argv, one_input, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
