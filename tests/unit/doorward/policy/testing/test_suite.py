import pytest
from tests.support.policy_suite import cases_of, read_tests, target

from doorward.policy import Effect
from doorward.policy.testing import run_cases

ANY = target("wiki", "allow: {or: [groups: staff]}")
ADMIN = target("admin", "allow: {or: [groups: admins]}", host="wiki.example.com", prefix="/admin")
WIKI = target("wiki", "allow: {or: [groups: staff]}", host="wiki.example.com", prefix="/")
PEOPLE = "people: {alice: {email: alice@example.com, groups: [staff]}, bob: {groups: null}}\n"


def test_a_case_holds_everything_that_was_written():
    (case,) = cases_of(
        PEOPLE
        + "tests: [{name: n, principal: alice, request: {method: PUT, path: /x, headers: {X-Team: blue}},"
        + " time: '2030-03-01T22:00:00+01:00', effect: allow, reasons: [groups-ok], rule: allow-1}]",
        ANY,
    )
    assert (case.name, case.who, case.effect, case.rule, case.reasons) == (
        "n",
        "alice",
        "allow",
        "allow-1",
        ("groups-ok",),
    )
    assert case.facts.principal is not None
    assert case.facts.principal.groups == {"staff"}
    assert case.facts.principal.user_id == "alice"
    assert (case.facts.request.method, case.facts.request.path) == ("PUT", "/x")
    assert case.facts.request.headers == {"x-team": ("blue",)}
    assert case.facts.now == 1898629200


def test_the_time_of_a_case_that_names_none_is_never_the_present():
    (case,) = cases_of("tests: [{name: n, effect: sign-in}]", ANY)
    assert case.facts.now == 1893499200


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2030-03-31T01:30:00+01:00", 1901147400),
        ("2030-03-31 03:30 Europe/Madrid", 1901151000),
        ("2030-03-01T00:00:00Z", 1898553600),
        ("2030-03-01 00:00 UTC", 1898553600),
    ],
)
def test_times_are_read_with_their_zone(text, seconds):
    (case,) = cases_of(f"tests: [{{name: n, effect: sign-in, time: '{text}'}}]", ANY)
    assert case.facts.now == seconds


def test_a_matrix_is_one_case_for_each_person():
    cases = cases_of(PEOPLE + "tests: [{name: n, effect: {alice: allow, bob: deny, nobody: sign-in}}]", ANY)
    assert [(case.name, case.effect) for case in cases] == [
        ("n: alice", Effect.ALLOW),
        ("n: bob", Effect.DENY),
        ("n: nobody", Effect.SIGN_IN),
    ]
    assert all(outcome.passed for outcome in run_cases(cases))


def test_somebody_like_somebody_else_keeps_what_is_not_said():
    (case,) = cases_of(PEOPLE + "tests: [{name: n, principal: {like: alice, groups: []}, effect: deny}]", ANY)
    assert case.facts.principal is not None
    assert (case.facts.principal.email, case.facts.principal.groups) == ("alice@example.com", frozenset())


def test_an_address_finds_the_first_route_that_takes_it():
    text = "tests: [{name: a, request: {url: 'https://wiki.example.com/admin/x?q=1'}, effect: sign-in},"
    text += " {name: b, request: {url: https://wiki.example.com/adm%69n-not}, effect: sign-in}]"
    first, second = cases_of(text, ADMIN, WIKI)
    assert (first.target.name, first.facts.request.path, first.facts.request.query) == ("admin", "/admin/x", "q=1")
    assert (second.target.name, second.facts.request.path) == ("wiki", "/admin-not")


