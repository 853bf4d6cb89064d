"""A snapshot while it is being read: what waits to be made small, and how much of it may."""

from doorward.records import packing
from doorward.records.building import Building, packed_as_it_came
from doorward.records.packing import Packer
from doorward.records.record import Record, RecordVersion, record_message


class Halves:
    """Halves every payload."""

    def pack(self, record_id: str, payload: bytes) -> bytes | None:
        return payload[: len(payload) // 2]

    def unpack(self, record_id: str, packed: bytes) -> bytes:
        return packed * 2


def building(room_bytes: int) -> Building:
    packers: dict[str, Packer] = {"Halved": Halves()}
    return Building(["Halved", "Kept"], packers, room_bytes)


def take(
    one: Building, name: str, version: int, data: bytes = b"xx", *, deleted: bool = False, kind: str = "Halved"
) -> None:
    record = Record(type=kind, id=name, version=RecordVersion(1, version), data=data, deleted=deleted)
    one.take(record_message(record))


def payloads(one: Building, kind: str = "Halved") -> dict[str, bytes]:
    """As they lie there, without anything that unpacks them."""
    return {packing.id_of(key): packing.payload_in("", packed, None) for key, packed in one.copy[kind].items()}


async def test_only_what_has_room_waits_to_be_made_small():
    size = len(
        packed_as_it_came(record_message(Record(type="Halved", id="a", version=RecordVersion(1, 1), data=b"xx")))
    )
    one = building(2 * size)
    for number, name in enumerate("abc", 1):
        take(one, name, number)
    assert payloads(one) == {"a": b"xx", "b": b"xx", "c": b"x"}
    await one.complete()
    await one.make_small()
    assert payloads(one) == {"a": b"x", "b": b"x", "c": b"x"}
    await one.make_small()
    assert payloads(one) == {"a": b"x", "b": b"x", "c": b"x"}, "small once is small enough"


async def test_without_room_everything_is_small_at_once_and_a_type_without_a_packer_stays_as_it_came():
    one = building(0)
    take(one, "a", 1)
    take(one, "k", 2, kind="Kept")
    take(one, "u", 3, kind="Unknown")
    assert payloads(one) == {"a": b"x"}
    assert payloads(one, "Kept") == {"k": b"xx"}
    assert set(one.copy) == {"Halved", "Kept"}


async def test_what_is_deleted_stays_until_nothing_older_can_come_and_what_came_back_stays_for_good():
    one = building(1_000)
    take(one, "gone", 1)
    take(one, "gone", 3, deleted=True)
    take(one, "gone", 2)
    take(one, "back", 4, deleted=True)
    take(one, "back", 5, b"zz")
    await one.complete()
    assert payloads(one) == {"back": b"zz"}
    await one.make_small()
    assert payloads(one) == {"back": b"z"}
