"""What records are found under by what they say: read out of their payloads here, so that no plane can leave it out or say otherwise."""

from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from doorward.api.directory.v1 import directory_pb2
from doorward.api.user.v1 import user_pb2
from doorward.errors import DataCorruptedError

_Content = TypeVar("_Content", bound=Message)


def groups_of_entry(data: bytes) -> Sequence[str]:
    """Record ids of the groups that a directory entry is in, nested ones included.

    Raises:
        DataCorruptedError: it is no entry.
    """
    entry = _read(directory_pb2.DirectoryUser, data)
    return [f"{entry.directory_id}/{number}" for number in dict.fromkeys(entry.group_numbers)]


def callings_of_group(data: bytes) -> Sequence[str]:
    """What a directory's group is called: its id, name and address.

    Raises:
        DataCorruptedError: it is no group.
    """
    group = _read(directory_pb2.DirectoryGroup, data)
    return [text for text in dict.fromkeys((group.group_id, group.name, group.email)) if text]


def groups_of_user(data: bytes) -> Sequence[str]:
    """The groups that the identity provider named, if it named them all.

    Raises:
        DataCorruptedError: it is no user.
    """
    user = _read(user_pb2.User, data)
    return [name for name in dict.fromkeys(user.groups) if name] if user.groups_known else []


def _read(kind: type[_Content], data: bytes) -> _Content:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise DataCorruptedError(f"a `{kind.DESCRIPTOR.name}` record does not parse") from error
