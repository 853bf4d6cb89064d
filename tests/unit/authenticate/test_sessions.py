"""What a sign-in writes while planes of two versions run, and which sessions still count."""

from dataclasses import replace

import pytest
from tests.support.records import StoreRecords
from tests.unit.authenticate.session_life.builders import World

from doorward.errors import UnavailableError
from doorward.identity.activity import Activity
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


async def used(world: World, session_id: str, seconds_ago: float) -> None:
    seen = Activity(seen_at=world.clock.now() - seconds_ago).to_bytes()
    expires_at = world.clock.now() + 3600
    await world.records.put(
        [Write(record=Record(type="SessionActivity", id=session_id, data=seen, expires_at=expires_at))]
    )


async def test_a_session_that_is_idle_signs_nobody_in_anywhere_before_anybody_has_ended_it():
    """Authorize lets nobody in by it and sends the browser here: with a code it would come back again and again."""
    world = World(idle=600)
    session_id = await world.sign_in()
    world.clock.advance(599)
    assert await world.writer.live(session_id) is not None
    world.clock.advance(1)
    assert await world.writer.live(session_id) is None
    await used(world, session_id, 599)
    assert await world.writer.live(session_id) is not None
    await used(world, session_id, 600)
    assert await world.writer.live(session_id) is None
    assert await world.is_live(session_id), (
        "only the keeper ends it, once everybody has had time to say that it was used"
    )
    world.writer.limits = replace(world.writer.limits, rhythm=replace(world.rhythm, idle_seconds=None))
    assert await world.writer.live(session_id) is not None


async def test_use_that_cannot_be_read_is_no_use_and_an_answer_that_is_missing_says_nothing():
    world = World(idle=600)
    session_id = await world.sign_in()
    world.clock.advance(600)
    bad = Record(type="SessionActivity", id=session_id, data=b"\xff", expires_at=world.clock.now() + 3600)
    await world.records.put([Write(record=bad)])
    assert await world.writer.live(session_id) is None

    async def get(record_type: str, record_id: str) -> Record:
        if record_type == "SessionActivity":
            raise UnavailableError("away")
        return await StoreRecords.get(world.records, record_type, record_id)

    world.records.get = get  # type: ignore[method-assign]  # stands for a databroker that goes away in between
    with pytest.raises(UnavailableError):
        await world.writer.live(session_id)
