"""How a command says that it could not do its work: what is wrong, what to do, exit status 1, and never a traceback for an operator's matter."""

import errno
import os
import sys

from doorward.cli.terminal import shown, shown_lines
from doorward.errors import DoorwardError, UnavailableError

FAILED = 1
_OUTSIDE = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG,
        errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENXIO, errno.ESTALE,
        errno.EADDRINUSE, errno.EADDRNOTAVAIL,
    }
)  # fmt: skip
"""What a machine says of its files and ports. Anything else is a mistake of ours, and its traceback is wanted."""


def report_failure(error: BaseException) -> int | None:
    """Print what ``error`` means to an operator; the exit status, or ``None`` when it is a mistake of ours."""
    match error:
        case UnavailableError():
            print(f"error: {shown(_first_line(error))}", file=sys.stderr)
            print("note: does all of it run? (start it, or use --data, --run-dir or --config)", file=sys.stderr)
        case DoorwardError():
            print(shown_lines(str(error)), file=sys.stderr)
        case BrokenPipeError():
            # Whoever read the output has seen enough; what is left must not fail once more when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        case UnicodeEncodeError() if any(map(_is_no_text, sys.argv)):
            print("error: an argument is not UTF-8 text", file=sys.stderr)
        case OSError() if error.errno in _OUTSIDE:
            place = f"{shown(error.filename)}: " if error.filename is not None else ""
            print(f"{place}error: {error.strerror}", file=sys.stderr)
        case _:
            return None
    return FAILED


def _is_no_text(argument: str) -> bool:
    """Whether an argument holds bytes that are no text; Python keeps them as surrogates, which nothing encodes."""
    return any("\ud800" <= character <= "\udfff" for character in argument)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
