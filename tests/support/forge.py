"""Makes tokens with a deployment's own keys: what is wrong about them is then only what the test says."""

import time
from dataclasses import dataclass
from pathlib import Path

from doorward.keys.code import CodeSealer, OneTimeCode
from doorward.keys.flow import Flow, FlowSealer, SignInRequest, SignInSigner, new_flow
from doorward.keys.handle import HandleSealer, SessionHandle
from doorward.keys.sealed import Sealer
from doorward.keys.store import KeyStore, Purpose

LATE_SECONDS = 3600


@dataclass
class Forge:
    """Holds every key, which no single plane does."""

    data: Path

    def _sealer(self, purpose: Purpose) -> Sealer:
        return Sealer(KeyStore(self.data / "keys").keyring(purpose))

    def handle(
        self, session_id: str, host: str, *, expires_in: int = LATE_SECONDS, purpose: Purpose = Purpose.SESSION_HANDLE
    ) -> str:
        """A session handle; a negative ``expires_in`` makes one that was good a while ago."""
        return HandleSealer(self._sealer(purpose)).mint(
            SessionHandle(
                session_id=session_id, audience=host, expires_at=int(time.time()) + expires_in, epoch=0, number=0
            )
        )

    def flow(self, host: str, target: str = "/", *, seed: int = 1, age: int = 0) -> tuple[Flow, str]:
        """A flow that began ``age`` seconds ago, and its cookie."""
        flow = new_flow(target, time.time() - age, bytes([seed]) * 20)
        return flow, FlowSealer(self._sealer(Purpose.FLOW)).seal(flow, host)

    def code(self, session_id: str, host: str, flow: Flow, *, expires_in: int = 30) -> str:
        """A one-time code for ``flow``, of the epoch in which a new store is."""
        now = int(time.time())
        return CodeSealer(self._sealer(Purpose.ONE_TIME_CODE)).mint(
            OneTimeCode(
                session_id=session_id,
                session_expires_at=now + LATE_SECONDS,
                epoch=1,
                number=0,
                host=host,
                fingerprint=flow.fingerprint,
                expires_at=now + expires_in,
            )
        )

    def sign_in_query(self, authority: str, flow: Flow, *, expires_in: int = 600, purpose: str = "sign-in") -> str:
        """The query of a redirect to the sign-in host."""
        request = SignInRequest(
            authority=authority,
            fingerprint=flow.fingerprint,
            flow_name=flow.name,
            expires_at=int(time.time()) + expires_in,
            purpose=purpose,
        )
        return SignInSigner(KeyStore(self.data / "keys").keyring(Purpose.FLOW)).sign(request)
