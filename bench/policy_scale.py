"""Ten thousand routes: compiling them, their memory, what a decision costs among them, and changing one."""

import gc
import time
import timeit
import tracemalloc

from doorward.policy import Facts, Policy, PrincipalFacts, RequestFacts, compile_policy, parse_policy
from doorward.policy.compiler import CompiledPolicy
from doorward.source import Problems, read_yaml

ROUTES = 10_000


def scale_figures() -> dict[str, float]:
    shared = [f"route{number % 20}" for number in range(ROUTES)]
    distinct = [f"route{number}" for number in range(ROUTES)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    compiled = compile_routes(parsed(shared))
    gc.collect()
    megabytes = (tracemalloc.get_traced_memory()[0] - before) / 1e6
    tracemalloc.stop()
    policies = parsed(shared)
    seconds = timed(lambda: compile_routes(policies))
    different = parsed(distinct)
    one = parsed(["changed"])[0]
    few = compile_routes(parsed(shared[:10]))
    return {
        "compile_s_10000": round(seconds, 4),
        "compile_s_10000_distinct": round(timed(lambda: compile_routes(different)), 3),
        "change_one_ms": round(timed(lambda: compile_policy(one)) * 1e3, 3),
        "memory_mb_10000": round(megabytes, 1),
        "ratio_routes_10000_to_10": round(among(compiled) / among(few), 3),
    }


def parsed(names: list[str]) -> list[Policy]:
    """A policy for each name; those of one name are one value, as with a named policy."""
    known: dict[str, Policy] = {}
    for name in dict.fromkeys(names):
        node = read_yaml(f"- allow: {{and: [{{domain: example.com}}, {{groups: {{has: [{name}, admins]}}}}]}}", name)
        assert node is not None
        problems = Problems()
        known[name] = parse_policy(node, problems)
        problems.raise_errors()
    return [known[name] for name in names]


def compile_routes(policies: list[Policy]) -> dict[str, CompiledPolicy]:
    """As the authorizer does: equal policies are compiled once."""
    known: dict[int, CompiledPolicy] = {}
    routes = {}
    for number, policy in enumerate(policies):
        found = known.get(id(policy))
        if found is None:
            found = known[id(policy)] = compile_policy(policy)
        routes[f"r{number}"] = found
    return routes


def among(routes: dict[str, CompiledPolicy]) -> float:
    """Microseconds for finding a route and deciding by it."""
    principal = PrincipalFacts(user_id="u", email="a@example.com", groups=frozenset({"eng", "admins"}))
    request = RequestFacts(method="GET", host="app.example.com", path="/")
    facts = Facts(principal=principal, request=request, now=0.0)
    names = [name for _, name in zip(range(10), reversed(routes), strict=False)]
    best = min(timeit.repeat(lambda: [routes[name].decide(facts) for name in names], number=2_000, repeat=9))
    return best / 2_000 / len(names) * 1e6


def timed(run) -> float:  # type: ignore[no-untyped-def]  # whatever is run
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
