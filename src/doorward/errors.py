"""Every error that Doorward raises on purpose.

    DoorwardError
    ├── ConfigurationError     the operator's files; carries every problem, each with its position
    ├── InvalidTokenError      a handle, code, cookie, signed URL or JWT that does not verify
    ├── NotFoundError          no such record
    ├── ConflictError          a compare-and-set lost, or a create-only put found something
    ├── WatchExpiredError      the asked-for history is gone; take a fresh snapshot
    ├── PermissionDeniedError  this plane may not do that
    ├── InvalidArgumentError   the caller's request cannot be carried out as written
    ├── UnavailableError       nothing was done; try again later
    ├── OutcomeUnknownError    it may or may not have been done; read before writing again
    └── DataCorruptedError     a stored value does not open or parse; never the same as "no record"
        └── KeyMissingError    it is sealed under a key that is not held here

Callers branch on the type, never on the text. Texts are for the log: lower case, no full stop, back-ticks
round what came from outside. What people see in a browser is chosen elsewhere from safe constants.
"""


class DoorwardError(Exception):
    """The root of the tree."""


class ConfigurationError(DoorwardError):
    """The configuration cannot be used.

    Attributes:
        problems: the rendered problems, one text each, in file order; never empty.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class InvalidTokenError(DoorwardError):
    """A presented token does not verify; the text says why and never repeats the token."""


class NotFoundError(DoorwardError):
    """There is no such record."""


class ConflictError(DoorwardError):
    """A record's version is not the expected one; nothing of the batch was written."""


class WatchExpiredError(DoorwardError):
    """The wanted position is no longer in the retained history, or belongs to another epoch."""


class PermissionDeniedError(DoorwardError):
    """The caller's plane has no right to this verb on this record type."""


class InvalidArgumentError(DoorwardError):
    """The request is malformed; repeating it will not help."""


class UnavailableError(DoorwardError):
    """The service behind this call cannot be reached or is not ready; nothing was done."""


class OutcomeUnknownError(DoorwardError):
    """The answer was lost after the request was sent; read again before acting."""


class DataCorruptedError(DoorwardError):
    """A stored value cannot be opened or decoded; it must be reported, never taken for absent."""


class KeyMissingError(DataCorruptedError):
    """A stored value is sealed under a key that is not held; it is there, and the key has to be found."""
