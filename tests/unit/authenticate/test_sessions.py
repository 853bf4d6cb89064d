"""What a sign-in writes while planes of two versions run."""

from dataclasses import replace

from tests.unit.authenticate.session_life.builders import World

from doorward.identity.user import User
from doorward.records.record import Record, Write

NEWER = b"\xc2\x3e\x05newer"
"""A field of number 1000, which no version has yet."""


async def test_a_sign_in_keeps_what_a_newer_version_wrote_about_the_person():
    world = World()
    user = await world.user(await world.sign_in())
    changed = replace(user, name="Somebody else", unknown=NEWER)
    await world.records.put([Write(record=Record(type="User", id=user.id, data=changed.to_bytes()))])
    again = await world.user(await world.sign_in())
    assert again.unknown == NEWER
    assert again.to_bytes().endswith(NEWER)
    assert again.name == user.name


async def test_a_person_whose_record_does_not_parse_is_written_anew():
    """Else one damaged record would keep somebody out for good."""
    world = World()
    user = await world.user(await world.sign_in())
    await world.records.put([Write(record=Record(type="User", id=user.id, data=b"\xff"))])
    assert (await world.user(await world.sign_in())) == user


async def test_the_first_sign_in_of_a_person_is_no_different():
    world = World()
    user: User = await world.user(await world.sign_in())
    assert user.unknown == b""
