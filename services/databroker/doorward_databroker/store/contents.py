"""What records are found under by what they say: read out of their payloads here, so that no plane can leave it out or say otherwise."""

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from doorward.api.directory.v1 import directory_pb2
from doorward.api.user.v1 import user_pb2
from doorward.errors import DataCorruptedError


def groups_of_entry(data: bytes) -> Sequence[str]:
    """Record ids of the groups that a directory entry is in, nested ones included.

    Raises:
        DataCorruptedError: it is no entry.
    """
    try:
        entry = directory_pb2.DirectoryUser.FromString(data)
    except DecodeError as error:
        raise DataCorruptedError("a directory user does not parse") from error
    return [f"{entry.directory_id}/{number}" for number in dict.fromkeys(entry.group_numbers)]


def callings_of_group(data: bytes) -> Sequence[str]:
    """What a directory's group is called: its id, name and address.

    Raises:
        DataCorruptedError: it is no group.
    """
    try:
        group = directory_pb2.DirectoryGroup.FromString(data)
    except DecodeError as error:
        raise DataCorruptedError("a directory group does not parse") from error
    return [text for text in dict.fromkeys((group.group_id, group.name, group.email)) if text]


def groups_of_user(data: bytes) -> Sequence[str]:
    """The groups that the identity provider named, if it named them all.

    Raises:
        DataCorruptedError: it is no user.
    """
    try:
        user = user_pb2.User.FromString(data)
    except DecodeError as error:
        raise DataCorruptedError("a user record does not parse") from error
    return [name for name in dict.fromkeys(user.groups) if name] if user.groups_known else []
