"""What can go wrong in a sign-in.

SignInError                    (DoorwardError)
├── ProviderUnavailableError   the identity provider does not answer, or answers nonsense: try again later
├── ProviderRefusedError       it answered with an error of its own: the person was not signed in
└── TokenRejectedError         what it sent does not verify: never a reason to go on
"""

from doorward.errors import DoorwardError


class SignInError(DoorwardError):
    """A sign-in did not succeed; the text is for the log."""


class ProviderUnavailableError(SignInError):
    """The identity provider cannot be used now."""


class ProviderRefusedError(SignInError):
    """The identity provider did not sign the person in."""


class TokenRejectedError(SignInError):
    """A token, or what belongs to it, does not verify."""
