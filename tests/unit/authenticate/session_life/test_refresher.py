"""A session looked after: refreshed once however many try, kept through outages, ended by refusals."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.unit.authenticate.session_life.builders import LIFE, SETTINGS, World, signed_in

from doorward.errors import DataCorruptedError, NotFoundError
from doorward.identity import sign_in_stop
from doorward.identity.activity import Activity
from doorward.identity.session import Session
from doorward.identity.upstream_token import UpstreamToken
from doorward.identity.user import User, user_id
from doorward.records.record import Record, RecordVersion, Write
from doorward.route.header_template import Variable
from doorward_authenticate.errors import (
    ProviderRefusedError,
    ProviderUnavailableError,
    RevokedMeanwhileError,
    TokenRejectedError,
)
from doorward_authenticate.session_life.keeper import Keeper
from doorward_authenticate.session_life.refresher import ATTEMPT_SECONDS, Attended
from doorward_authenticate.session_life.schedule import Rhythm, next_due, next_retry
from doorward_authenticate.session_life.tokens import KeptTokens, ProviderTokens


async def test_s48_two_hundred_uses_at_expiry_refresh_once_across_replicas():
    """Two refreshes with one rotating token make the identity provider revoke the whole family: everybody is logged out."""
    world = World()
    session_id = await world.sign_in()
    replicas = [world.another_replica() for _ in range(4)]
    world.clock.advance(LIFE)
    outcomes = await asyncio.gather(*(replicas[n % 4].attend(session_id) for n in range(200)))
    assert world.provider.renewals == 1
    assert sorted(o.value for o in outcomes if o is not Attended.BUSY) == ["renewed"]
    assert (await world.kept(session_id)).tokens.refresh_token == "r1"
    assert await world.is_live(session_id)


async def test_s48_a_crashed_holder_is_taken_over_after_its_attempt_and_not_before():
    world = World()
    session_id = await world.sign_in()
    world.clock.advance(LIFE)

    async def crash() -> None:
        raise asyncio.CancelledError

    world.provider.before_answer = crash
    with pytest.raises(asyncio.CancelledError):
        await world.refresher.attend(session_id)
    world.provider.before_answer = None
    assert await world.another_replica().attend(session_id) is Attended.BUSY
    world.clock.advance(ATTEMPT_SECONDS)
    assert await world.another_replica().attend(session_id) is Attended.RENEWED
    assert world.provider.renewals == 2
    assert await world.is_live(session_id)


async def test_s48_a_refusal_of_tokens_that_another_holder_has_renewed_adopts_the_newer_ones():
    """During a failover two may hold the lease; the slower one must not log the person out."""
    world = World()
    session_id = await world.sign_in()
    world.clock.advance(LIFE)
    slow = world.refresher

    async def overtaken() -> None:
        world.provider.before_answer = None
        world.clock.advance(ATTEMPT_SECONDS)
        assert await world.another_replica().attend(session_id) is Attended.RENEWED

    world.provider.before_answer = overtaken
    assert await slow.attend(session_id) is Attended.BUSY
    assert await world.is_live(session_id)
    assert (await world.kept(session_id)).tokens.refresh_token == world.provider.refresh


async def test_an_outage_never_ends_a_session_and_is_asked_again_with_growing_pauses():
    world = World()
    session_id = await world.sign_in()
    world.provider.fails = ProviderUnavailableError("the token endpoint answered 503")
    world.clock.advance(LIFE)
    pauses = []
    for _ in range(4):
        assert await world.refresher.attend(session_id) is Attended.POSTPONED
        pause = (await world.kept(session_id)).due_at - world.clock.now()
        pauses.append(pause)
        world.clock.advance(pause)
    assert pauses == [30, 60, 120, 240]
    world.provider.fails = None
    assert await world.refresher.attend(session_id) is Attended.RENEWED
    assert (await world.kept(session_id)).failures == 0


async def test_the_first_refusal_after_lost_history_ends_nobodys_session():
    """Somebody else's attempt may have been lost with it, who has rotated the token; the second one counts."""
    world = World()
    session_id = await world.sign_in()
    world.provider.fails = ProviderRefusedError("the token endpoint answered 400 `invalid_grant`")
    world.clock.advance(LIFE)
    await world.records.store.recover((await world.records.store.head()).version)
    assert await world.refresher.attend(session_id) is Attended.POSTPONED
    assert await world.is_live(session_id)
    world.clock.advance(next_retry(1, 0.0, 1.0))
    assert await world.refresher.attend(session_id) is Attended.ENDED
    assert not await world.is_live(session_id)


