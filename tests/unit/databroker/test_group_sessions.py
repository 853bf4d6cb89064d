"""Ending the sessions of a group: everybody who is in it, by directory or by token, and nobody else."""

import pytest
from tests.support.fake_clock import FakeClock
from tests.support.records import StoreRecords

from doorward.errors import DataCorruptedError, InvalidArgumentError, NotFoundError
from doorward.identity.directory import DirectoryGroup, DirectoryUser, directory_user_id
from doorward.identity.user import User
from doorward.records.record import Record, Write
from doorward_databroker.group_sessions import users_of_group


async def filled() -> StoreRecords:
    records = StoreRecords(FakeClock())
    writes = []
    for directory, number, name in (("corp", 1, "staff"), ("corp", 2, "guests"), ("other", 1, "guests")):
        group = DirectoryGroup(
            directory_id=directory,
            group_id=f"{directory}-g{number}",
            number=number,
            name=name,
            email=f"{name}@x.example",
        )
        writes.append(Write(record=Record(type="DirectoryGroup", id=f"{directory}/{number}", data=group.to_bytes())))
    for directory, person, numbers in (("corp", "alice", (1,)), ("corp", "bob", (2,)), ("other", "carol", (1,))):
        entry = DirectoryUser(directory_id=directory, entry_id=person, join_value=person, group_numbers=numbers)
        record_id = directory_user_id(directory, "sub", person)
        writes.append(Write(record=Record(type="DirectoryUser", id=record_id, data=entry.to_bytes())))
        user = User(id=person, issuer="i", subject=person, directory_user_id=record_id)
        found_by = {"directory_user": (record_id,)}
        writes.append(Write(record=Record(type="User", id=person, data=user.to_bytes(), indexes=found_by)))
    dave = User(id="dave", issuer="i", subject="dave", groups=frozenset({"staff"}))
    writes.append(Write(record=Record(type="User", id="dave", data=dave.to_bytes())))
    await records.put(writes)
    return records


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("staff", {"alice", "dave"}),
        ("corp-g1", {"alice"}),
        ("staff@x.example", {"alice"}),
        ("guests", {"bob", "carol"}),
    ],
)
async def test_members_are_found_by_id_name_and_address(name: str, found: set[str]):
    members = await users_of_group((await filled()).store, name)
    assert sorted(members) == sorted(found)


async def test_a_group_that_is_none_is_said_and_not_taken_for_an_empty_one():
    store = (await filled()).store
    with pytest.raises(NotFoundError, match="nobody"):
        await users_of_group(store, "nobody")
    with pytest.raises(InvalidArgumentError):
        await users_of_group(store, "")


async def test_a_record_that_cannot_be_read_is_said_and_nobody_is_missed_in_silence():
    records = await filled()
    await records.put([Write(record=Record(type="DirectoryGroup", id="corp/9", data=b"\xff"))])
    with pytest.raises(DataCorruptedError):
        await users_of_group(records.store, "staff")
