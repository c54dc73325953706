"""`Serializer`: a codec, declared types, compression and the bound on size, put together for one tier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from ..errors import SerializationError
from .base import Codec, Dumped, Refusal, UnreadableValue
from .compression import Zstd, available
from .registry import codec_by_id, codec_of
from .types import restorer_of

MAX_VALUE_BYTES: Final = 64 * 1024 * 1024


class DumpedValue(Protocol):
    """A value as bytes: what `Dumped` and an envelope have in common."""

    codec: int
    compressed: bool
    payload: bytes


class Serializer:
    """Turns the values of one tier into bytes and back; thread-safe, without state.

    What `dump` took, `load` returns, equal and of the same type; what would not survive
    is refused by `dump`. (Pickle and users' own codecs are as good as their classes.)

    Args:
        codec: a name, "package.module:Class", a class or a codec (`registry.codec_of`).
        compress_above: payloads of more bytes are compressed; None: never.
        max_value_bytes: larger values are refused by `dump` and never unpacked by `load`.
        secret: what pickles are signed with.
        restore_type: the declared type of the values; codecs that keep types by themselves do not need it.
        require_compression: whether a missing extra is an error; else it means no compression.

    Raises:
        ConfigError: the codec is unknown, an extra is missing, the secret is missing, or the type cannot be restored.
    """

    __slots__ = ("_compress_above", "_keeps_types", "_max", "_others", "_restorer", "_zstd", "codec")

    def __init__(
        self,
        codec: object = "json",
        *,
        compress_above: int | None = 1024,
        max_value_bytes: int = MAX_VALUE_BYTES,
        secret: str | bytes | None = None,
        restore_type: Any = None,
        require_compression: bool = False,
    ) -> None:
        self.codec: Codec = codec_of(codec, secret)
        self._keeps_types = _keeps_types(self.codec)
        self._max = max_value_bytes
        self._zstd = Zstd() if require_compression else available()  # reading compressed values needs it in any case
        self._compress_above = None if self._zstd is None else compress_above
        self._restorer = None if restore_type is None else restorer_of(restore_type)
        pickle = None if secret is None else codec_of("pickle", secret)
        self._others = {} if pickle is None else {pickle.id: pickle}

    def dump(self, value: Any, as_type: Any = None) -> Dumped:
        """Return the value as bytes; `as_type` goes before the serializer's own type.

        Raises:
            SerializationError: the value would not come back equal and of the same type, or is too large;
                the message names the path inside it.
        """
        payload = self._encode(value, as_type)
        if len(payload) > self._max:
            raise SerializationError(
                f"value: {len(payload)} bytes as {self.codec.name}, over max_value_bytes ({self._max})"
            )
        above = self._compress_above
        if above is not None and self._zstd is not None and len(payload) > above:
            compressed = self._zstd.compress(payload)
            if len(compressed) < len(payload):
                return Dumped(self.codec.id, True, compressed)
        return Dumped(self.codec.id, False, payload)

    def check(self, value: Any, as_type: Any = None) -> None:
        """Refuse what `dump` would refuse, and do nothing else.

        Raises:
            SerializationError: as `dump`.
        """
        size = len(self._encode(value, as_type))
        if size > self._max:
            raise SerializationError(f"value: {size} bytes as {self.codec.name}, over max_value_bytes ({self._max})")

    def load(self, codec: int, compressed: bool, payload: bytes, as_type: Any = None) -> Any:
        """Return the value of what `dump` returned, here or in another process.

        Args:
            codec: the id of the codec that made the payload; any known one is read, not only this serializer's.
            compressed: whether the payload is compressed.
            payload: the bytes.
            as_type: the type that the caller wants; it goes before the serializer's own.

        Raises:
            UnreadableValue: an unknown codec, bad data, too large, or the type accepts the value no longer.
            ConfigError: `as_type` is a type that cannot be restored.
        """
        reader = self._reader(codec)
        restorer = self._restorer if as_type is None else restorer_of(as_type)
        try:
            if compressed:
                if self._zstd is None:
                    raise UnreadableValue("compressed, and there is no zstd: pip install 'tiercast[zstd]'")
                payload = self._zstd.decompress(payload, self._max)
            value = reader.decode(payload)
            if restorer is None:
                return value
            return restorer.accept(value) if _keeps_types(reader) else restorer.restore(value)
        except UnreadableValue:
            raise
        except Exception as exc:  # codecs and classes are users' code, the bytes anyone's: whatever it is, a miss
            raise UnreadableValue(f"{reader.name}: {type(exc).__name__}: {exc}") from exc

    def load_one(self, dumped: DumpedValue, as_type: Any = None) -> Any:
        """Return the value of one; what `load` would have raised where it cannot be read."""
        try:
            if as_type is None and self._restorer is None and not dumped.compressed and dumped.codec == self.codec.id:
                return self.codec.decode(dumped.payload)
        except Exception:  # noqa: BLE001, S110  `load` says what it is
            pass
        try:
            return self.load(dumped.codec, dumped.compressed, dumped.payload, as_type)
        except UnreadableValue as exc:
            return exc

    def load_many(self, dumped: Sequence[DumpedValue], as_type: Any = None) -> list[Any]:
        """`load_one` of each."""
        return [self.load_one(each, as_type) for each in dumped]

    def _encode(self, value: Any, as_type: Any) -> bytes:
        restorer = self._restorer if as_type is None else restorer_of(as_type)
        try:
            if restorer is None:
                payload = self.codec.encode(value)
            elif self._keeps_types:
                payload = self.codec.encode(restorer.accept(value))
            else:
                payload = self.codec.encode(restorer.lower(value))
        except Refusal as refusal:
            # Not from the refusal itself: its traceback has as many frames as the value has levels.
            raise SerializationError(refusal.described(value, self.codec.name)) from refusal.__cause__
        except Exception as exc:  # codecs and classes are users' code
            raise SerializationError(
                f"value: cannot be kept by {self.codec.name}: {type(exc).__name__}: {exc}"
            ) from exc
        if type(payload) is not bytes:
            raise SerializationError(f"value: serializer {self.codec.name} made {type(payload).__name__}, not bytes")
        return payload

    def _reader(self, identifier: int) -> Codec:
        if identifier == self.codec.id:
            return self.codec
        found = self._others.get(identifier) or codec_by_id(identifier)
        if found is None:
            raise UnreadableValue(f"unknown codec {identifier}")
        return found

    def __repr__(self) -> str:
        return f"Serializer({self.codec.name!r})"


def _keeps_types(codec: Codec) -> bool:
    return bool(getattr(codec, "keeps_types", False))