async def test_a_refusal_ends_the_session_and_its_tokens():
    world = World()
    session_id = await world.sign_in()
    world.provider.fails = ProviderRefusedError("the token endpoint answered 400 `invalid_grant`")
    world.clock.advance(LIFE)
    assert await world.refresher.attend(session_id) is Attended.ENDED
    assert not await world.is_live(session_id)
    with pytest.raises(NotFoundError):
        await world.records.get("SessionTokens", session_id)


async def test_an_answer_that_does_not_verify_changes_nothing():
    world = World()
    session_id = await world.sign_in()
    world.provider.fails = TokenRejectedError("the new ID token speaks of somebody else")
    world.clock.advance(LIFE)
    assert await world.refresher.attend(session_id) is Attended.POSTPONED
    assert await world.is_live(session_id)


async def test_a_withdrawn_access_token_is_renewed_and_without_refresh_token_ends_the_session():
    world = World()
    first, second = await world.sign_in(), await world.sign_in(refresh=None, subject="alice")
    world.clock.advance(271)
    world.provider.userinfo_fails = ProviderRefusedError("userinfo does not take the access token any more")
    assert await world.refresher.attend(second) is Attended.ENDED
    # The refresh works; that userinfo refuses even its fresh token is a refusal of the person.
    assert await world.refresher.attend(first) is Attended.ENDED
    assert world.provider.renewals == 1


async def test_s65_groups_and_claims_follow_the_identity_provider():
    world = World()
    world.rhythm = Rhythm(ask_every_seconds=60, idle_seconds=None)
    session_id = await world.sign_in()
    world.clock.advance(271)
    world.provider.person = {"sub": "alice", "groups": ["guests"], "department": "sales"}
    assert await world.refresher.attend(session_id) is Attended.RENEWED
    assert (await world.user(session_id)).groups == {"guests"}
    session = Session.from_bytes((await world.records.get("Session", session_id)).data)
    assert json.loads(session.claims_json)["department"] == "sales"
    world.clock.advance(60)
    world.provider.person = {"sub": "alice", "groups": []}
    assert await world.refresher.attend(session_id) is Attended.ASKED
    assert (await world.user(session_id)).groups == set()
    world.provider.id_token_claims = {"groups": ["admins"]}
    world.clock.advance(LIFE)
    assert await world.refresher.attend(session_id) is Attended.RENEWED
    assert (await world.user(session_id)).groups == {"admins"}


async def test_an_address_that_changes_is_not_verified_by_what_was_said_of_the_old_one():
    world = World()
    session_id = await world.sign_in(email="alice@example.com", email_verified=True)
    assert (await world.user(session_id)).trusted_email(None) == "alice@example.com"
    world.provider.person = {"sub": "alice", "email": "boss@example.com"}
    world.clock.advance(LIFE)
    assert await world.refresher.attend(session_id) is Attended.RENEWED
    assert (await world.user(session_id)).email == "boss@example.com"
    assert (await world.user(session_id)).trusted_email(None) is None


@pytest.mark.parametrize("said", ["nothing", "address", "groups"])
async def test_s65_an_older_session_does_not_bring_back_what_a_newer_sign_in_took_away(said: str):
    """Where groups stand in ID tokens alone, the one that an older session keeps is as old as its sign-in."""
    world = World()
    older = await world.sign_in(email="alice@example.com", email_verified=True)
    world.clock.advance(200)
    await world.sign_in(subject="alice", email="alice@example.com", email_verified=False, groups=["guests"])
    world.provider.person = {"sub": "alice"}
    world.provider.person |= {"email": "new@example.com", "email_verified": True} if said == "address" else {}
    world.provider.person |= {"groups": ["partners"]} if said == "groups" else {}
    world.clock.advance(LIFE)
    assert await world.refresher.attend(older) is Attended.RENEWED
    user = await world.user(older)
    assert user.groups == ({"partners"} if said == "groups" else {"guests"})
    assert user.trusted_email(None) == ("new@example.com" if said == "address" else None)
    # A new ID token is the newest word.
    world.provider.id_token_claims = {"groups": ["staff"]}
    world.clock.advance(LIFE)
    assert await world.refresher.attend(older) is Attended.RENEWED
    assert (await world.user(older)).groups == {"staff"}


