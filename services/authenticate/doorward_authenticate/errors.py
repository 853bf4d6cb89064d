"""What can go wrong in a sign-in.

SignInError                    (DoorwardError)
├── ProviderUnavailableError   the identity provider does not answer, or answers nonsense: try again later
├── ProviderRefusedError       it answered with an error of its own: the person was not signed in
├── TokenRejectedError         what it sent does not verify: never a reason to go on
├── RevokedMeanwhileError      the person's sessions were ended while the sign-in was under way
├── OtherPersonError           whoever signed in to confirm a session is not the person whose session it is
└── NotStrongerError           the same person, but not as freshly or strongly as was asked for
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


class RevokedMeanwhileError(SignInError):
    """Somebody has ended the person's sessions since the sign-in began; it counts for them too."""


class OtherPersonError(SignInError):
    """A session can only be confirmed by the person whose it is."""


class NotStrongerError(SignInError):
    """The new sign-in does not satisfy what was asked for."""
