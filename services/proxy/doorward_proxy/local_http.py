"""HTTP at the private socket of a process beside us: Envoy's admin interface, the guard's figures."""

import ssl
from pathlib import Path

import httpx

from doorward.errors import UnavailableError

_TIMEOUT_SECONDS = 2.0


class LocalHttp:
    """Asks one socket. Each call has a connection of its own."""

    def __init__(self, socket: Path, name: str) -> None:
        """``name`` is who answers there, for errors."""
        self._socket = socket
        self._name = name
        # There is no TLS here; without this each call would read the system's authorities, which takes 20 ms.
        self._trusts_nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    async def call(self, method: str, target: str) -> str:
        """The text that is answered.

        Raises:
            UnavailableError: nothing, or an error.
        """
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket), verify=self._trusts_nobody)
        try:
            async with httpx.AsyncClient(
                transport=transport, base_url="http://beside", timeout=_TIMEOUT_SECONDS, trust_env=False
            ) as client:
                answer = await client.request(method, target)
                answer.raise_for_status()
                return answer.text
        except httpx.HTTPError as error:
            raise UnavailableError(f"{self._name} does not answer: {type(error).__name__}") from error
