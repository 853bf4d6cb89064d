"""Tests, mutants and questions over what the language has beyond people, methods and paths."""

import pytest
from tests.support.policy_suite import cases_of, read_tests, target

from doorward.policy import Effect, explain_policy
from doorward.policy.access import PERSON, Reach, judge_access
from doorward.policy.testing import mutate, run_cases

HOURS = "allow: {and: [{groups: eng}, {time_of_day: {timezone: Europe/Madrid, after: '08:00', before: '20:00'}}]}"
FRESH = "allow: {and: [{groups: eng}, {authentication: {max_age: 15m}}]}"
PEOPLE = "people: {erin: {groups: [eng], authenticated_at: 5m ago}, olga: {groups: [eng], authenticated_at: 2h ago}}\n"


def test_a_test_of_the_clock_says_the_time():
    """It would otherwise hold at noon on New Year's Day, and be read as holding always."""
    _, _, problems = read_tests("version: 1\npolicy: p\ntests: [{name: n, effect: deny}]", target("app", HOURS))
    assert (
        problems.all[0].render().endswith("error: the policy of `app` looks at the clock (say the `time` of the test)")
    )


@pytest.mark.parametrize(
    ("time", "effect"),
    [
        ("2030-03-29 08:00 Europe/Madrid", "allow"),
        ("2030-03-29 07:59 Europe/Madrid", "deny"),
        ("2030-03-29T06:30:00Z", "deny"),
        ("2030-04-01T06:30:00Z", "allow"),
    ],
)
def test_times_follow_the_clocks_of_their_zone_across_daylight_saving(time, effect):
    text = PEOPLE + f"tests: [{{name: n, principal: erin, time: '{time}', effect: {effect}}}]"
    assert [outcome.failures for outcome in run_cases(cases_of(text, target("app", HOURS)))] == [()]


def test_step_up_is_tested_explained_and_its_mutants_are_judged_by_it():
    text = (
        PEOPLE + "time: 2030-01-01T12:00:00Z\ntests: [{name: n, effect: {erin: allow, olga: step-up, nobody: sign-in}}]"
    )
    cases = cases_of(text, target("app", FRESH))
    assert [outcome.failures for outcome in run_cases(cases)] == [(), (), ()]
    explanation = explain_policy(cases[1].target.policy, cases[1].facts)
    assert explanation.decision.effect is Effect.STEP_UP
    assert explanation.render().startswith("STEP-UP")
    assert [change.result.term.criterion for change in explanation.remedies[0].changes] == ["authentication"]
    changes = [mutant.change for mutant in mutate(cases[0].target.policy, cases[1:2]).survivors]
    assert "groups has eng always holds" in changes
    assert not any(change.startswith("authentication") and "always" in change for change in changes)


def test_what_somebody_has_with_them_is_open_and_named():
    case = cases_of(
        PEOPLE + "tests: [{name: n, principal: erin, time: 2030-01-01T12:00:00Z, effect: allow}]", target("app", HOURS)
    )[0]
    access = judge_access(case.target.policy, case.facts, PERSON)
    assert access.reach is Reach.DEPENDS
    assert access.conditions[0].startswith("time_of_day ")
    assert judge_access(case.target.policy, case.facts, PERSON | {"time"}).reach is Reach.YES
