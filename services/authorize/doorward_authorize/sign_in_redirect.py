"""Sending a browser to the sign-in host, tied to itself by a flow cookie."""

import os
from collections.abc import Callable

from doorward.clock import Clock
from doorward.config.settings import Settings
from doorward.keys.flow import (
    LIFETIME_SECONDS,
    SIGN_IN,
    STEP_UP,
    FlowSealer,
    SignInRequest,
    SignInSigner,
    WantedStepUp,
    new_flow,
    oldest_beyond_limit,
)
from doorward.route.internal import SIGN_IN_PATH
from doorward.route.route import Route
from doorward_authorize.check_request import CheckedRequest

_RANDOM_BYTES = 20
_ATTRIBUTES = "Path=/; Secure; HttpOnly; SameSite=Lax"


class SignInRedirect:
    """Makes the redirect and its cookies."""

    def __init__(
        self, flows: FlowSealer, signer: SignInSigner, clock: Clock, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._flows = flows
        self._signer = signer
        self._clock = clock
        self._random = random

    def headers(
        self, request: CheckedRequest, route: Route, settings: Settings, step_up: WantedStepUp | None = None
    ) -> list[tuple[str, str]]:
        """``location`` and ``set-cookie`` headers for a browser that is to sign in for ``route``, again and stronger with ``step_up``."""
        flow = new_flow(request.target, self._clock.now(), self._random(_RANDOM_BYTES))
        query = self._signer.sign(
            SignInRequest(
                authority=route.authority,
                fingerprint=flow.fingerprint,
                flow_name=flow.name,
                expires_at=flow.expires_at,
                purpose=SIGN_IN if step_up is None else STEP_UP,
                step_up=step_up,
            )
        )
        sealed = self._flows.seal(flow, route.host)
        names = [name.decode("ascii", "replace") for name, _ in request.cookies]
        return [
            ("location", f"{settings.authenticate_origin}{SIGN_IN_PATH}?{query}"),
            ("set-cookie", f"{flow.name}={sealed}; {_ATTRIBUTES}; Max-Age={LIFETIME_SECONDS}"),
            *(("set-cookie", f"{name}=; {_ATTRIBUTES}; Max-Age=0") for name in oldest_beyond_limit(names)),
        ]
