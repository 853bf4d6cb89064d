"""A refresh whose person somebody else has written about meanwhile."""

import asyncio
import json
from dataclasses import replace

from tests.unit.authenticate.session_life.builders import LIFE, World

from doorward.identity.session import Session
from doorward.records.record import Write
from doorward_authenticate.session_life.refresher import Attended
from doorward_authenticate.session_life.schedule import SHORTEST_SECONDS


async def test_s65_a_refresh_that_was_overtaken_by_a_sign_in_writes_nothing_over_it():
    world = World()
    older = await world.sign_in()
    world.clock.advance(LIFE)
    world.provider.person = {"sub": "alice", "groups": ["staff", "admins"]}

    async def overtaken() -> None:
        await world.sign_in(groups=["guests"])

    world.provider.before_answer = overtaken
    assert await world.refresher.attend(older) is Attended.BUSY
    assert (await world.user(older)).groups == {"guests"}
    assert await world.is_live(older)
    # It is not left to the next survey: what the session's own claims say now has not been stored either.
    world.provider.before_answer = None
    kept = await world.kept(older)
    assert (kept.attempt_until, kept.due_at) == (None, world.clock.now() + SHORTEST_SECONDS)
    world.clock.advance(SHORTEST_SECONDS)
    assert await world.refresher.attend(older) is Attended.ASKED
    assert (await world.user(older)).groups == {"staff", "admins"}


async def test_s65_sessions_of_one_person_that_are_asked_about_at_once_all_hear_what_is_new():
    world = World()
    ids = [await world.sign_in() for _ in range(3)]
    for session_id in ids:
        kept = await world.kept(session_id)
        due = replace(kept, tokens=replace(kept.tokens, access_expires_at=None), due_at=world.clock.now())
        await world.records.put([Write(record=due.to_record(world.sealer))])
    calls: list[str] = []
    all_have_asked = asyncio.Event()

    async def userinfo(access_token: str, subject: str) -> dict[str, object]:
        calls.append(access_token)
        if len(calls) == len(ids):
            all_have_asked.set()
        await all_have_asked.wait()
        return {"sub": subject, "groups": ["guests"], "department": "sales"}

    world.provider.userinfo = userinfo  # type: ignore[method-assign]  # all of them at once
    for _ in range(2):
        await asyncio.gather(*(world.refresher.attend(session_id) for session_id in ids))
        world.clock.advance(SHORTEST_SECONDS)
    assert (await world.user(ids[0])).groups == {"guests"}
    for session_id in ids:
        session = Session.from_bytes((await world.records.get("Session", session_id)).data)
        assert json.loads(session.claims_json)["department"] == "sales"
