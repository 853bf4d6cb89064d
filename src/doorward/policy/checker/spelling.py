"""Values that are compared otherwise than their author thinks."""

from collections.abc import Callable

from doorward.policy.nodes import Comparison, Policy, Term, terms
from doorward.source import Problems


def check_spelling(policy: Policy, problems: Problems) -> None:
    """Record values in ``policy`` that match more, less or other than they seem to."""
    for rule in policy.rules:
        for term in terms(rule.group):
            _check_term(term, problems)


def _check_term(term: Term, problems: Problems) -> None:
    check = _TERM_CHECKS.get(term.criterion)
    for matcher in term.matchers:
        for operand in matcher.operand:
            if str(matcher.comparison) == "regex":
                found = _check_regex(operand)
            else:
                found = check(matcher.comparison, operand) if check is not None else None
            if found is not None:
                problems.warning(term.position, *found)


def _check_regex(pattern: str) -> tuple[str, str] | None:
    """A search finds its pattern anywhere: `example` also in `example.com.evil.test`."""
    begins = pattern.startswith(("^", "\\A", "(?i)^", "(?i)\\A"))
    ends = pattern.endswith(("$", "\\z")) and not pattern.endswith("\\$")
    if begins and ends and "|" in _outside_brackets(pattern):
        return f"`{pattern}` is anchored at one end of each alternative only", "put the alternatives into brackets"
    if begins and ends:
        return None
    missing = "either end" if not begins and not ends else "its beginning" if not begins else "its end"
    return f"`{pattern}` is not anchored at {missing}, so it is found inside longer values", "write `^…$`"


def _outside_brackets(pattern: str) -> str:
    """The characters of ``pattern`` that stand in no brackets and behind no backslash."""
    found, depth, escaped, in_class = [], 0, False, False
    for character in pattern:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif depth == 0:
            found.append(character)
    return "".join(found)


def _check_email(comparison: Comparison, operand: str) -> tuple[str, str] | None:
    if comparison is Comparison.ENDS_WITH and "@" not in operand:
        return f"`{operand}` also ends addresses of other domains", f"use `domain: {operand.lstrip('.')}`"
    if comparison is Comparison.CONTAINS:
        return f"`{operand}` may stand anywhere in an address that its owner chose", "compare whole addresses"
    return None


def _check_domain(comparison: Comparison, operand: str) -> tuple[str, str] | None:
    if comparison is Comparison.ENDS_WITH and not operand.startswith("."):
        return f"`{operand}` also ends other domains", f"write `.{operand}`, and `is` for the domain itself"
    if comparison in {Comparison.CONTAINS, Comparison.STARTS_WITH}:
        return f"`{operand}` may stand in a domain that anybody can register", "compare whole domains"
    return None


def _check_method(_: Comparison, operand: str) -> tuple[str, str] | None:
    if operand != operand.upper():
        return f"methods are case-sensitive, and `{operand}` is none", f"write `{operand.upper()}`"
    return None


def _check_path(comparison: Comparison, operand: str) -> tuple[str, str] | None:
    anchored = comparison not in {Comparison.CONTAINS, Comparison.ENDS_WITH}
    if anchored and not operand.startswith("/"):
        return f"no path begins with `{operand}`", f"write `/{operand}`"
    if "?" in operand:
        return f"`{operand}` holds a query, which is no part of the path", "compare the part before `?`"
    return None


_TERM_CHECKS: dict[str, Callable[[Comparison, str], tuple[str, str] | None]] = {
    "email": _check_email,
    "domain": _check_domain,
    "http_method": _check_method,
    "http_path": _check_path,
}
