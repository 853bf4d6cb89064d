"""What authorize is given of a session's tokens: those that a route asks for, for as long as they last."""

from collections.abc import Set as AbstractSet

from doorward.identity.upstream_token import RECORD_TYPE, UpstreamToken
from doorward.records.record import Record, Write
from doorward.route.header_template import Variable
from doorward_authenticate.session_life.tokens import KeptTokens


def upstream_writes(kept: KeptTokens, wanted: AbstractSet[Variable]) -> list[Write]:
    """The write of what routes ask for; none at all where they ask for nothing."""
    if not wanted:
        return []
    tokens = kept.tokens
    ends = tokens.claims.get("exp")
    given = UpstreamToken(
        session_id=kept.session_id,
        access_token=tokens.access_token if Variable.ACCESS_TOKEN in wanted else "",
        access_expires_at=tokens.access_expires_at,
        id_token=tokens.id_token if Variable.ID_TOKEN in wanted else "",
        id_expires_at=float(ends) if isinstance(ends, int | float) and not isinstance(ends, bool) else None,
    )
    record = Record(type=RECORD_TYPE, id=kept.session_id, data=given.to_bytes(), expires_at=kept.session_ends_at)
    return [Write(record=record)]
