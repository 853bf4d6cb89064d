"""What comes from outside, on an operator's terminal.

People choose their own names and addresses at some identity providers, and what they ask for: none of it may colour, move or turn around
what an operator reads, or be taken for the mark-up of the library that prints tables.
"""

from rich.table import Table
from rich.text import Text


def shown(text: object) -> str:
    """``text`` on one line, with everything that does not print spelled out."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in line)


def shown_lines(text: str) -> str:
    """The same for a text of several lines."""
    return "\n".join(map(shown, text.split("\n")))


def add_row(table: Table, *cells: object) -> None:
    """Add a row in which nothing is mark-up."""
    table.add_row(*(Text(shown(cell)) for cell in cells))
