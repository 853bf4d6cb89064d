"""Clocks that are changed, leap days, and the moments at which an open stream is decided again."""

import datetime as dt

import pytest
from tests.support.policy import facts, policy_of, problems_of

from doorward.policy import CompiledPolicy, Effect, compile_policy, interpret_policy


def at(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


def allowed(policy: CompiledPolicy, text: str) -> bool:
    asked = facts(now=at(text))
    decision = policy.decide(asked)
    assert decision == interpret_policy(policy.policy, asked)
    return decision.effect is Effect.ALLOW


def compiled(term: str) -> CompiledPolicy:
    return compile_policy(policy_of(f"allow: {{and: [{{{term}}}]}}"))


def changes(policy: CompiledPolicy, text: str) -> str | None:
    moment = policy.next_change(facts(now=at(text)))
    return None if moment is None else dt.datetime.fromtimestamp(moment, dt.UTC).isoformat()


OFFICE = "time_of_day: {after: '02:30', before: '03:30', timezone: Europe/Madrid}"


def test_a_time_that_the_clocks_skip_is_passed_at_the_change():
    """Madrid, 2030-03-31: 02:00 becomes 03:00 at 01:00Z, so 02:30 never shows."""
    policy = compiled(OFFICE)
    assert not allowed(policy, "2030-03-31T00:59:59.9+00:00")
    assert allowed(policy, "2030-03-31T01:00:00+00:00")
    assert not allowed(policy, "2030-03-31T01:30:00+00:00")
    assert changes(policy, "2030-03-31T00:40:00+00:00") == "2030-03-31T01:00:00+00:00"
    assert changes(policy, "2030-03-31T01:00:00+00:00") == "2030-03-31T01:30:00+00:00"


def test_a_time_that_the_clocks_show_twice_counts_twice():
    """Madrid, 2030-10-27: 03:00 becomes 02:00 at 01:00Z, so 02:30 shows at 00:30Z and at 01:30Z."""
    policy = compiled(OFFICE)
    found = [allowed(policy, f"2030-10-27T0{hour}:{minute}:00+00:00") for hour in (0, 1, 2) for minute in (15, 45)]
    assert found == [False, True, False, True, True, False]
    assert changes(policy, "2030-10-27T00:45:00+00:00") == "2030-10-27T01:00:00+00:00"
    assert changes(policy, "2030-10-27T01:00:00+00:00") == "2030-10-27T01:30:00+00:00"


def test_days_follow_their_own_zone():
    policy = compiled("day_of_week: {in: sat, timezone: Pacific/Auckland}")
    assert allowed(policy, "2030-03-15T11:00:00+00:00")
    assert not allowed(policy, "2030-03-16T11:00:00+00:00")
    assert changes(policy, "2030-03-15T11:00:00+00:00") == "2030-03-16T11:00:00+00:00"


def test_a_day_of_twenty_five_hours_is_one_day():
    policy = compiled("day_of_week: {in: sunday, timezone: America/New_York}")
    assert allowed(policy, "2030-11-03T04:00:00+00:00")
    assert allowed(policy, "2030-11-04T04:59:59+00:00")
    assert not allowed(policy, "2030-11-04T05:00:00+00:00")


def test_a_leap_day_is_a_day():
    policy = compiled("date: {after: 2028-02-29, before: 2028-03-01, timezone: UTC}")
    assert not allowed(policy, "2028-02-28T23:59:59+00:00")
    assert allowed(policy, "2028-02-29T12:00:00+00:00")
    assert not allowed(policy, "2028-03-01T00:00:00+00:00")
    assert changes(policy, "2028-02-29T00:00:00+00:00") == "2028-03-01T00:00:00+00:00"
    assert changes(policy, "2028-03-01T00:00:00+00:00") is None
    (problem,) = problems_of("allow: {and: [{date: {after: 2030-02-29}}]}")
    assert "is no date" in problem.message


def test_over_midnight_both_ends_hold():
    policy = compiled("time_of_day: {after: 10 PM, before: 6 AM, timezone: UTC}")
    found = [allowed(policy, f"2030-01-01T{clock}+00:00") for clock in ("21:59:59", "22:00:00", "05:59:59", "06:00:00")]
    assert found == [False, True, True, False]


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("time_of_day: {after: '08:00'}", "needs a `timezone`"),
        ("time_of_day: {timezone: UTC}", "needs `after`, `before` or both"),
        ("time_of_day: {after: '25:00', timezone: UTC}", "no time of day"),
        ("time_of_day: {after: '13 PM', timezone: UTC}", "no time of day"),
        ("time_of_day: {after: '8', timezone: UTC}", "no time of day"),
        ("time_of_day: {after: '08:00', timezone: Europe/Madird}", "did you mean `Europe/Madrid`?"),
        ("time_of_day: {after: '08:00', timezone: ../etc/passwd}", "is no time zone"),
        ("day_of_week: mon-fry", "names no days"),
        ("date: {after: yesterday}", "is no date"),
        ("date: {after: 2031-01-01, before: 2030-01-01}", "can never hold"),
        ("date: {timezone: UTC}", "needs `after`, `before` or both"),
    ],
)
def test_a_time_that_cannot_be_is_named(term, message):
    (problem,) = problems_of(f"allow: {{and: [{{{term}}}]}}")
    assert message in problem.message


def test_the_earliest_of_several_changes_counts():
    policy = compile_policy(
        policy_of("allow: {and: [{authentication: {max_age: 1h}}, {time_of_day: {before: '18:00', timezone: UTC}}]}")
    )
    start = at("2030-01-01T17:30:00+00:00")
    asked = facts({"authenticated_at": start - 600}, now=start)
    assert policy.next_change(asked) == at("2030-01-01T18:00:00+00:00")
    asked = facts({"authenticated_at": start - 3000}, now=start)
    assert policy.next_change(asked) == start + 600
