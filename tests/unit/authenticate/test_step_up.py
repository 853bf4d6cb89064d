"""What a step-up asks of an identity provider, and which sign-in is what was asked for."""

from dataclasses import replace

import pytest
from tests.support.key_material import keyring

from doorward.config.settings import IdentityProviderSettings
from doorward.errors import InvalidTokenError
from doorward.identity.session import Session
from doorward.keys.flow import SignInRequest, WantedStepUp
from doorward.keys.sealed import Sealer
from doorward.keys.secret import Secret
from doorward.keys.store import Purpose
from doorward_authenticate.errors import NotStrongerError
from doorward_authenticate.identity_providers.claims import Authentication, authentication_from
from doorward_authenticate.identity_providers.id_token import VerifiedClaims
from doorward_authenticate.pending import PendingSealer, new_pending
from doorward_authenticate.step_up import authorization_parameters, check_claims, is_satisfied, stepped_seconds

NOW = 1_800_000_000.0
PROVIDER = IdentityProviderSettings(
    id="corp", name="Corp", issuer="https://idp.example.com", client_id="c", client_secret=Secret("s"), scopes=("openid",),
    signing_algorithms=("RS256",), email_domains=None, groups_claim=None,
    method_classes=(("otp", "mfa"), ("hwk", "phr")),
)  # fmt: skip
WANTED = WantedStepUp(session_id="0" * 32)


@pytest.mark.parametrize(
    ("wanted", "insist", "parameters"),
    [
        ({"max_age_seconds": 900}, False, {"max_age": "810"}),
        ({"max_age_seconds": 1}, False, {"max_age": "0", "prompt": "login"}),
        ({"methods": ("hwk", "otp")}, False, {"acr_values": "mfa phr"}),
        ({"methods": ("face",)}, False, {"prompt": "login"}),
        ({"methods": ("otp",), "context_classes": ("gold", "mfa")}, False, {"acr_values": "gold mfa"}),
        ({"max_age_seconds": 60, "methods": ("otp",)}, True, {"max_age": "54", "acr_values": "mfa", "prompt": "login"}),
    ],
)
def test_what_the_identity_provider_is_asked_for(wanted, insist, parameters):
    assert authorization_parameters(replace(WANTED, **wanted), PROVIDER, insist=insist) == parameters


HOW = Authentication(authenticated_at=NOW - 59, methods=("pwd", "otp"), context_class="mfa", provider_session_id="")


@pytest.mark.parametrize(
    ("wanted", "how", "good"),
    [
        ({"max_age_seconds": 60}, {}, True),
        ({"max_age_seconds": 59}, {}, False),
        ({"max_age_seconds": 60}, {"authenticated_at": None}, False),
        ({"methods": ("hwk", "otp")}, {}, True),
        ({"methods": ("hwk",)}, {}, False),
        ({"methods": ("pwd",)}, {"methods": ()}, False),
        ({"context_classes": ("mfa", "phr")}, {}, True),
        ({"context_classes": ("phr",)}, {}, False),
        ({"context_classes": ("mfa",)}, {"context_class": ""}, False),
        ({"max_age_seconds": 60, "methods": ("otp",), "context_classes": ("mfa",)}, {}, True),
        ({"max_age_seconds": 60, "methods": ("otp",), "context_classes": ("phr",)}, {}, False),
    ],
)
def test_only_a_sign_in_as_wanted_counts(wanted, how, good):
    step_up, done = replace(WANTED, **wanted), replace(HOW, **how)
    session = Session(
        id="s", user_id="u", identity_provider_id="corp", issued_at=NOW, expires_at=NOW + 60,
        authenticated_at=done.authenticated_at, methods=done.methods, context_class=done.context_class,
    )  # fmt: skip
    assert is_satisfied(step_up, session, NOW) is good
    if good:
        check_claims(step_up, done, NOW)
    else:
        with pytest.raises(NotStrongerError):
            check_claims(step_up, done, NOW)


@pytest.mark.parametrize("claims", [{}, {"auth_time": "1800000000"}, {"auth_time": True}], ids=str)
def test_a_sign_in_of_unknown_age_is_not_called_fresh(claims):
    """An identity provider with a session of its own signs people in without asking them for anything."""
    assert authentication_from(VerifiedClaims(claims)).authenticated_at is None


def test_time_that_passes_is_no_circle():
    assert stepped_seconds(WANTED) == 60
    assert stepped_seconds(replace(WANTED, max_age_seconds=5)) == 5


@pytest.mark.parametrize("step_up", [None, WANTED, replace(WANTED, max_age_seconds=60, methods=("otp",))])
def test_what_is_wanted_survives_the_trip(step_up):
    request = SignInRequest(
        authority="a.example.com", fingerprint=b"f" * 32, flow_name="n", expires_at=9,
        purpose="sign-in" if step_up is None else "step-up", step_up=step_up,
    )  # fmt: skip
    sealer = PendingSealer(Sealer(keyring(Purpose.PENDING_SIGN_IN)))
    pending = new_pending("corp", request, NOW)
    opened = sealer.open(pending.cookie_name, sealer.seal(pending), pending.state, NOW)
    assert opened == pending
    with pytest.raises(InvalidTokenError):
        sealer.open(pending.cookie_name, sealer.seal(pending), pending.state[:-1] + "!", NOW)
