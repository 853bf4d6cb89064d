"""Every criterion of the language, in one explicit tuple; a new one is a file here and a line below.

    term (name, argument, matchers) ──► criterion.prepare ──► closure over the facts
                                   └──► criterion.find    ──► truth and the value seen

What belongs here: what one criterion compares, and how. How criteria combine belongs to the compiler and the
interpreter; where facts come from, to the planes.
"""

from doorward.policy.criteria.constant import ACCEPT, REJECT
from doorward.policy.criteria.http import HTTP_METHOD, HTTP_PATH
from doorward.policy.criteria.membership import CLAIM, GROUPS
from doorward.policy.criteria.person import AUTHENTICATED_USER, DOMAIN, EMAIL, USER
from doorward.policy.criteria.port import Criterion

CRITERIA: tuple[Criterion, ...] = (
    ACCEPT,
    REJECT,
    AUTHENTICATED_USER,
    USER,
    EMAIL,
    DOMAIN,
    GROUPS,
    CLAIM,
    HTTP_METHOD,
    HTTP_PATH,
)
BY_NAME: dict[str, Criterion] = {criterion.name: criterion for criterion in CRITERIA}
