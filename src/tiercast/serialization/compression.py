"""zstd (extra ``zstd``; part of Python from 3.14 on): makes large payloads smaller."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from ..errors import ConfigError
from .base import UnreadableValue

LEVEL: Final = 1
"""The quickest of zstd's usual levels: a cache writes about as often as it reads over the network."""

_UNKNOWN: Final = 2**64 - 1
"""zstandard's word for a frame that does not state its size."""


class Zstd:
    """Compresses and decompresses; thread-safe (zstd's contexts are not, so each thread has its own).

    Raises:
        ConfigError: neither Python's own module nor the package zstandard is there.
    """

    def __init__(self) -> None:
        self._pair = _builtin() if sys.version_info >= (3, 14) else _zstandard()
        self._local = threading.local()

    def compress(self, data: bytes) -> bytes:
        """Return the data as one zstd frame that states its size."""
        return self._contexts()[0](data)

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Return what was compressed; no more than `limit` bytes are ever made of it.

        Raises:
            UnreadableValue: it is larger than that, does not state its size, or is no zstd frame.
        """
        try:
            return self._contexts()[1](data, limit)
        except UnreadableValue:
            raise
        except Exception as exc:  # the two packages have errors of their own
            raise UnreadableValue(f"cannot be decompressed: {exc}") from exc

    def _contexts(self) -> tuple[Callable[[bytes], bytes], Callable[[bytes, int], bytes]]:
        try:
            return self._local.contexts  # type: ignore[no-any-return]
        except AttributeError:
            contexts = self._local.contexts = self._pair()
            return contexts


_Pair = Callable[[], tuple[Callable[[bytes], bytes], Callable[[bytes, int], bytes]]]


def available() -> Zstd | None:
    """Return a Zstd, or None where the extra is not installed."""
    try:
        return Zstd()
    except ConfigError:
        return None


def _check(size: int, limit: int) -> None:
    if size == _UNKNOWN or size > limit:
        raise UnreadableValue(f"states a size of {size} bytes, over max_value_bytes ({limit})")


def _zstandard() -> _Pair:
    try:
        import zstandard
    except ImportError as exc:
        raise ConfigError("compression needs an extra: pip install 'tiercast[zstd]'") from exc

    def pair() -> tuple[Callable[[bytes], bytes], Callable[[bytes, int], bytes]]:
        compress = zstandard.ZstdCompressor(level=LEVEL).compress
        decompressor = zstandard.ZstdDecompressor()

        def decompress(data: bytes, limit: int) -> bytes:
            # The stated size is what gets allocated, whatever max_output_size says; so it is judged first.
            _check(zstandard.get_frame_parameters(data).content_size, limit)
            return decompressor.decompress(data, allow_extra_data=False)

        return compress, decompress

    return pair


def _builtin() -> _Pair:
    import importlib

    zstd: Any = importlib.import_module("compression.zstd")

    def pair() -> tuple[Callable[[bytes], bytes], Callable[[bytes, int], bytes]]:
        def compress(data: bytes) -> bytes:
            return zstd.compress(data, level=LEVEL)  # type: ignore[no-any-return]

        def decompress(data: bytes, limit: int) -> bytes:
            size = zstd.get_frame_info(data).decompressed_size
            _check(_UNKNOWN if size is None else size, limit)
            decompressor = zstd.ZstdDecompressor()  # one frame; zstd.decompress would go on with a second
            value: bytes = decompressor.decompress(data, max_length=limit + 1)
            if not decompressor.eof or decompressor.unused_data:
                raise UnreadableValue("is not exactly one zstd frame")
            return value

        return compress, decompress

    return pair