def test_ages_are_counted_from_the_time_of_the_case():
    text = "people: {a: {authenticated_at: 10m ago}}\n"
    (case,) = cases_of(text + "tests: [{name: n, principal: a, time: 2030-01-01T00:00:00Z, effect: deny}]", ANY)
    assert case.facts.principal is not None
    assert case.facts.principal.authenticated_at == case.facts.now - 600


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("tests: []", "1:8: error: expected a list of tests (a file without tests would pass and prove nothing)"),
        ("tests: [x]", "1:9: error: expected a test with a `name` and an `effect`"),
        ("tests: [{effect: deny}]", "1:9: error: a test needs a `name`"),
        ("tests: [{name: n}]", "1:9: error: a test needs an `effect` (one of allow, deny, sign-in, step-up)"),
        ("tests: [{name: n, effect: alow}]", "1:27: error: `alow` is no effect (did you mean `allow`?)"),
        ("tests: [{name: n, efect: deny, effect: deny}]", "1:19: error: unknown key `efect` of a test (did you mean `effect`?)"),
        ("tests: [{name: n, effect: deny}, {name: n, effect: deny}]", "two tests are named `n` (the first is on line 1)"),
        ("tests: [{name: n, effect: deny, principal: alise}]\npeople: {alice: {}}", "1:44: error: nobody is called `alise` (did you mean `alice`?)"),
        ("tests: [{name: n, effect: deny, principal: {like: x}}]", "nobody is called `x`"),
        ("tests: [{name: n, effect: deny, principal: {gruops: []}}]", "1:45: error: unknown fact about a person `gruops` (did you mean `groups`?)"),
        ("tests: [{name: n, effect: deny, principal: {groups: 1}}]", "1:53: error: `groups`: expected a list"),
        ("tests: [{name: n, effect: deny, principal: {groups: [1]}}]", "`groups`: expected a string; put quotes round it"),
        ("tests: [{name: n, effect: deny, principal: {authenticated_at: yesterday}}]", "`authenticated_at`: expected a time or `10m ago`"),
        ("tests: [{name: n, effect: deny, request: {verb: GET}}]", "1:43: error: unknown fact about a request `verb`"),
        ("tests: [{name: n, effect: deny, request: GET}]", "expected `method`, `path` or `url` of a request"),
        ("tests: [{name: n, effect: deny, request: {client_address: office}}]", "`office` is no address (expected one such as"),
        ("tests: [{name: n, effect: deny, request: {url: 'http://a/'}}]", "`http://a/` is no address (`https://host/path?query`)"),
        ("tests: [{name: n, effect: deny, request: {url: 'https://app.exampl.com/'}}]", "no route takes `https://app.exampl.com/` (did you mean `app.example.com`?)"),
        ("tests: [{name: n, effect: deny, request: {url: 'https://app.example.com/a;b'}}]", "no policy sees `/a;b` (refused: path-parameters)"),
        ("tests: [{name: n, effect: deny, time: 2030-01-01T00:00}]", "`2030-01-01T00:00` does not say in which time zone"),
        ("tests: [{name: n, effect: deny, time: noon}]", "`noon` is no time"),
        ("tests: [{name: n, effect: deny, time: 2030-01-01 00:00 Europe/Nowhere}]", "is no time"),
        ("tests: [{name: n, effect: deny, rule: allow-2}]", "`wiki` has no rule `allow-2` (did you mean `allow-1`?)"),
        ("tests: [{name: n, effect: deny, reasons: []}]", "expected a list of reasons"),
        ("tests: [{name: n, effect: deny, route: wikki}]", "no route is named `wikki` (did you mean `wiki`?)"),
        ("tests: [{name: n, effect: {alice: allow}, rule: allow-1}]\npeople: {alice: {}}", "`rule` does not go with an `effect` for each person"),
        ("tests: [{name: n, effect: deny}]\npeople: {nobody: {}}", "`nobody` is the word for who is not signed in"),
        ("tests: [{name: n, effect: deny}]\npeople: [{email: a@b.c}]", "expected somebody's facts with a `name`"),
        ("tests: [{name: n, effect: deny}]\npeople: [{name: a}, {name: a}]", "`a` stands twice"),
        ("tests: [{name: n, effect: deny}]\npeople: {a: x}", "expected the facts of `a`"),
        ("tests: [{name: n, effect: deny}]\npeople: 3.5\npeopel: 1", "unknown key `peopel` (did you mean `people`?)"),
    ],
)  # fmt: skip
def test_bad_tests_are_refused_with_their_place(text, wanted):
    _, _, problems = read_tests(text + "\nversion: 1\npolicy: p.yaml", ANY)
    assert any(wanted in problem.render() for problem in problems.all), [p.render() for p in problems.all]
    assert problems.has_errors


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("policy: p\ntests: [x]", "expected `version: 1`"),
        ("version: 1\ntests: [x]", "expected `configuration` or `policy`, and not both"),
        ("version: 1\npolicy: p\nconfiguration: c\ntests: [x]", "expected `configuration` or `policy`, and not both"),
        ("version: 1\npolicy: ''\ntests: [x]", "expected the name of a file"),
    ],
)
def test_a_file_says_its_version_and_what_it_tests(text, wanted):
    _, _, problems = read_tests(text, ANY)
    assert any(wanted in problem.render() for problem in problems.all)


def test_a_route_that_is_shadowed_there_is_not_tested_by_mistake():
    text = "tests: [{name: n, route: wiki, request: {url: https://wiki.example.com/admin}, effect: deny}]"
    _, _, problems = read_tests("version: 1\npolicy: p\n" + text, ADMIN, WIKI)
    assert "is taken by `admin`" in problems.all[0].render()


@pytest.mark.parametrize(
    "value", ["!!python/object/apply:os.system [touch /tmp/x]", "!!python/name:os.system", "!ruby/x 1"]
)
def test_s75_a_test_file_is_data_and_never_code(value):
    """Whoever may try a policy could otherwise run programs where it is tried."""
    from doorward.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="is not understood here"):
        read_tests(f"version: 1\npolicy: p\npeople: {value}\ntests: []", ANY)


def test_s75_what_looks_like_code_in_a_value_is_compared_as_text():
    text = "people: {a: {groups: ['__import__(\"os\").system(\"x\")', '{{ 7 * 7 }}', '${x}']}}\n"
    (case,) = cases_of(text + "tests: [{name: n, principal: a, effect: deny, reasons: [groups-unauthorized]}]", ANY)
    assert all(outcome.passed for outcome in run_cases([case]))
    assert case.facts.principal is not None
    assert "{{ 7 * 7 }}" in (case.facts.principal.groups or ())
