"""Explanations in colour: the text is the engine's, the marks that it uses decide the colour of a line."""

from rich.text import Text

_EFFECTS = {"ALLOW": "bold green", "DENY": "bold red", "SIGN-IN": "bold yellow", "STEP-UP": "bold yellow"}
_MARKS = {"✓": "green", "✗": "red", "?": "yellow", "○": "yellow"}


def explanation_text(rendered: str) -> Text:
    """``rendered`` with colours; the same characters."""
    return Text("\n").join(_line(line) for line in rendered.split("\n"))


def _line(line: str) -> Text:
    text = Text(line)
    word = line.split(" ", 1)[0]
    mark = line.strip()[:1]
    if word in _EFFECTS:
        text.stylize(_EFFECTS[word], 0, len(word))
    elif line.startswith(" ") and mark in _MARKS:
        at = line.index(mark)
        text.stylize(_MARKS[mark], at, at + 1)
    elif line.startswith("to be let in"):
        text.stylize("bold cyan")
    elif line and not line.startswith(" "):
        text.stylize("bold", 0, len(line) - len(line.rpartition("  ")[2]))
        text.stylize("dim", len(line) - len(line.rpartition("  ")[2]))
    detail = line.rfind("  saw ")
    if detail > 0:
        text.stylize("dim", detail)
    return text
