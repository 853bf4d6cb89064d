import pytest

from doorward.policy.criteria.families import UNREADABLE
from doorward.policy.criteria.matching import match_string, match_strings, string_test, strings_test
from doorward.policy.criteria.membership import claim_values
from doorward.policy.nodes import Comparison, Matcher


@pytest.mark.parametrize(
    ("comparison", "operand", "matching", "other"),
    [
        ("is", ("ab",), ["ab"], ["a", "abc", "AB", ""]),
        ("not", ("ab",), ["a", "AB", ""], ["ab"]),
        ("contains", ("b",), ["b", "abc"], ["a", ""]),
        ("starts_with", ("ab",), ["ab", "abc"], ["a", "cab", ""]),
        ("ends_with", ("ab",), ["ab", "cab"], ["b", "abc", ""]),
        ("in", ("a", "b"), ["a", "b"], ["c", "ab", ""]),
        ("not_in", ("a", "b"), ["c", "ab", ""], ["a", "b"]),
    ],
)
def test_a_string_is_compared_as_the_word_says(comparison, operand, matching, other):
    matchers = (Matcher(Comparison(comparison), operand),)
    for value in matching:
        assert match_string(matchers, value)
        assert string_test(matchers)(value)
    for value in other:
        assert not match_string(matchers, value)
        assert not string_test(matchers)(value)


@pytest.mark.parametrize(
    ("comparison", "operand", "matching", "other"),
    [
        ("has", ("a",), [{"a"}, {"a", "b"}], [set(), {"ab"}]),
        ("has", ("a", "b"), [{"a"}, {"b", "c"}], [set(), {"c"}]),
        ("is", ("a",), [{"a"}], [set(), {"a", "b"}, {"b"}]),
        ("exclude", ("a",), [set(), {"b"}], [{"a"}, {"a", "b"}]),
        ("exclude", ("a", "b"), [set(), {"c"}], [{"b"}, {"a", "c"}]),
    ],
)
def test_several_strings_are_compared_as_the_word_says(comparison, operand, matching, other):
    matchers = (Matcher(Comparison(comparison), operand),)
    for values in matching:
        assert match_strings(matchers, values)
        assert strings_test(matchers)(values)
        assert strings_test(matchers)(list(values))
    for values in other:
        assert not match_strings(matchers, values)
        assert not strings_test(matchers)(values)


def test_all_matchers_must_hold():
    string = (Matcher(Comparison.STARTS_WITH, ("a",)), Matcher(Comparison.ENDS_WITH, ("b",)))
    assert [string_test(string)(value) for value in ("ab", "a", "b")] == [True, False, False]
    strings = (Matcher(Comparison.HAS, ("a",)), Matcher(Comparison.EXCLUDE, ("b",)))
    assert [strings_test(strings)(values) for values in (["a"], ["a", "b"], [])] == [True, False, False]


def test_a_matcher_of_the_wrong_kind_is_an_error():
    with pytest.raises(ValueError, match="does not compare a string"):
        string_test((Matcher(Comparison.HAS, ("a",)),))
    with pytest.raises(ValueError, match="does not compare a string"):
        match_string((Matcher(Comparison.HAS, ("a",)),), "a")
    with pytest.raises(ValueError, match="does not compare a list"):
        strings_test((Matcher(Comparison.IN, ("a",)),))
    with pytest.raises(ValueError, match="does not compare a list"):
        match_strings((Matcher(Comparison.IN, ("a",)),), ["a"])


CLAIMS = {
    "plain": "a",
    "yes": True,
    "number": 3,
    "fraction": 1.5,
    "nothing": None,
    "list": ["a", 1, False],
    "empty": [],
    "nested_list": ["a", ["b"]],
    "objects": [{"a": 1}],
    "realm": {"roles": ["x"], "plain": "p", "deep": {"a": {"b": {"c": {"d": "too deep"}}}}},
    "realm.roles": ["exact"],
    "https://a.example/role": "url",
}


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("plain", ["a"]),
        ("yes", ["true"]),
        ("number", ["3"]),
        ("list", ["a", "1", "false"]),
        ("empty", []),
        ("realm/roles", ["x"]),
        ("realm.roles", ["exact"]),
        ("realm.plain", ["p"]),
        ("https://a.example/role", ["url"]),
        ("fraction", ["1.5"]),
        ("nothing", None),
        ("nested_list", UNREADABLE),
        ("objects", UNREADABLE),
        ("realm", UNREADABLE),
        ("absent", None),
        ("plain/more", UNREADABLE),
        ("realm/deep/a/b/c/d", UNREADABLE),
        ("realm//roles", None),
    ],
)
def test_a_claim_is_found_by_its_path(path, values):
    assert claim_values(CLAIMS, path) == values
