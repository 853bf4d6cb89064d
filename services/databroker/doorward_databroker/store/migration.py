"""Bringing an older store to the form that this version reads and writes.

    schema in the store   older ─► step by step, under a lease ─► ours ─► served
                          ours ─► served
                          newer ─► refused: left to a version that knows it

A step only adds what is missing, record by record, so it may be cut off anywhere: whoever comes next does it from its beginning.
The number is raised after its step. Nobody is served before the number is ours.
"""

import secrets
from collections.abc import AsyncIterator, Callable, Sequence

import structlog

from doorward.errors import DataCorruptedError, UnavailableError
from doorward_databroker.store.connection import Call, Link, Script, refusal
from doorward_databroker.store.keyspace import Keyspace
from doorward_databroker.store.types import RECORD_TYPES

SCHEMA = 2
"""Of what is stored. 1 was before the first release, without an index of ends."""
_LEASE = "schema"
_LEASE_SECONDS = 30.0
_PAGE = 500
_SAY_EVERY = 100_000

_log = structlog.stdlib.get_logger(__name__)

Step = Callable[[Link, Keyspace], AsyncIterator[int]]
"""One step; yields how many records it has looked at so far, after every page."""


def schema_of(stored: bytes | None) -> int:
    """The number in the store; the first form had none.

    Raises:
        DataCorruptedError: it is no number.
    """
    text = stored if stored is not None else b"1"
    if not text.isdigit():
        raise DataCorruptedError("the schema of the store is no number; use another database")
    return int(text)


def check_schema(schema: int) -> None:
    """Return unless ``schema`` is newer than what this version knows.

    Raises:
        UnavailableError: it is.
    """
    if schema > SCHEMA:
        raise UnavailableError(
            f"the store has schema {schema}, and this version of Doorward knows {SCHEMA}: start the newer version again"
        )


class Migration:
    """Migrates one store."""

    def __init__(self, link: Link, keys: Keyspace, steps: dict[int, Step] | None = None) -> None:
        self._link = link
        self._keys = keys
        self._steps = steps if steps is not None else STEPS
        self._holder = secrets.token_hex(8)
        self._lease = Script.load("lease")
        self._raise = Script.load("schema")

    async def run(self, schema: int) -> None:
        """Bring the store from ``schema`` to ours.

        Raises:
            UnavailableError: another databroker is at it, or the store is away; the next try goes on.
        """
        if not await self._ask_lease("acquire"):
            raise UnavailableError(f"the store is being brought from schema {schema} to {SCHEMA} by another databroker")
        try:
            while schema < SCHEMA:
                await self._step(schema)
                schema += 1
        finally:
            await self._ask_lease("release")

    async def _step(self, schema: int) -> None:
        _log.info("the store is being migrated", from_schema=schema, to_schema=schema + 1)
        seen = said = 0
        async for seen in self._steps[schema](self._link, self._keys):
            if not await self._ask_lease("renew"):
                raise UnavailableError("another databroker has taken over the migration of the store")
            if seen - said >= _SAY_EVERY:
                said = seen
                _log.info("the store is being migrated", from_schema=schema, records=seen)
        call = Call(self._raise, [self._keys.meta], [schema, schema + 1])
        if not int(await self._link.write(call)):
            raise UnavailableError("the schema of the store has changed meanwhile")
        _log.info("the store is migrated", to_schema=schema + 1, records=seen)

    async def _ask_lease(self, what: str) -> bool:
        keys = [self._keys.lease(_LEASE), self._keys.fence(_LEASE), self._keys.meta]
        return bool(
            int(await self._link.write(Call(self._lease, keys, [what, self._holder, int(_LEASE_SECONDS * 1000)])))
        )


async def _index_ends(link: Link, keys: Keyspace) -> AsyncIterator[int]:
    """1 to 2: records with an end are entered in their type's list of ends."""
    script = Script.load("index_end")
    seen = 0
    for kind in RECORD_TYPES.values():
        if not kind.in_feed:
            continue
        async for ids in _listed(link, keys.listing(kind.name)):
            calls = [Call(script, [keys.record(kind.name, name), keys.ends(kind.name)], [name]) for name in ids]
            await _carry_out(link, calls)
            seen += len(ids)
            yield seen


async def _listed(link: Link, listing: str) -> AsyncIterator[Sequence[str]]:
    start = "-"
    while True:
        (found,) = await link.run(("ZRANGE", listing, start, "+", "BYLEX", "LIMIT", 0, _PAGE))
        if not found:
            return
        ids = [entry.decode() for entry in found]
        yield ids
        start = f"({ids[-1]}"


async def _carry_out(link: Link, calls: Sequence[Call]) -> None:
    # The first one alone brings the script to a server that does not know it.
    await link.write(calls[0])
    answers = await link.write_all(calls[1:]) if len(calls) > 1 else []
    for answer in answers:
        if isinstance(answer, Exception):
            raise refusal(answer) from answer


STEPS: dict[int, Step] = {1: _index_ends}
"""By the schema that each begins with."""
