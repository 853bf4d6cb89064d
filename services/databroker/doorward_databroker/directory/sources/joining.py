"""What joins an entry to a person, as the sign-in will compute it from claims."""

from collections.abc import Callable, Mapping

from doorward.config.directory_settings import DirectorySettings
from doorward.identity.address import canonical_email
from doorward_databroker.directory.port import DirectoryRefusedError

Join = Callable[[str, str], str]
"""Entry id and address to the joining value; empty when the entry has none."""


def join_of(settings: DirectorySettings, fixed: Mapping[str, str] | None = None) -> Join:
    """How entries of ``settings`` join. ``fixed`` are claims that are the same for all of them, such as a tenant.

    Raises:
        DirectoryRefusedError: the join needs a claim that this directory cannot tell.
    """
    if settings.joins_by_email:
        return lambda _, email: canonical_email(email) or ""
    known = fixed or {}
    names = settings.join.split("+")
    if sum(name not in known for name in names) != 1:
        raise DirectoryRefusedError(f"`{settings.id}` cannot tell `{settings.join}`; see `join`")
    return lambda entry_id, _: "\0".join(known.get(name, entry_id) for name in names)
