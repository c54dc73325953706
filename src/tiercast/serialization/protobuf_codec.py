"""Protocol Buffers messages (extra ``protobuf``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..errors import ConfigError
from .base import Refusal, UnreadableValue, type_name

if TYPE_CHECKING:
    from google.protobuf.message import Message


class ProtobufCodec:
    """Messages as ``full.type.Name``, a zero byte, and the message's own bytes; None as nothing at all. Thread-safe.

    The type is found by its name among `types`, then in protobuf's default descriptor
    pool, where every imported generated module puts its messages. A process that has
    not imported the module does not know the type: a miss.

    Args:
        types: message classes of pools of their own, or to be sure that their modules are imported.

    Raises:
        ConfigError: the package protobuf is not installed, or one of `types` is no message class.
    """

    id: Final = 4
    name: Final = "protobuf"
    keeps_types: Final = True

    def __init__(self, *types: type[Message]) -> None:
        try:
            from google.protobuf import descriptor_pool, message, message_factory
        except ImportError as exc:
            raise ConfigError("the protobuf serializer needs an extra: pip install 'tiercast[protobuf]'") from exc
        self._message = message.Message
        self._pool = descriptor_pool.Default()
        self._class_of = message_factory.GetMessageClass
        for cls in types:
            if not (isinstance(cls, type) and issubclass(cls, message.Message)):
                raise ConfigError(f"serializer 'protobuf' takes message classes, not {cls!r}")
        self._types = {cls.DESCRIPTOR.full_name: cls for cls in types}

    def encode(self, value: Any) -> bytes:
        if value is None:
            return b""
        if not isinstance(value, self._message):
            raise Refusal(f"{type_name(type(value))} is no protobuf message")
        name = value.DESCRIPTOR.full_name
        try:
            known = self._lookup(name)
        except KeyError:
            known = None
        if known is not type(value):
            raise Refusal(f"message type {name} is not in the default descriptor pool; pass its class to ProtobufCodec")
        return b"%b\0%b" % (name.encode(), value.SerializeToString())

    def decode(self, data: bytes) -> Any:
        if not data:
            return None
        name, zero, body = data.partition(b"\0")
        if not zero:
            raise UnreadableValue("no message type in the payload")
        return self._lookup(name.decode()).FromString(body)

    def _lookup(self, name: str) -> type[Message]:
        known = self._types.get(name)
        return known or self._class_of(self._pool.FindMessageTypeByName(name))
