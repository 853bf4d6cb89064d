"""Regular expressions and globs, both in time linear in the compared value."""

from collections.abc import Callable
from typing import Any

import re2

MAX_PATTERN = 1000
_MAX_MEMORY = 1 << 20
"""What one compiled expression may take; larger ones are refused when they are read."""

Matches = Callable[[str], bool]


def regex_test(pattern: str) -> Matches:
    """Whether a value holds something that ``pattern`` (RE2's syntax) matches; ``^`` and ``$`` anchor it.

    Raises:
        ValueError: the pattern is not RE2's, or too large.
    """
    return _wrapped(checked_regex(pattern))


def checked_regex(pattern: str) -> str:
    """``pattern``, when RE2 takes it.

    Raises:
        ValueError: it does not.
    """
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a regular expression has at most {MAX_PATTERN} characters")
    if "\\Q" in pattern or "\\C" in pattern:
        raise ValueError(r"`\Q` and `\C` are not understood here")
    _compile(pattern)
    _compile(_anywhere(pattern))
    return pattern


def glob_test(pattern: str) -> Matches:
    """Whether the whole value matches: ``*`` any characters but ``/``, ``**`` any at all, ``?`` one that is not ``/``."""
    return _wrapped(_glob_as_regex(pattern), whole=True)


def checked_glob(pattern: str) -> str:
    """``pattern``, when it is not too large.

    Raises:
        ValueError: it is.
    """
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a glob has at most {MAX_PATTERN} characters")
    _compile(_glob_as_regex(pattern))
    return pattern


def glob_matches(pattern: str, value: str) -> bool:
    """What a glob means, spelled out: for the interpreter."""
    reached = {0}
    for character in value:
        reached = _after(pattern, _closed(pattern, reached), character)
    return len(pattern) in _closed(pattern, reached)


def _closed(pattern: str, places: set[int]) -> set[int]:
    """Every place in ``pattern`` that is reached from ``places`` without a character: stars may match nothing."""
    found = set(places)
    waiting = list(places)
    while waiting:
        place = waiting.pop()
        star = _star_at(pattern, place)
        if star and place + star not in found:
            found.add(place + star)
            waiting.append(place + star)
    return found


def _after(pattern: str, places: set[int], character: str) -> set[int]:
    found: set[int] = set()
    for place in places:
        star = _star_at(pattern, place)
        if star:
            if star == 2 or character != "/":
                found.add(place)
        elif place < len(pattern) and (pattern[place] == character or (pattern[place] == "?" and character != "/")):
            found.add(place + 1)
    return found


def _star_at(pattern: str, place: int) -> int:
    """Length of the star at ``place``: 2 for ``**``, 1 for ``*``, 0 for none."""
    if pattern.startswith("**", place):
        return 2
    return 1 if pattern.startswith("*", place) else 0


def _glob_as_regex(pattern: str) -> str:
    parts = []
    place = 0
    while place < len(pattern):
        star = _star_at(pattern, place)
        if star:
            parts.append("(?s:.*)" if star == 2 else "[^/]*")
        elif pattern[place] == "?":
            parts.append("[^/]")
        else:
            parts.append(re2.escape(pattern[place]))
        place += star or 1
    return "".join(parts)


def _anywhere(pattern: str) -> str:
    return f"(?s:.*)(?:{pattern})(?s:.*)"


def _wrapped(pattern: str, *, whole: bool = False) -> Matches:
    # Asking RE2 about the whole value needs no look for where the match begins, which halves the time.
    fullmatch = _compile(pattern if whole else _anywhere(pattern)).fullmatch
    return lambda value: fullmatch(value) is not None


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY
    options.never_capture = True
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "not understood"
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"not a regular expression of RE2: {text}") from error
    except UnicodeEncodeError as error:
        raise ValueError("not Unicode text") from error