async def test_s65_what_userinfo_alone_has_told_is_not_known_any_more_when_it_is_silent():
    """Some leave out a claim that would be an empty list."""
    world = World()
    older = await world.sign_in(groups=None)
    world.provider.person = {"sub": "alice", "groups": ["admins"], "name": "Alice"}
    world.clock.advance(LIFE)
    assert await world.refresher.attend(older) is Attended.RENEWED
    assert (await world.user(older)).groups == {"admins"}
    world.provider.person = {"sub": "alice"}
    world.clock.advance(LIFE)
    assert await world.refresher.attend(older) is Attended.RENEWED
    assert (await world.user(older)).groups is None
    assert (await world.user(older)).name == ""


async def test_another_provider_by_the_same_name_is_not_asked_about_the_people_of_the_one_before():
    """It would get their refresh tokens, and its own person with the same `sub` would get their groups."""
    world = World()
    session_id = await world.sign_in()
    world.provider.settings = replace(SETTINGS, issuer="https://other.example.com")
    world.clock.advance(LIFE)
    assert await world.refresher.attend(session_id) is Attended.POSTPONED
    assert (world.provider.renewals, world.provider.asked) == (0, 0)
    users = [User.from_bytes(record.data).issuer async for record in world.records.list("User")]
    assert users == [SETTINGS.issuer]


async def test_what_a_newer_version_has_written_survives_a_refresh_by_this_one():
    """Planes of two versions write the same records during an upgrade."""
    newer = b"\xc2\x3e\x05newer"  # field 1000, of type bytes
    world = World()
    session_id = await world.sign_in()
    user_id = (await world.user(session_id)).id
    kinds = {"Session": session_id, "User": user_id, "SessionTokens": session_id}
    for kind, record_id in kinds.items():
        record = await world.records.get(kind, record_id)
        await world.records.put([Write(record=replace(record, data=record.data + newer))])
    world.provider.person = {"sub": "alice", "groups": ["guests"], "department": "sales"}
    world.clock.advance(LIFE)
    assert await world.refresher.attend(session_id) is Attended.RENEWED
    assert (await world.user(session_id)).groups == {"guests"}
    for kind, record_id in kinds.items():
        assert (await world.records.get(kind, record_id)).data.count(newer) == 1, kind


async def test_a_session_that_ends_during_a_refresh_stays_ended():
    world = World()
    session_id = await world.sign_in()
    world.clock.advance(LIFE)

    async def signed_out() -> None:
        await world.records.revoke(session_id=session_id)

    world.provider.before_answer = signed_out
    assert await world.refresher.attend(session_id) is Attended.GONE
    assert not await world.is_live(session_id)


async def test_nothing_new_writes_neither_user_nor_session():
    """Every such write would go to every authorizer."""
    world = World()
    world.provider.person = {"sub": "alice", "groups": ["staff"], "department": "eng"}
    session_id = await world.sign_in()
    world.clock.advance(271)
    before = (await world.records.get("Session", session_id)).version
    assert await world.refresher.attend(session_id) is Attended.RENEWED
    assert (await world.records.get("Session", session_id)).version == before


async def test_an_unused_session_is_ended_and_a_used_one_is_not():
    world = World(idle=600)
    unused, used = await world.sign_in(), await world.sign_in()
    world.clock.advance(700)
    seen = Record(
        type="SessionActivity", id=used, data=Activity(seen_at=world.clock.now() - 60).to_bytes(),
        expires_at=world.clock.now() + 1200,
    )  # fmt: skip
    await world.records.put([Write(record=seen)])
    assert await world.refresher.attend(unused) is Attended.IDLE
    assert await world.refresher.attend(used) is Attended.RENEWED
    assert [await world.is_live(unused), await world.is_live(used)] == [False, True]


async def test_use_that_cannot_be_read_ends_no_session():
    """A databroker without the newest key reads old sessions and none of what was written of their use since."""
    world = World(idle=600)
    session_id = await world.sign_in()
    world.clock.advance(700)
    bad = Record(type="SessionActivity", id=session_id, data=b"\xff", expires_at=world.clock.now() + 1200)
    await world.records.put([Write(record=bad)])
    assert await world.refresher.attend(session_id) is Attended.RENEWED
    assert await world.is_live(session_id)


