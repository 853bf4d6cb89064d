"""Other engines with policies of the same meaning, prepared as far as each allows. Dependencies: the group ``bench``.

Each engine runs in a process of its own: two of them bring the same C++ symbols and end each other. Long lists are data
beside the policy, hashed where the engine can.
"""

import json
import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One question."""

    email: str
    groups: tuple[str, ...]
    method: str
    path: str

    @property
    def domain(self) -> str:
        return self.email.rpartition("@")[2]


MINUTE = 12 * 60
"""Of the day: noon."""
Lists = Sequence[tuple[list[str], list[str]]]
Decide = Callable[[], bool]


@dataclass(frozen=True)
class Engine:
    """``prepare`` takes the case and its lists, and gives a function from a question to a decision."""

    name: str
    prepare: Callable[[str, Lists], Callable[[Asked], Decide]]


def _maps(lists: Lists) -> dict[str, dict[str, bool]]:
    """The lists as hashed data beside the policy: faster in every engine than literals in it."""
    found = {f"emails{n}": dict.fromkeys(emails, True) for n, (emails, _) in enumerate(lists)}
    return found | {f"groups{n}": dict.fromkeys(groups, True) for n, (_, groups) in enumerate(lists)}


def _cedar(kind: str, lists: Lists) -> Callable[[Asked], Decide]:
    import cedarpy

    if kind == "typical":
        text = """
        forbid(principal, action, resource)
          when { principal in Group::"suspended" || principal.email == "mallory@example.com" };
        permit(principal, action, resource)
          when { principal.domain == "example.com" && principal in Group::"admins" };
        permit(principal, action, resource)
          when { principal.domain == "example.com" && principal in Group::"eng"
                 && ["GET", "HEAD"].contains(context.method) && context.path like "/reports/*"
                 && context.minute >= 480 && context.minute < 1200 };
        """
    else:
        text = "\n".join(
            f"permit(principal, action, resource) when {{ resource.emails{n}.contains(principal.email)"
            f" || resource.groups{n}.containsAny(principal.groups) }};"
            for n in range(len(lists))
        )
    policies = cedarpy.PolicySet.from_str(text)

    def ask(asked: Asked) -> Decide:
        parents = [{"type": "Group", "id": group} for group in asked.groups]
        attributes = {"email": asked.email, "domain": asked.domain, "groups": list(asked.groups)}
        route = {f"emails{n}": emails for n, (emails, _) in enumerate(lists)}
        route |= {f"groups{n}": groups for n, (_, groups) in enumerate(lists)}
        entities = cedarpy.Entities.from_json_str(
            json.dumps(
                [
                    {"uid": {"type": "User", "id": "u"}, "attrs": attributes, "parents": parents},
                    {"uid": {"type": "Route", "id": "r"}, "attrs": route, "parents": []},
                ]
            )
        )
        request = {
            "principal": {"type": "User", "id": "u"},
            "action": {"type": "Action", "id": "get"},
            "resource": {"type": "Route", "id": "r"},
            "context": {"method": asked.method, "path": asked.path, "minute": MINUTE},
        }
        return lambda: bool(cedarpy.is_authorized(request, policies, entities).allowed)

    return ask


def _rego(kind: str, lists: Lists) -> Callable[[Asked], Decide]:
    from regopy import Interpreter

    head = "package bench\nimport rego.v1\ndefault allow := false\n"
    if kind == "typical":
        module = (
            head
            + """
        blocked if "suspended" in input.groups
        blocked if input.email == "mallory@example.com"
        permitted if { input.domain == "example.com"; "admins" in input.groups }
        permitted if {
          input.domain == "example.com"; "eng" in input.groups
          input.method in {"GET", "HEAD"}; startswith(input.path, "/reports/")
          input.minute >= 480; input.minute < 1200
        }
        allow if { permitted; not blocked }
        """
        )
    else:
        rules = []
        for number in range(len(lists)):
            rules.append(f"allow if data.lists.emails{number}[input.email]")
            rules.append(f"allow if {{ some one in input.groups; data.lists.groups{number}[one] }}")
        module = head + "\n".join(rules)
    builder = Interpreter()
    if kind != "typical":
        builder.add_data({"lists": _maps(lists)})
    builder.add_module("bench.rego", module)
    bundle = builder.build("allowed := data.bench.allow")

    def ask(asked: Asked) -> Decide:
        given = {
            "email": asked.email,
            "domain": asked.domain,
            "groups": list(asked.groups),
            "method": asked.method,
            "path": asked.path,
            "minute": MINUTE,
        }
        interpreter = Interpreter()
        interpreter.set_input(given)
        return lambda: '"allowed":true' in str(interpreter.query_bundle(bundle)).replace(" ", "")

    return ask


_CEL_TYPICAL = (
    '!("suspended" in groups || email == "mallory@example.com") && ('
    '(domain == "example.com" && "admins" in groups) || '
    '(domain == "example.com" && "eng" in groups && method in ["GET", "HEAD"] && path.startsWith("/reports/")'
    " && minute >= 480 && minute < 1200))"
)


def _cel_variables(kind: str, lists: Lists, asked: Asked) -> dict[str, Any]:
    return _variables(asked) | (_maps(lists) if kind != "typical" else {})


def _cel_text(kind: str, lists: Lists) -> str:
    if kind == "typical":
        return _CEL_TYPICAL
    return _balanced([f"(email in emails{n} || groups.exists(g, g in groups{n}))" for n in range(len(lists))])


def _balanced(rules: list[str]) -> str:
    """Joined as a tree: a chain of fifty is deeper than one of the parsers goes."""
    if len(rules) == 1:
        return rules[0]
    middle = len(rules) // 2
    return f"({_balanced(rules[:middle])} || {_balanced(rules[middle:])})"


def _variables(asked: Asked) -> dict[str, Any]:
    return {
        "email": asked.email,
        "domain": asked.domain,
        "groups": list(asked.groups),
        "method": asked.method,
        "path": asked.path,
        "minute": MINUTE,
    }


def _cel_cpp(kind: str, lists: Lists) -> Callable[[Asked], Decide]:
    from cel_expr_python import cel

    text = cel.Type("string")
    names = {"email": text, "domain": text, "method": text, "path": text, "groups": cel.Type.List(text)}
    names["minute"] = cel.Type("int")
    if kind != "typical":
        names |= dict.fromkeys(_maps(lists), cel.Type.Map(text, cel.Type("bool")))
    env = cel.NewEnv(variables=names)
    expression = env.compile(_cel_text(kind, lists))

    def ask(asked: Asked) -> Decide:
        activation = env.Activation(_cel_variables(kind, lists, asked))
        return lambda: expression.eval(activation).value() is True

    return ask


def _cel_rust(kind: str, lists: Lists) -> Callable[[Asked], Decide]:
    import cel

    program = cel.compile(_cel_text(kind, lists))

    def ask(asked: Asked) -> Decide:
        context = cel.Context(_cel_variables(kind, lists, asked))
        return lambda: program.execute(context) is True

    return ask


ENGINES = (
    Engine("cedar", _cedar),
    Engine("rego", _rego),
    Engine("cel c++", _cel_cpp),
    Engine("cel rust", _cel_rust),
)
BY_NAME = {engine.name: engine for engine in ENGINES}


def median_us(run: Callable[[], object], number: int, repeat: int = 9) -> float:
    runs = timeit.repeat(run, number=number, repeat=repeat)
    return round(statistics.median(runs) / number * 1e6, 3)


def measured(name: str, cases: Sequence[tuple[str, Asked, bool]], lists: Lists) -> list[float]:
    """Microseconds of each case, in a process of its own."""
    questions = [(kind, asked.__dict__, allowed) for kind, asked, allowed in cases]
    given = json.dumps({"name": name, "cases": questions, "lists": lists})
    done = subprocess.run(
        [sys.executable, "-m", "bench.policy_engines"], input=given, capture_output=True, text=True, check=True
    )
    found: list[float] = json.loads(done.stdout)
    return found


def main() -> None:
    given = json.load(sys.stdin)
    engine = BY_NAME[given["name"]]
    found = []
    for kind, asked, allowed in given["cases"]:
        decide = engine.prepare(kind, given["lists"])(Asked(**{**asked, "groups": tuple(asked["groups"])}))
        assert decide() is allowed, (engine.name, kind)
        once = timeit.timeit(decide, number=2) / 2
        found.append(median_us(decide, max(1, min(5_000, int(0.1 / once))), 7))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
