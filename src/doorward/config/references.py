"""References to what does not belong into a configuration file: secrets and certificates."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from doorward.errors import ConfigurationError
from doorward.keys.secret import Secret
from doorward.source import Position, Problems

LIMIT_BYTES = 1024 * 1024
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)

SecretReader: TypeAlias = Callable[[Path, str, Position, Problems, list[Path]], Secret[str] | None]
"""How the secret behind a reference is found: ``read_secret``, or ``no_secret``."""


def no_secret(
    folder: Path, reference: str, position: Position, problems: Problems, used_files: list[Path]
) -> Secret[str]:
    """A secret that opens nothing, for tools that look at policies where the secrets are not: build machines."""
    del folder, reference, position, problems, used_files
    return Secret("not read")


@dataclass(frozen=True, slots=True)
class Reference:
    """A secret that is read when it is needed, and again each time, so that it may be exchanged."""

    folder: Path
    text: str
    """``env:NAME`` or ``file:PATH``."""

    def read(self) -> Secret[str]:
        """The secret.

        Raises:
            ConfigurationError: it is missing, empty or unreadable.
        """
        problems = Problems()
        secret = read_secret(self.folder, self.text, Position(str(self.folder), 1, 1), problems, [])
        if secret is None:
            raise ConfigurationError([problem.render() for problem in problems.all])
        return secret


def check_reference(folder: Path, text: str, position: Position, problems: Problems) -> Reference | None:
    """A reference of a good form, or ``None`` after recording the problem; what it names need not be here."""
    kind, _, target = text.partition(":")
    if (kind == "env" and _VARIABLE.match(target)) or (kind == "file" and target):
        return Reference(folder, text)
    problems.error(position, "expected `env:NAME` or `file:PATH`", "a secret does not belong into this file")
    return None


def read_secret(
    folder: Path, reference: str, position: Position, problems: Problems, used_files: list[Path]
) -> Secret[str] | None:
    """The secret behind ``env:NAME`` or ``file:PATH``, or ``None`` after recording the problem.

    The problem never repeats what was written: an operator may have put the secret itself there.
    """
    kind, _, target = reference.partition(":")
    if kind == "env" and _VARIABLE.match(target):
        value = os.environ.get(target, "")
        if not value:
            problems.error(position, f"the environment variable `{target}` is not set or empty")
            return None
        return Secret(value)
    if kind == "file" and target:
        text = read_text(folder, target, position, problems, used_files)
        if text is None:
            return None
        secret = text.strip()
        if not secret:
            problems.error(position, f"the file `{target}` is empty")
            return None
        return Secret(secret)
    problems.error(position, "expected `env:NAME` or `file:PATH`", "a secret does not belong into this file")
    return None


def read_text(folder: Path, name: str, position: Position, problems: Problems, used_files: list[Path]) -> str | None:
    """The text of a file named relative to the configuration's folder, or ``None`` after recording the problem."""
    path = folder / name
    used_files.append(path)
    try:
        if path.stat().st_size > LIMIT_BYTES:
            problems.error(position, f"`{name}` is larger than {LIMIT_BYTES} bytes")
            return None
        return path.read_text()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        problems.error(position, f"cannot read `{name}`: {reason}")
        return None
