"""The hand of somebody who writes to the store and holds no key."""

import itertools
from collections.abc import Callable

from tests.support.redis_server import RedisServer

from doorward_databroker.store.redis import RedisStore


async def rewrite_newest(
    server: RedisServer, store: RedisStore, change: Callable[[dict[bytes, bytes]], object]
) -> None:
    """Change the feed's newest entry, as only a fault or somebody else's hand does."""
    (entries,) = await store._link.run(("XRANGE", "{dw}:feed", "-", "+"))
    server.ask("DEL {dw}:feed")
    for place, (stream_id, flat) in enumerate(entries, 1):
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        if place == len(entries):
            change(fields)
        await store._link.run(("XADD", "{dw}:feed", stream_id, *itertools.chain(*fields.items())))


def under_another_key(sealed: bytes) -> bytes:
    """The key's id stands behind the first byte."""
    return sealed[:1] + bytes(byte ^ 1 for byte in sealed[1:9]) + sealed[9:]
