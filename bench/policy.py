"""How long the decision core takes, without transport, beside other engines in the same run. The last line is JSON.

Every engine answers the same questions about policies of the same meaning; each answer is checked before it is timed. The
others get what they allow to be prepared: parsed policies, entities, activations, a compiled bundle.
"""

import argparse
import json

from bench.policy_engines import ENGINES, Asked, measured, median_us
from bench.policy_scale import scale_figures

from doorward.policy import CompiledPolicy, Facts, PrincipalFacts, RequestFacts, compile_policy, parse_policy
from doorward.source import Problems, read_yaml

RULES, EMAILS, GROUPS = 50, 200, 50
TYPICAL = """
- deny:
    or: [{groups: {has: suspended}}, {email: mallory@example.com}]
- allow:
    and: [{domain: example.com}, {groups: {has: admins}}]
- allow:
    and:
      - domain: example.com
      - groups: {has: eng}
      - http_method: {in: [GET, HEAD]}
      - http_path: {starts_with: /reports/}
      - time_of_day: {timezone: UTC, after: "08:00", before: "20:00"}
"""
"""The other engines are given the minute of the day; we find it from the clock."""


def compiled(text: str) -> CompiledPolicy:
    problems = Problems()
    node = read_yaml(text, "bench.yaml")
    assert node is not None
    policy = parse_policy(node, problems)
    problems.raise_errors()
    return compile_policy(policy)


def emails(rule: int) -> list[str]:
    return [f"user{rule}-{number}@example.com" for number in range(EMAILS)]


def groups(rule: int) -> list[str]:
    return [f"group{rule}-{number}" for number in range(GROUPS)]


def many_rules() -> str:
    """Fifty rules of 200 addresses and 50 groups each."""
    return json.dumps(
        [
            {
                "allow": {
                    "or": [{"email": one} for one in emails(rule)] + [{"groups": {"has": one}} for one in groups(rule)]
                }
            }
            for rule in range(RULES)
        ]
    )


def facts_of(asked: Asked) -> Facts:
    principal = PrincipalFacts(
        user_id="5f4dcc3b5aa765d61d8327deb882cf99", email=asked.email, groups=frozenset(asked.groups)
    )
    request = RequestFacts(method=asked.method, host="app.example.com", path=asked.path)
    return Facts(principal=principal, request=request, now=1_893_499_200.0)


def question(email: str, number: int, group: str) -> Asked:
    return Asked(email, (group, *(f"other{n}" for n in range(number))), "GET", "/reports/2030")


def ours(policy: CompiledPolicy, asked: Facts, effect: str, number: int = 20_000) -> float:
    assert policy.decide(asked).effect == effect, policy.decide(asked)
    return median_us(lambda: policy.decide(asked), number)


def compare() -> dict[str, dict[str, float]]:
    """Microseconds a decision, by case and engine."""
    member, last = question("alice@example.com", 5, "eng"), question("user49-199@example.com", 5, "none")
    stranger = question("carol@partner.example", 5, "none")
    cases = {
        "typical": (TYPICAL, "typical", member, True),
        "typical, denied": (TYPICAL, "typical", stranger, False),
        "50 rules": (many_rules(), "many", last, True),
        "50 rules, denied": (many_rules(), "many", stranger, False),
    }
    lists = [(emails(rule), groups(rule)) for rule in range(RULES)]
    found: dict[str, dict[str, float]] = {name: {} for name in cases}
    for name, (text, _, asked, allowed) in cases.items():
        found[name]["doorward"] = ours(compiled(text), facts_of(asked), "allow" if allowed else "deny", 5_000)
    for engine in ENGINES:
        times = measured(engine.name, [(kind, asked, allowed) for _, kind, asked, allowed in cases.values()], lists)
        for name, microseconds in zip(cases, times, strict=True):
            found[name][engine.name] = microseconds
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--profile", action="store_true", help="profile the typical decision instead of timing it")
    parser.add_argument("--no-scale", action="store_true", help="leave out 10,000 routes")
    options = parser.parse_args()
    if options.profile:
        profile()
        return
    typical, fifty = compiled(TYPICAL), compiled(many_rules())
    member, stranger = (
        facts_of(question("alice@example.com", 5, "eng")),
        facts_of(question("c@partner.example", 5, "x")),
    )
    anonymous = Facts(principal=None, request=member.request, now=member.now)
    crowd = facts_of(question("alice@example.com", 5000, "eng"))
    figures: dict[str, object] = {
        "median_us_typical": ours(typical, member, "allow"),
        "median_us_typical_5000_groups": ours(typical, crowd, "allow"),
        "median_us_typical_denied": ours(typical, stranger, "deny", 5_000),
        "median_us_typical_sign_in": ours(typical, anonymous, "sign-in"),
        "median_us_50_rules": ours(fifty, facts_of(question("user49-199@example.com", 5, "none")), "allow", 2_000),
        "median_us_50_rules_denied": ours(fifty, stranger, "deny", 500),
    }
    figures["ratio_5000_groups"] = ratio(figures["median_us_typical_5000_groups"], figures["median_us_typical"])
    table = compare()
    figures["comparison_us"] = table
    rows = [(row, {name: us for name, us in row.items() if name != "doorward"}) for row in table.values()]
    others = [name for name in table["50 rules"] if name != "doorward"]
    for name in others:
        key = name.replace(" ", "_").replace("-", "_")
        figures[f"times_faster_than_{key}_50_rules"] = ratio(table["50 rules"][name], table["50 rules"]["doorward"])
        figures[f"times_faster_than_{key}_typical"] = ratio(table["typical"][name], table["typical"]["doorward"])
    figures["times_faster_than_best_engine"] = min(
        ratio(min(engines.values()), row["doorward"]) for row, engines in rows
    )
    if not options.no_scale:
        figures |= scale_figures()
    print_table(table)
    for name, value in figures.items():
        if isinstance(value, int | float):
            print(f"{name:48} {value:12.3f}")
    print(json.dumps(figures))


def ratio(first: object, second: object) -> float:
    assert isinstance(first, int | float)
    assert isinstance(second, int | float)
    return round(first / second, 3)


def print_table(table: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(table.values())))
    print("| µs a decision | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for case, row in table.items():
        print(f"| {case} | " + " | ".join(f"{row[name]:,.2f}" for name in names) + " |")


def profile() -> None:
    """Where the time of a typical decision goes."""
    import cProfile
    import pstats

    policy, asked = compiled(TYPICAL), facts_of(question("alice@example.com", 5, "eng"))
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(100_000):
        policy.decide(asked)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(12)


if __name__ == "__main__":
    main()
