"""How long the decision core takes, without transport. The last line is JSON."""

import json
import statistics
import timeit

from doorward.policy import CompiledPolicy, Facts, PrincipalFacts, RequestFacts, compile_policy, parse_policy
from doorward.source import Problems, read_yaml

TYPICAL = """
- deny:
    or: [{groups: {has: suspended}}, {email: mallory@example.com}]
- allow:
    and: [{domain: example.com}, {groups: {has: admins}}]
- allow:
    and: [{domain: example.com}, {groups: {has: eng}}, {http_method: {in: [GET, HEAD]}}, {http_path: {starts_with: /reports/}}]
"""


def compiled(text: str) -> CompiledPolicy:
    problems = Problems()
    node = read_yaml(text, "bench.yaml")
    assert node is not None
    policy = parse_policy(node, problems)
    problems.raise_errors()
    return compile_policy(policy)


def many_rules() -> str:
    """Fifty rules of 200 addresses and 50 groups each."""
    rules = []
    for rule in range(50):
        emails = [{"email": f"user{rule}-{number}@example.com"} for number in range(200)]
        groups = [{"groups": {"has": f"group{rule}-{number}"}} for number in range(50)]
        rules.append({"allow": {"or": emails + groups}})
    return json.dumps(rules)


def facts(email: str, groups: int, group: str) -> Facts:
    principal = PrincipalFacts(
        user_id="5f4dcc3b5aa765d61d8327deb882cf99",
        email=email,
        groups=frozenset({group, *(f"other{number}" for number in range(groups))}),
    )
    request = RequestFacts(method="GET", host="app.example.com", path="/reports/2030")
    return Facts(principal=principal, request=request, now=0.0)


def median_us(policy: CompiledPolicy, asked: Facts, effect: str, number: int = 20_000) -> float:
    assert policy.decide(asked).effect == effect
    runs = timeit.repeat(lambda: policy.decide(asked), number=number, repeat=9)
    return round(statistics.median(runs) / number * 1e6, 3)


def main() -> None:
    typical, fifty = compiled(TYPICAL), compiled(many_rules())
    member = facts("alice@example.com", 5, "eng")
    stranger = facts("carol@partner.example", 5, "none")
    anonymous = Facts(principal=None, request=member.request, now=0.0)
    figures = {
        "median_us_typical": median_us(typical, member, "allow"),
        "median_us_typical_5000_groups": median_us(typical, facts("alice@example.com", 5000, "eng"), "allow"),
        "median_us_typical_denied": median_us(typical, stranger, "deny", 5_000),
        "median_us_typical_sign_in": median_us(typical, anonymous, "sign-in"),
        "median_us_50_rules": median_us(fifty, facts("user49-199@example.com", 5, "none"), "allow", 2_000),
        "median_us_50_rules_denied": median_us(fifty, stranger, "deny", 500),
    }
    for name, value in figures.items():
        print(f"{name:32} {value:9.3f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
