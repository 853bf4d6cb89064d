"""What a newer version wrote into a record, kept by an older one that changes it.

During an upgrade planes of two versions write the same records. What one of them does not know is carried along as bytes: appended to a
serialized message it is part of the message again.
"""

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet


def unknown_fields(message: Message) -> bytes:
    """The fields of ``message`` itself that this version does not know, serialized."""
    if not len(UnknownFieldSet(message)):
        return b""
    rest = type(message)()
    rest.CopyFrom(message)
    for field in message.DESCRIPTOR.fields:
        rest.ClearField(field.name)
    return rest.SerializeToString()
