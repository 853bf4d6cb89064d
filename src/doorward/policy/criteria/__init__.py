"""Every criterion of the language, in one explicit tuple; a new one is a file here and a line below.

    term (name, argument, matchers) ──► criterion.prepare ──► closure over the facts
                                   ├──► criterion.find    ──► truth and the value seen
                                   └──► criterion.next_change ──► when that may differ

What belongs here: what one criterion compares, how, and how it is written; parser, printer, editor schema and reference
follow from that. How criteria combine belongs to the compiler and the interpreter; where facts come from, to the planes.
"""

from doorward.policy.criteria.authentication import AUTHENTICATION
from doorward.policy.criteria.constant import ACCEPT, REJECT
from doorward.policy.criteria.http import CORS_PREFLIGHT, HTTP_HEADER, HTTP_HOST, HTTP_METHOD, HTTP_PATH, HTTP_QUERY
from doorward.policy.criteria.membership import CLAIM, GROUPS
from doorward.policy.criteria.network import SOURCE_IP
from doorward.policy.criteria.person import AUTHENTICATED_USER, DOMAIN, EMAIL, USER
from doorward.policy.criteria.port import Criterion
from doorward.policy.criteria.possession import CLIENT_CERTIFICATE, DEVICE, GRANT, INVALID_CLIENT_CERTIFICATE
from doorward.policy.criteria.record import RECORD
from doorward.policy.criteria.times import DATE, DAY_OF_WEEK, TIME_OF_DAY

CRITERIA: tuple[Criterion, ...] = (
    ACCEPT,
    REJECT,
    AUTHENTICATED_USER,
    USER,
    EMAIL,
    DOMAIN,
    GROUPS,
    CLAIM,
    AUTHENTICATION,
    GRANT,
    DEVICE,
    RECORD,
    HTTP_METHOD,
    HTTP_PATH,
    HTTP_HOST,
    HTTP_HEADER,
    HTTP_QUERY,
    CORS_PREFLIGHT,
    SOURCE_IP,
    CLIENT_CERTIFICATE,
    INVALID_CLIENT_CERTIFICATE,
    DATE,
    DAY_OF_WEEK,
    TIME_OF_DAY,
)
BY_NAME: dict[str, Criterion] = {criterion.name: criterion for criterion in CRITERIA}
