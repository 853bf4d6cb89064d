"""The policy parser, test files and values under atheris: ``make fuzz``, or with a folder for the corpus.

    python tests/fuzz/fuzz_policy.py [CORPUS] -max_total_time=60

The first byte of an input chooses what the rest is.
"""

import sys

import atheris

with atheris.instrument_imports(include=["doorward.policy", "doorward.source"]):
    from tests.fuzz.policy_harness import TOKENS, policy_of_bytes, suite_of_bytes, values_of_bytes

_KINDS = (policy_of_bytes, suite_of_bytes, values_of_bytes)


def one_input(data: bytes) -> None:
    """Run the harness that the first byte names."""
    if data:
        _KINDS[data[0] % len(_KINDS)](data[1:])


def mutated(data: bytes, limit: int, seed: int) -> bytes:
    """A change as libFuzzer makes them, and every other time a word of the language put in."""
    if seed % 2 or not data:
        return bytes(atheris.Mutate(data, limit))
    word = TOKENS[seed % len(TOKENS)].encode()
    at = 1 + seed % len(data)
    return (data[:at] + word + data[at:])[:limit]


def main() -> None:
    """Fuzz until the time is over or something does not hold."""
    atheris.Setup(sys.argv, one_input, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
