"""The policy language: text in, decisions out. Pure: no input or output, nothing of Envoy or protobuf.

    nodes ── parser ──► tree ── checker ──► the same tree, found good
                          ├── compiler     closures for the decision path, after merging neighbours
                          ├── interpreter  the slow, obvious meaning; the oracle of the property tests
                          ├── explain      each criterion with its result and what it saw; remedies: what would help
                          └── printer      the canonical text, and so the digest

``criteria`` holds one file for each criterion; ``facts`` is all that a policy may look at; ``truth`` is the
three-valued logic that every consumer shares. What does not belong here: where facts come from, and what is answered.
"""

from doorward.policy.checker import check_policy
from doorward.policy.compiler import CompiledPolicy, compile_policy
from doorward.policy.decision import Decision, Effect, StepUp
from doorward.policy.explain import Explanation, explain_policy
from doorward.policy.facts import (
    ClientCertificateFacts,
    DeviceFacts,
    Facts,
    GrantFacts,
    PrincipalFacts,
    RequestFacts,
)
from doorward.policy.interpreter import interpret_policy
from doorward.policy.library import Library, read_sets
from doorward.policy.nodes import Dialect, Policy
from doorward.policy.parser import parse_policy
from doorward.policy.printer import print_policy

__all__ = [
    "ClientCertificateFacts",
    "CompiledPolicy",
    "Decision",
    "DeviceFacts",
    "Dialect",
    "Effect",
    "Explanation",
    "Facts",
    "GrantFacts",
    "Library",
    "Policy",
    "PrincipalFacts",
    "RequestFacts",
    "StepUp",
    "check_policy",
    "compile_policy",
    "explain_policy",
    "interpret_policy",
    "parse_policy",
    "print_policy",
    "read_sets",
]
