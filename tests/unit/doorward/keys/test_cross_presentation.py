"""Every kind of token presented to every opener: only its own opens it."""

import itertools
import urllib.parse

import pytest

from doorward.errors import InvalidTokenError
from doorward.keys.code import CodeSealer, OneTimeCode
from doorward.keys.flow import FlowSealer, SignInRequest, SignInSigner, flow_fingerprint, new_flow
from doorward.keys.handle import HandleSealer, SessionHandle
from doorward.keys.keyring import Key, Keyring
from doorward.keys.sealed import Sealer, from_text, to_text
from doorward.keys.store import Purpose

NOW = 1_800_000_000
HOST = "verify.example.com"
FLOW = new_flow("/", NOW, bytes(20))
REQUEST = SignInRequest(authority=HOST, fingerprint=FLOW.fingerprint, flow_name=FLOW.name, expires_at=NOW + 60)
SHARED = Key.from_bytes(b"one key copied over all others..")
"""The worst case: an operator gave every purpose the same key."""


def ring(purpose: Purpose) -> Keyring:
    return Keyring(purpose, [SHARED])


HANDLES = HandleSealer(Sealer(ring(Purpose.SESSION_HANDLE)))
FLOWS = FlowSealer(Sealer(ring(Purpose.FLOW)))
CODES = CodeSealer(Sealer(ring(Purpose.ONE_TIME_CODE)))
SIGNER = SignInSigner(ring(Purpose.FLOW))
SEALERS = {
    purpose: Sealer(ring(purpose)) for purpose in (Purpose.RECORDS, Purpose.PROVIDER_TOKENS, Purpose.PENDING_SIGN_IN)
}
QUERY = SIGNER.sign(REQUEST)
SIGNED = dict(urllib.parse.parse_qsl(QUERY))

TOKENS = {
    "handle": HANDLES.mint(
        SessionHandle(session_id="0" * 32, audience=HOST, expires_at=NOW + 60, epoch=0, number=0)
    ),
    "flow": FLOWS.seal(FLOW, HOST),
    "code": CODES.mint(
        OneTimeCode(
            session_id="0" * 32, session_expires_at=NOW + 60, epoch=0, number=0, host=HOST,
            fingerprint=flow_fingerprint(bytes(16)), expires_at=NOW + 30,
        )
    ),
    "query": QUERY,
    "signature": SIGNED["signature"],
    **{purpose.value: to_text(sealer.seal(bytes(40), b"")) for purpose, sealer in SEALERS.items()},
}  # fmt: skip
OPENERS = {
    "handle": lambda text: HANDLES.open(text, HOST, NOW),
    "flow": lambda text: FLOWS.open(FLOW.name, text, HOST, NOW),
    "code": CODES.open,
    "query": lambda text: SIGNER.verify(text, NOW),
    "signature": lambda text: SIGNER.verify(urllib.parse.urlencode({**SIGNED, "signature": text}), NOW),
    **{
        purpose.value: lambda text, sealer=sealer: sealer.open(from_text(text, 4096), b"")
        for purpose, sealer in SEALERS.items()
    },
}


@pytest.mark.parametrize("kind", OPENERS)
def test_each_opener_opens_its_own(kind):
    OPENERS[kind](TOKENS[kind])


@pytest.mark.parametrize(
    ("kind", "opener"), [pair for pair in itertools.product(TOKENS, OPENERS) if pair[0] != pair[1]]
)
def test_s73_a_token_of_one_kind_is_none_of_another(kind, opener):
    """A code that passed for a handle would be a session without a sign-in."""
    with pytest.raises(InvalidTokenError):
        OPENERS[opener](TOKENS[kind])
