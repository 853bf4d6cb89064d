"""``policies`` and ``sets`` of the configuration: what routes refer to by name."""

from doorward.policy import Library, Policy, check_policy, parse_policy, read_sets
from doorward.policy.library import NamedSet
from doorward.source import Mapping, Node, Problems


def read_library(document: Mapping, problems: Problems) -> Library:
    """What ``document`` defines; a name with errors is there, and breaks each route that uses it."""
    written_sets, written_policies = document.get("sets"), document.get("policies")
    sets: dict[str, NamedSet | None] = read_sets(written_sets, problems) if written_sets is not None else {}
    policies: dict[str, Policy | None] = {}
    if written_policies is None:
        return Library(sets=sets)
    if not isinstance(written_policies, Mapping):
        problems.error(written_policies.position, "expected policies by name", "`staff: [{allow: …}]`")
        return Library(sets=sets)
    for key, value in written_policies.entries:
        policies[str(key.value)] = _policy(value, Library(policies=dict(policies), sets=sets), problems)
    return Library(policies=policies, sets=sets)


def _policy(node: Node, above: Library, problems: Problems) -> Policy | None:
    """One policy, which may use those that stand above it."""
    found = Problems()
    policy = parse_policy(node, found, above)
    if not found.has_errors:
        check_policy(policy, found)
    problems.extend(found.all)
    return None if found.has_errors else policy
