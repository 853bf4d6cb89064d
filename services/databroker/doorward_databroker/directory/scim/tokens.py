"""Bearer tokens of directories that push, compared without telling how much was right.

What the operator keeps is a token, or better its keyed hash (``doorward directory token``), which opens nothing.
"""

import hashlib
import hmac
import secrets

from doorward.config.directory_settings import ScimConnection
from doorward.keys import bearer_hash

TOKEN_LIMIT = 4096
SHORTEST = 16
"""Characters; anything shorter could be guessed."""


class BearerTokens:
    """The accepted tokens of one directory. The key is this process's own and is written nowhere."""

    def __init__(self, connection: ScimConnection) -> None:
        self._connection = connection
        self._key = secrets.token_bytes(32)

    def accepts(self, header: str) -> bool:
        """Whether an ``Authorization`` header carries one of them. Read anew each time, so that a token can be exchanged.

        Raises:
            ConfigurationError: a token cannot be read.
        """
        scheme, _, presented = header.partition(" ")
        presented = presented.strip()
        if scheme.lower() != "bearer" or not presented or len(presented) > TOKEN_LIMIT:
            return False
        wanted = self._hash(presented)
        accepted = False
        for reference in self._connection.tokens:
            kept = reference.read().reveal()
            # All of them, always: which one it was is not to be told by the time that it takes.
            if kept.startswith(bearer_hash.PREFIX):
                accepted |= bearer_hash.matches(kept, presented)
            else:
                accepted |= len(kept) >= SHORTEST and hmac.compare_digest(self._hash(kept), wanted)
        return accepted

    def _hash(self, token: str) -> bytes:
        return hmac.new(self._key, token.encode(), hashlib.sha256).digest()
