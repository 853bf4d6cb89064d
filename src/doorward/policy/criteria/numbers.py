"""Numbers in texts: compared as decimals, so that nothing is lost to rounding."""

import re
from decimal import Decimal

from doorward.policy.nodes import Comparison

_NUMBER = re.compile(r"[-+]?[0-9]{1,40}(?:\.[0-9]{1,40})?\Z", re.ASCII)


def number_of(text: str) -> Decimal | None:
    """The number that ``text`` is, or ``None``; no exponents, no spaces, at most forty digits on either side."""
    return Decimal(text) if _NUMBER.match(text) else None


def canonical_number(text: str) -> str:
    """The shortest text of the same number.

    Raises:
        ValueError: ``text`` is no number.
    """
    number = number_of(text)
    if number is None:
        raise ValueError(f"expected a number, not `{text}`")
    whole, _, fraction = f"{number:f}".partition(".")
    fraction = fraction.rstrip("0")
    shortest = f"{whole}.{fraction}" if fraction else whole
    return "0" if shortest in {"-0", "0"} else shortest


def compare_numbers(comparison: Comparison, value: str, operand: Decimal) -> bool | None:
    """Whether ``value`` stands to ``operand`` as the comparison says; ``None`` when it is no number."""
    number = number_of(value)
    if number is None:
        return None
    match comparison:
        case Comparison.LESS:
            return number < operand
        case Comparison.AT_MOST:
            return number <= operand
        case Comparison.EQUALS:
            return number == operand
        case Comparison.MORE:
            return number > operand
        case Comparison.AT_LEAST:
            return number >= operand
        case _:
            raise ValueError(f"`{comparison}` does not compare numbers")
