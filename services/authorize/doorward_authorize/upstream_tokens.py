"""The identity provider's tokens for headers that ask for them, from the replica; nothing is fetched while a check waits.

A session of which nothing is known, or whose token has run out, has none: such a header is not sent.
"""

from collections.abc import Callable
from typing import TypeAlias

import structlog

from doorward.clock import Clock
from doorward.errors import DataCorruptedError
from doorward.identity.upstream_token import RECORD_TYPE, UpstreamToken
from doorward.route.header_template import Variable
from doorward_authorize.principal import Credential, Principal

Get: TypeAlias = Callable[[str, str], bytes | None]
ProviderTokens: TypeAlias = tuple[tuple[Variable, str], ...]
"""Those that somebody has now; never logged."""

_log = structlog.stdlib.get_logger(__name__)


class UpstreamTokens:
    """Answers from the replica."""

    def __init__(self, get: Get, clock: Clock) -> None:
        """``get`` finds the payload of a live record by type and id."""
        self._get = get
        self._clock = clock

    def of(self, principal: Principal, wanted: frozenset[Variable]) -> ProviderTokens:
        """Of the tokens that a route wants, those that somebody has."""
        if principal.credential is not Credential.COOKIE:
            return ()
        data = self._get(RECORD_TYPE, principal.session.id)
        if data is None:
            return ()
        try:
            token = UpstreamToken.from_bytes(data)
        except DataCorruptedError as error:
            _log.error("a session's upstream token cannot be read", session_id=principal.session.id, error=str(error))
            return ()
        now = self._clock.now()
        held = ((Variable.ACCESS_TOKEN, token.access_token_at(now)), (Variable.ID_TOKEN, token.id_token_at(now)))
        return tuple((variable, text) for variable, text in held if variable in wanted and text is not None)
