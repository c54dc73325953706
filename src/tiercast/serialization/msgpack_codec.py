"""MessagePack (extra ``msgpack``): smaller than JSON where values hold bytes or many numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ..errors import ConfigError
from .base import Refusal
from .tagged import ATOMS, MAX_DEPTH, Lowering, heighten, is_plain

_TAGGED: Final = b"\xc1"
"""The one byte that MessagePack never uses; it marks a payload with tagged forms."""

_ATOMS: Final[frozenset[type]] = ATOMS | {bytes}
_KEYS: Final[frozenset[type]] = _ATOMS | {float}
_LOWERING: Final = Lowering(native=frozenset({bytes, float}))


class MsgpackCodec:
    """Values as MessagePack; stateless and thread-safe.

    Raises:
        ConfigError: the package msgpack is not installed.
    """

    id: Final = 2
    name: Final = "msgpack"

    def __init__(self) -> None:
        try:
            import msgpack  # type: ignore[import-untyped]
        except ImportError as exc:
            raise ConfigError("the msgpack serializer needs an extra: pip install 'tiercast[msgpack]'") from exc
        self._pack: Callable[..., bytes] = msgpack.packb
        self._unpack: Callable[..., Any] = msgpack.unpackb

    def encode(self, value: Any) -> bytes:
        # As in json_codec; here the silent changes are bytearray and memoryview, which become bytes, also as keys.
        try:
            if is_plain(value, _ATOMS, False, _KEYS):
                return self._pack(value, strict_types=True)
        except (TypeError, ValueError, OverflowError, RecursionError):  # ValueError: lone surrogates
            pass
        try:
            return _TAGGED + self._pack(_LOWERING.lower(value), strict_types=True)
        except RecursionError as exc:
            raise Refusal(f"nested deeper than {MAX_DEPTH} levels, or inside itself") from exc

    def decode(self, data: bytes) -> Any:
        if data[:1] == _TAGGED:
            return heighten(self._unpack(memoryview(data)[1:], ext_hook=_refuse))
        return self._unpack(data, ext_hook=_refuse, strict_map_key=False)


def _refuse(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} is not one of tiercast's")
