"""Both HTTP/2 speakers under atheris: ``make fuzz``, or with a folder for the corpus.

    python tests/fuzz/fuzz_http2.py [CORPUS] -max_total_time=60

The first byte of an input chooses the speaker.
"""

import logging
import random
import sys

import atheris
import structlog

with atheris.instrument_imports(include=["doorward.rpc", "doorward_proxy.guard"]):
    from tests.fuzz.http2_harness import PIECES, guard_of_bytes, server_of_bytes

_KINDS = (server_of_bytes, guard_of_bytes)


def one_input(data: bytes) -> None:
    """Run the harness that the first byte names."""
    if data:
        _KINDS[data[0] % len(_KINDS)](data[1:])


def mutated(data: bytes, limit: int, seed: int) -> bytes:
    """A change as libFuzzer makes them, and now and then a whole frame, which chance would hardly write."""
    chance = random.Random(seed)
    if data and chance.random() < 0.4:
        at, piece = chance.randrange(len(data)), chance.choice(PIECES)
        data = (data[:at] + piece + data[at:])[:limit]
    return bytes(atheris.Mutate(data, limit))


def main() -> None:
    """Fuzz until the time is over or something does not hold."""
    # What breaks the protocol is logged, which would take nearly all of the time.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    atheris.Setup(sys.argv, one_input, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
