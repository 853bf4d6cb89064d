"""Speaking to a Kubernetes API for somebody: the service account's token, and headers that name whom it speaks for.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation

The token without those headers would make whoever asks the service account itself, so the two go together or not at all.
"""

from pathlib import Path

import structlog

from doorward.clock import Clock
from doorward.errors import UnavailableError
from doorward.keys.secret import Secret
from doorward.route.internal import GROUP_HEADER
from doorward_authorize.principal import Principal

LOOK_AGAIN_SECONDS = 5.0
"""How long a token that was read is used before its file is looked at again; clusters replace it well before it ends."""
TOKEN_LIMIT_BYTES = 16 * 1024
GROUPS_LIMIT_BYTES = 16 * 1024
_SYSTEM = "system:"
"""Kubernetes' own names: nobody is made `system:masters` because some directory has a group of that name."""

Header = tuple[str, str]

_log = structlog.stdlib.get_logger(__name__)


class TokenFiles:
    """Tokens of service accounts, read when they are first needed and followed from then on.

    Concurrency: belongs to one event loop. A file is a few kilobytes, mounted by the cluster.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, tuple[int, int, int], Secret[str]]] = {}

    def read(self, path: str) -> str:
        """The token in a file.

        Raises:
            UnavailableError: it cannot be read, or holds no token.
        """
        now = self._clock.monotonic()
        known = self._known.get(path)
        if known is not None and now < known[0]:
            return known[2].reveal()
        try:
            looks = Path(path).stat()
            mark = (looks.st_mtime_ns, looks.st_size, looks.st_ino)
            is_known = known is not None and known[1] == mark
            token = known[2] if known is not None and is_known else Secret(_token(Path(path).read_bytes()))
        except (OSError, ValueError) as error:
            self._known.pop(path, None)
            _log.error("a Kubernetes service-account token cannot be read", path=path, reason=type(error).__name__)
            raise UnavailableError("the token of the Kubernetes service account cannot be read") from None
        self._known[path] = (now + LOOK_AGAIN_SECONDS, mark, token)
        return token.reveal()


def impersonation(principal: Principal | None, token: str) -> list[Header]:
    """The headers that let a service account speak for ``principal``; groups are joined by commas, and Envoy takes them apart.

    Raises:
        UnavailableError: nobody is signed in, or their groups do not fit: half of them would say something else.
    """
    if principal is None:
        raise UnavailableError("nobody is signed in for whom the service account could speak")
    user = principal.facts.email or principal.user.id
    groups = [group for group in sorted(principal.facts.groups or ()) if _may_be_named(group)]
    if sum(len(group) for group in groups) > GROUPS_LIMIT_BYTES:
        raise UnavailableError("somebody is in more groups than fit into headers")
    headers = [("authorization", f"Bearer {token}"), ("impersonate-user", user)]
    return [*headers, (GROUP_HEADER, ",".join(groups))] if groups else headers


def _may_be_named(group: str) -> bool:
    """Whether a group can be told as it is called; Kubernetes decodes nothing, so what would need it is left out."""
    return (
        bool(group)
        and all(" " <= character <= "~" for character in group)
        and group == group.strip()
        and "," not in group
        and not group.lower().startswith(_SYSTEM)
    )


def _token(data: bytes) -> str:
    text = data.decode("ascii").strip()
    if not text or len(text) > TOKEN_LIMIT_BYTES or any(not "!" <= character <= "~" for character in text):
        raise ValueError("not a token")
    return text
