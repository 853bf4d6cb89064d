"""Bearer tokens of directories that push: kept as keyed hashes, compared without telling how much was right."""

import hashlib
import hmac
import secrets

from doorward.config.directory_settings import ScimConnection

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
            token = reference.read().reveal()
            # All of them, always: which one it was is not to be told by the time that it takes.
            accepted |= len(token) >= SHORTEST and hmac.compare_digest(self._hash(token), wanted)
        return accepted

    def _hash(self, token: str) -> bytes:
        return hmac.new(self._key, token.encode(), hashlib.sha256).digest()
