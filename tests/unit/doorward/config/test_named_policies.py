"""Policies and sets by name: used by routes, and broken ones break exactly the routes that use them."""

from pathlib import Path

import pytest
from tests.support.policy import facts

from doorward.config.load import load
from doorward.config.settings import Loaded
from doorward.policy import Effect, compile_policy

FILE = """\
version: 1
authenticate_url: https://sign-in.example.com
sets:
  leads: [alice@partner.example, bob@partner.example]
policies:
  staff: [{allow: {and: [{domain: example.com}]}}]
  leads:
    - {allow: {and: [{email: {in: {set: leads}}}]}}
  both: [staff, leads]
routes:
  - {name: app, from: https://app.example.com, to: http://127.0.0.1:9, policy: POLICY}
  - {name: own, from: https://own.example.com, to: http://127.0.0.1:9, policy: [{allow: {or: [{accept: true}]}}]}
"""


def loaded(folder: Path, policy: str, text: str = FILE) -> Loaded:
    path = folder / "doorward.yaml"
    path.write_text(text.replace("POLICY", policy))
    return load(path)


@pytest.mark.parametrize(
    ("policy", "email", "effect", "rule"),
    [
        ("staff", "eve@example.com", Effect.ALLOW, "staff/allow-1"),
        ("[leads]", "eve@example.com", Effect.DENY, None),
        ("[leads]", "bob@partner.example", Effect.ALLOW, "leads/allow-1"),
        ("both", "bob@partner.example", Effect.ALLOW, "both/leads/allow-1"),
        ("[leads, {allow: {or: [{email: eve@example.com}]}}]", "eve@example.com", Effect.ALLOW, "allow-1"),
    ],
)
def test_a_route_takes_policies_by_name(
    policy: str, email: str, effect: Effect, rule: str | None, tmp_path: Path
) -> None:
    found = loaded(tmp_path, policy)
    # That `leads` lets in nobody beside `staff` is warned of, and no error.
    assert [problem.render() for problem in found.problems if problem.severity == "error"] == []
    assert found.settings is not None
    decision = compile_policy(found.settings.routes[0].policy).decide(facts({"email": email}))
    assert (decision.effect, decision.rule) == (effect, rule)


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        (("policy: POLICY", "policy: staf"), ":11:", "there is no policy `staf` (did you mean `staff`?)"),
        (("domain: example.com", "domian: example.com"), ":6:", "did you mean `domain`?"),
        (("{set: leads}", "{set: lead}"), ":8:", "there is no set `lead`"),
        (("bob@partner.example]", "bob]"), ":4:", "can never match"),
        (("[alice@partner.example, bob@partner.example]", "alice@example.com"), ":4:", "must be a list"),
        (("both: [staff, leads]", "both: [later]\n  later: [staff]"), ":9:", "there is no policy `later`"),
        (("both: [staff, leads]", "both: 7"), ":9:", "expected `allow` or `deny`"),
    ],
)
def test_a_mistake_is_named_and_breaks_only_who_uses_it(
    change: tuple[str, str], place: str, words: str, tmp_path: Path
) -> None:
    found = loaded(tmp_path, "[staff, leads, both]", FILE.replace(*change))
    errors = [problem.render() for problem in found.problems if problem.severity == "error"]
    assert any(place in error and words in error for error in errors), errors
    assert found.settings is not None
    app, own = found.settings.routes
    assert app.route.broken is not None
    assert own.route.broken is None
    assert compile_policy(app.policy).decide(facts({"email": "bob@example.com"})).effect is Effect.DENY


@pytest.mark.parametrize("word", ["sets", "policies"])
def test_what_is_no_mapping_is_named(word: str, tmp_path: Path) -> None:
    found = loaded(tmp_path, "[{allow: {or: [{accept: true}]}}]", f"{word}: [a]\n" + FILE.replace(f"{word}:", "x:"))
    assert any(f"expected {word} by name" in problem.render() for problem in found.problems)
