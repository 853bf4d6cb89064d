"""``accept`` and ``reject``: always true, always false."""

from doorward.policy.criteria.port import Criterion, Finding, Operand
from doorward.policy.truth import Truth

ACCEPT = Criterion(
    name="accept",
    operand=Operand.NOTHING,
    summary="Holds always, also for people who are not signed in.",
    detail="A route that is public says so with it.",
    example="accept: true",
    cases="""
policy:
  - allow: {or: [{accept: true}]}
cases:
  - {effect: allow, reasons: [accept], rule: allow-1}
""",
    reads=frozenset(),
    success="accept",
    failure="accept",
    unknown="accept-unknown",
    in_ppl=True,
    prepare=lambda _: lambda _: Truth.TRUE,
    find=lambda _, __: Finding(Truth.TRUE, None),
)
REJECT = Criterion(
    name="reject",
    operand=Operand.NOTHING,
    summary="Never holds.",
    example="reject: true",
    cases="""
policy:
  - allow: {or: [{reject: true}]}
cases:
  - {principal: {}, effect: deny, reasons: [reject]}
""",
    reads=frozenset(),
    success="reject",
    failure="reject",
    unknown="reject-unknown",
    in_ppl=True,
    prepare=lambda _: lambda _: Truth.FALSE,
    find=lambda _, __: Finding(Truth.FALSE, None),
)
