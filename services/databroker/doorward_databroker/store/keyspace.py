"""The names of a deployment's keys in Redis. One hash tag holds them in one slot, so that a script may touch them all.

{dw}:meta                         hash     epoch, number, chain tag, schema, seal of the keys in use
{dw}:feed                         stream   one entry a put; its id is <epoch>-<number>
{dw}:chain                        stream   the chain tag of each put, kept for longer than the feed
{dw}:r:<type>:<id>                hash     version, tombstone, end, sealed bytes, index entries
{dw}:t:<type>                     zset     ids of live records, in order
{dw}:e:<type>                     zset     ids of live records by their end (ms)
{dw}:x:<type>:<index>:<hash>      zset     ids under an index value
{dw}:q:<request id>               string   outcome of a request, for its repeats
{dw}:l:<name>, {dw}:f:<name>      string   a lease; the fencing number and holder of its newest taking
{dw}:holds                        hash     running snapshots, below which history is not trimmed
{dw}:peers                        hash     the databrokers' heartbeats
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keyspace:
    """Key names under one prefix."""

    prefix: str = "{dw}"

    @property
    def meta(self) -> str:
        """The head of the history."""
        return f"{self.prefix}:meta"

    @property
    def feed(self) -> str:
        """The change feed."""
        return f"{self.prefix}:feed"

    @property
    def chain(self) -> str:
        """The tags of the history, trimmed entries included."""
        return f"{self.prefix}:chain"

    @property
    def holds(self) -> str:
        """Running snapshots."""
        return f"{self.prefix}:holds"

    @property
    def peers(self) -> str:
        """The databrokers' heartbeats."""
        return f"{self.prefix}:peers"

    def record(self, record_type: str, record_id: str) -> str:
        """One record."""
        return f"{self.prefix}:r:{record_type}:{record_id}"

    def listing(self, record_type: str) -> str:
        """A type's live ids."""
        return f"{self.prefix}:t:{record_type}"

    def ends(self, record_type: str) -> str:
        """A type's live ids by their end."""
        return f"{self.prefix}:e:{record_type}"

    def index(self, record_type: str, index: str, hashed: str) -> str:
        """The ids under one index value."""
        return f"{self.prefix}:x:{record_type}:{index}:{hashed}"

    def request(self, request_id: str) -> str:
        """A request's outcome."""
        return f"{self.prefix}:q:{request_id}"

    def lease(self, name: str) -> str:
        """A lease."""
        return f"{self.prefix}:l:{name}"

    def fence(self, name: str) -> str:
        """The newest taking of a lease."""
        return f"{self.prefix}:f:{name}"