async def test_a_further_sign_in_ends_the_oldest_of_too_many():
    world = World(most=2)
    ids = []
    for _ in range(4):
        ids.append(await world.sign_in())
        world.clock.advance(1)
    other = await world.sign_in(subject="bob")
    assert [await world.is_live(session_id) for session_id in ids] == [False, False, True, True]
    assert await world.is_live(other)


async def test_tokens_open_only_as_the_session_that_they_were_sealed_for():
    world = World()
    first, second = await world.sign_in(), await world.sign_in()
    record = await world.records.get("SessionTokens", first)
    moved = Record(type="SessionTokens", id=second, data=record.data, expires_at=record.expires_at)
    with pytest.raises(DataCorruptedError):
        KeptTokens.from_record(moved, world.sealer)
    for data in (b"", b"\xff", record.data[:-3]):
        with pytest.raises(DataCorruptedError):
            KeptTokens.from_record(Record(type="SessionTokens", id=first, data=data), world.sealer)
    assert "'a0'" not in repr(await world.kept(first))
    kept = await world.records.get("SessionTokens", await world.sign_in(refresh="a-refresh-token"))
    assert b"a-refresh-token" not in kept.data


async def test_the_keeper_finds_what_is_due_once():
    world = World()
    keeper = Keeper(world.records, world.refresher, world.clock)
    reached = await keeper.survey()
    ids = [await world.sign_in(subject=f"u{n}", refresh=None) for n in range(20)]
    world.clock.advance(260)
    reached = await keeper.advance(reached)
    assert world.provider.asked == 0
    world.provider.userinfo_fails = ProviderUnavailableError("away")
    world.clock.advance(25)
    reached = await keeper.advance(reached)
    assert keeper.counts[Attended.POSTPONED] == len(ids)
    reached = await keeper.advance(reached)
    assert keeper.counts[Attended.POSTPONED] == len(ids)


async def test_the_keeper_surveys_what_came_due_while_nobody_looked():
    world = World()
    for n in range(5):
        await world.sign_in(subject=f"u{n}", refresh=None)
    world.provider.userinfo_fails = ProviderUnavailableError("away")
    world.clock.advance(275)
    keeper = Keeper(world.records, world.refresher, world.clock)
    await keeper.survey()
    assert keeper.counts[Attended.POSTPONED] + keeper.counts[Attended.ASKED] == 5


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_the_next_look_comes_before_the_access_token_ends_and_jitter_only_brings_it_forward(jitter: float):
    def due(life: float | None) -> float:
        tokens = ProviderTokens(
            access_token="a", refresh_token="r", id_token="i", access_expires_at=life, claims={}, claims_at=0
        )
        return next_due(tokens, Rhythm(ask_every_seconds=600, idle_seconds=None), 0, jitter)

    assert 480 <= due(None) <= 600
    assert due(3600) <= 600
    assert due(300) <= 270
    assert due(40) <= 36
    assert due(1) == 30
    assert next_retry(50, 0, jitter) <= 1350


@pytest.mark.parametrize("access_ends", [True, False])
async def test_without_userinfo_the_token_endpoint_is_asked(access_ends: bool):
    """Else a session would outlive the person at the identity provider for as long as the access token, or for ever."""
    world = World()
    session_id = await world.sign_in()
    kept = await world.kept(session_id)
    ends_at = world.clock.now() + 36_000 if access_ends else None
    tokens = replace(kept.tokens, access_expires_at=ends_at)
    due = replace(kept, tokens=tokens, due_at=world.clock.now())
    await world.records.put([Write(record=due.to_record(world.sealer))])
    world.provider.person = {}
    world.provider.fails = ProviderRefusedError("the token endpoint answered 400 `invalid_grant`")
    assert await world.refresher.attend(session_id) is Attended.ENDED
    assert not await world.is_live(session_id)


