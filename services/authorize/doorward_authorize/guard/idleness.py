"""Whether nobody uses a session any more, as far as all authorizers together know."""

import structlog

from doorward.identity.session import Session
from doorward_authorize.metrics import AuthorizeMetrics
from doorward_authorize.principals import NOTHING, PendingError, Principals

_log = structlog.stdlib.get_logger(__name__)


async def is_idle(principals: Principals, session: Session, metrics: AuthorizeMetrics) -> bool:
    """Ask once; what cannot be learned, for whatever reason, counts as idle."""
    try:
        learned = await principals.find_out(PendingError(session=session), NOTHING)
    except Exception as error:
        metrics.failures.inc()
        _log.error("no answer whether a session is idle", error=str(error), exc_info=True)
        return True
    return learned.idle is not False
