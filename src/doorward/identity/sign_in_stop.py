"""Marks that a revoke leaves for sign-ins that are under way: whoever began before the mark gets no session.

A revoke ends the sessions that it finds. One that is stored a moment later would be missed: so the mark is stored before the
search, and a sign-in looks for marks after it has stored its session. Whichever comes second sees the other. What began before is
told by versions, not by clocks.
"""

RECORD_TYPE = "SignInStop"
LIFE_SECONDS = 600.0
"""Longer than any sign-in takes from the identity provider's answer to its session."""
ALL = "all"


def of_user(user_id: str) -> str:
    """The mark's id when the sessions of a user are ended."""
    return f"user/{user_id}"


def of_provider(identity_provider_id: str) -> str:
    """The mark's id when the sessions of an identity provider are ended."""
    return f"provider/{identity_provider_id}"
