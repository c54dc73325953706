"""Protocol Buffers messages."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from tiercast.errors import ConfigError, SerializationError
from tiercast.serialization import Serializer, UnreadableValue
from tiercast.serialization.protobuf_codec import ProtobufCodec


def private_message():
    """A message class in a pool of its own."""
    file = descriptor_pb2.FileDescriptorProto(name="private.proto", package="private", syntax="proto2")
    message = file.message_type.add(name="Thing")
    message.field.add(name="a", number=1, type=5, label=2)  # a required int32
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("private.Thing"))


def test_messages_come_back_of_their_own_type():
    """By the name in the payload, or by the declared type."""
    struct = Struct()
    struct.update({"a": [1, "x", None]})
    for message in (StringValue(value="hi"), StringValue(), struct, Int64Value(value=-1)):
        for serializer in (Serializer("protobuf"), Serializer("protobuf", restore_type=type(message))):
            loaded = serializer.load(*serializer.dump(message))
            assert (type(loaded), loaded) == (type(message), message)


def test_nothing_is_kept_too():
    """`None` is cached where a loader found nothing."""
    serializer = Serializer("protobuf")
    assert serializer.load(*serializer.dump(None)) is None


def test_other_values_are_refused():
    """Also messages inside containers."""
    for value in (1, {"a": 1}, [StringValue()]):
        with pytest.raises(SerializationError, match="no protobuf message"):
            Serializer("protobuf").dump(value)


def test_a_message_of_another_type_than_asked_for_is_unreadable():
    """The region's type has changed: a miss."""
    dumped = Serializer("protobuf").dump(StringValue(value="x"))
    with pytest.raises(UnreadableValue):
        Serializer("protobuf").load(*dumped, as_type=Int64Value)


def test_messages_of_private_pools_need_their_class():
    """Without it they are refused when stored, not lost when read."""
    cls = private_message()
    with pytest.raises(SerializationError, match="pass its class"):
        Serializer("protobuf").dump(cls(a=1))
    serializer = Serializer(ProtobufCodec(cls))
    loaded = serializer.load(*serializer.dump(cls(a=1)))
    assert (type(loaded), loaded.a) == (cls, 1)
    with pytest.raises(SerializationError, match="required"):
        serializer.dump(cls())


@pytest.mark.parametrize(
    "payload", [b"x", b"\0", b"no.such.Type\0", b"\xff\0", b"google.protobuf.StringValue\0\xff\xff"]
)
def test_broken_payloads_are_unreadable(payload):
    """Unknown types and bad bytes are misses."""
    with pytest.raises(UnreadableValue):
        Serializer("protobuf").load(4, False, payload)


def test_only_message_classes_can_be_given():
    """Said when it is made."""
    with pytest.raises(ConfigError):
        ProtobufCodec(int)