@pytest.mark.parametrize("revoked", ["user", "provider", "all"])
async def test_a_revoke_while_the_identity_provider_is_asked_ends_the_sign_in(revoked: str):
    """What it looks for is not stored yet; the mark that it leaves is obeyed."""
    world = World()
    mark = {
        "user": sign_in_stop.of_user(user_id(SETTINGS.issuer, "alice")),
        "provider": sign_in_stop.of_provider("corp"),
        "all": sign_in_stop.ALL,
    }[revoked]

    async def revoke() -> None:
        record = Record(type=sign_in_stop.RECORD_TYPE, id=mark, expires_at=world.clock.now() + 600)
        await world.records.put([Write(record=record)])

    with pytest.raises(RevokedMeanwhileError):
        await world.sign_in(between=revoke)
    assert [record.id async for record in world.records.list("Session")] == []
    assert [record.id async for record in world.records.list("SessionTokens")] == []
    # It was about what went on then: a sign-in that begins afterwards is as good as any, and so is somebody else's.
    assert await world.is_live(await world.sign_in())


async def test_a_revoke_of_somebody_else_does_not_touch_a_sign_in():
    world = World()
    session_id = await world.sign_in(between=lambda: world.records.revoke(user_id=user_id(SETTINGS.issuer, "bob")))
    assert await world.is_live(session_id)


async def test_people_are_found_by_their_address_in_its_one_form():
    world = World()
    session_id = await world.sign_in(email="Alice@Example.COM")
    (found,) = [record.id async for record in world.records.query("User", "email", "alice@example.com")]
    assert found == (await world.user(session_id)).id


async def test_upstreams_get_what_routes_ask_for_and_follow_every_renewal():
    """A token that no header holds has no business outside this plane."""
    asked = frozenset({Variable.ACCESS_TOKEN})
    world = World(provider_tokens=asked)

    async def given(session_id: str) -> UpstreamToken:
        return UpstreamToken.from_bytes((await world.records.get("SessionUpstreamToken", session_id)).data)

    session_id = await world.sign_in()
    first = await given(session_id)
    assert (first.access_token, first.id_token) == ("a0", "")
    assert first.access_token_at(world.clock.now() + LIFE - 1) == "a0"
    assert first.access_token_at(world.clock.now() + LIFE) is None
    world.clock.advance(LIFE)
    assert await world.refresher.attend(session_id) is Attended.RENEWED
    assert (await given(session_id)).access_token_at(world.clock.now()) == "a1"
    world.provider.fails = ProviderRefusedError("gone")
    world.clock.advance(LIFE)
    assert await world.refresher.attend(session_id) is Attended.ENDED
    await world.writer.begin(world.provider, signed_in(), {session_id}, await world.writer.moment())
    with pytest.raises(NotFoundError):
        await given(session_id)


async def test_nothing_is_given_where_no_route_asks():
    world = World()
    session_id = await world.sign_in()
    world.clock.advance(LIFE)
    assert await world.refresher.attend(session_id) is Attended.RENEWED
    with pytest.raises(NotFoundError):
        await world.records.get("SessionUpstreamToken", session_id)


async def test_tokens_that_are_renewed_while_userinfo_is_away_reach_upstreams_all_the_same():
    world = World(provider_tokens=frozenset({Variable.ACCESS_TOKEN}))
    session_id = await world.sign_in()
    world.clock.advance(LIFE)
    world.provider.userinfo_fails = ProviderUnavailableError("away")
    assert await world.refresher.attend(session_id) is Attended.POSTPONED
    record = await world.records.get("SessionUpstreamToken", session_id)
    assert UpstreamToken.from_bytes(record.data).access_token == "a1"


async def test_tokens_that_do_not_open_keep_nobody_else_from_being_looked_after():
    world = World()
    ids = [await world.sign_in(subject=f"u{n}", refresh=None) for n in range(5)]
    world.provider.userinfo_fails = ProviderUnavailableError("away")
    store: Any = world.records.store
    store._records["SessionTokens", ids[2]] = (RecordVersion(1, 1), b"spoiled")
    registry = CollectorRegistry()
    keeper = Keeper(world.records, world.refresher, world.clock, registry)
    world.clock.advance(275)
    reached = await keeper.survey()
    assert keeper.counts[Attended.POSTPONED] + keeper.counts[Attended.ASKED] == 4
    assert registry.get_sample_value("doorward_session_tokens_damaged") == 1
    world.clock.advance(60)
    assert await keeper.advance(reached) > reached
