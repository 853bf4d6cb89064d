"""What is legal but wrong: found before anybody is let in by it.

    reach      rules that never hold, always hold, add nothing, or are kept from holding
    spelling   values that are compared otherwise than their author thinks
    identity   who somebody is, taken from what nobody verified
    known      groups, claims and domains that do not exist, once it is known which do

Warnings never change what a policy means. What is certain is said as certain; a policy that passes is not proven right.
"""

from doorward.policy.checker.identity import check_identity
from doorward.policy.checker.known import Known, check_known
from doorward.policy.checker.reach import check_reach
from doorward.policy.checker.spelling import check_spelling
from doorward.policy.nodes import Policy
from doorward.source import Problems

__all__ = ["Known", "check_known", "check_policy"]


def check_policy(policy: Policy, problems: Problems) -> None:
    """Record warnings about ``policy``, which parsed without errors."""
    check_reach(policy, problems)
    check_identity(policy, problems)
    check_spelling(policy, problems)
