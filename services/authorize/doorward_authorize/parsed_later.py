"""A JSON object that is parsed when a policy looks at it, and not before."""

import json
from collections.abc import Callable, Iterator, Mapping

from doorward.errors import DataCorruptedError


class ParsedLater(Mapping[str, object]):
    """The members of an object.

    Raises:
        DataCorruptedError: on any access, when it cannot be read; a policy that looks at it denies.
    """

    __slots__ = ("_parsed", "_read")

    def __init__(self, read: Callable[[], bytes]) -> None:
        """``read`` returns the text of the object, and is called once."""
        self._read = read
        self._parsed: dict[str, object] | None = None

    def _all(self) -> dict[str, object]:
        if self._parsed is None:
            try:
                value = json.loads(self._read())
            except (ValueError, RecursionError) as error:
                raise DataCorruptedError("what should be a JSON object is no JSON") from error
            if not isinstance(value, dict):
                raise DataCorruptedError("what should be a JSON object is another value")
            self._parsed = value
        return self._parsed

    def __getitem__(self, key: str) -> object:
        return self._all()[key]

    def __contains__(self, key: object) -> bool:
        return key in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())
