"""``accept`` and ``reject``: always true, always false."""

from doorward.policy.criteria.port import Criterion, Finding, Operand
from doorward.policy.truth import Truth

ACCEPT = Criterion(
    name="accept",
    operand=Operand.NOTHING,
    summary="Holds always, also for people who are not signed in.",
    example="accept: true",
    reads=frozenset(),
    success="accept",
    failure="accept",
    unknown="accept-unknown",
    prepare=lambda _: lambda _: Truth.TRUE,
    find=lambda _, __: Finding(Truth.TRUE, None),
)
REJECT = Criterion(
    name="reject",
    operand=Operand.NOTHING,
    summary="Never holds.",
    example="reject: true",
    reads=frozenset(),
    success="reject",
    failure="reject",
    unknown="reject-unknown",
    prepare=lambda _: lambda _: Truth.FALSE,
    find=lambda _, __: Finding(Truth.FALSE, None),
)
