"""Tests that operators keep beside their policies, and how well those tests hold the policies.

    text ── suite ──► cases ── run ──► outcomes ──┬── coverage   which outcomes of which criterion were seen
                                                  └── mutation   which changes of the policy no case would notice

What belongs here: values in, values out. Files, colours, JUnit and JSON belong to ``doorward.cli``. A test file is data
only: nothing in it is evaluated, called or imported, whoever wrote it.
"""

from doorward.policy.testing.coverage import Branch, Coverage, measure_coverage
from doorward.policy.testing.mutation import Mutant, Mutation, mutate
from doorward.policy.testing.run import Outcome, run_case, run_cases
from doorward.policy.testing.suite import Case, Header, Suite, Target, Targets, read_header, read_suite

__all__ = [
    "Branch",
    "Case",
    "Coverage",
    "Header",
    "Mutant",
    "Mutation",
    "Outcome",
    "Suite",
    "Target",
    "Targets",
    "measure_coverage",
    "mutate",
    "read_header",
    "read_suite",
    "run_case",
    "run_cases",
]
