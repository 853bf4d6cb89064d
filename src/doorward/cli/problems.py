"""Problems on a terminal: each with the line that it is about and a mark below the place.

doorward.yaml:12:9: error: unknown criterion `grups`
   12 |         - grups: {has: admins}
      |           ^^^^^
      = did you mean `groups`?
"""

import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from rich.console import Console
from rich.text import Text

from doorward.source import Problem, Severity

_RENDERED = re.compile(r"(.+):([0-9]+):([0-9]+): (?:error: |warning: )?(.*)\Z", re.DOTALL)
_SECRET = re.compile(r"(?i)((?:secret|password|passwd|token|private|credential|key)[\w-]*[\"']?\s*:\s*)\S.*")
_USER_INFO = re.compile(r"(://)[^@/\s]*@")
_TOKEN = re.compile(r"[^\s:,\[\]{}\"']+")
_WIDTH = 160


def print_problems(problems: Iterable[Problem]) -> None:
    """Print ``problems`` to standard error."""
    console = _console()
    for problem in problems:
        _print(console, problem, problem.render().removesuffix(f" ({problem.help})" if problem.help else ""))


def print_rendered(texts: Iterable[str]) -> None:
    """The same for problems that were rendered already, as errors carry them."""
    console = _console()
    for text in texts:
        console.print(Text(text))
        match = _RENDERED.match(text)
        if match is not None:
            _excerpt(console, match[1], int(match[2]), int(match[3]), "red")


def _console() -> Console:
    return Console(file=sys.stderr, soft_wrap=True, highlight=False)


def _print(console: Console, problem: Problem, text: str) -> None:
    colour = "red" if problem.severity is Severity.ERROR else "yellow"
    place = f"{problem.position}: "
    line = Text(place, style="bold")
    line.append(f"{problem.severity}: ", style=f"bold {colour}")
    line.append(text.removeprefix(f"{place}{problem.severity}: "), style="bold")
    console.print(line)
    _excerpt(console, problem.position.file, problem.position.line, problem.position.column, colour)
    if problem.help:
        console.print(Text(f"       = {problem.help}", style="cyan"))


def _excerpt(console: Console, file: str, line: int, column: int, colour: str) -> None:
    lines = _lines(file)
    if not 0 < line <= len(lines):
        return
    text = _without_secrets(lines[line - 1].replace("\t", " "))[:_WIDTH]
    if not text.strip():
        return
    token = _TOKEN.match(text, column - 1)
    mark = "^" * max(1, len(token[0]) if token else 1)
    console.print(Text(f"{line:>6} | {text}", style="dim"))
    if column <= len(text):
        console.print(Text(f"       | {' ' * (column - 1)}{mark}", style=colour))


@lru_cache(maxsize=16)
def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except (OSError, UnicodeDecodeError, ValueError):
        return []  # the message says where; the line is only a help


def _without_secrets(text: str) -> str:
    """The line without what might be a secret: excerpts end up in the logs of build machines."""
    return _USER_INFO.sub(r"\1…@", _SECRET.sub(r"\1…", text))
