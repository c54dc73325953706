"""JSON by orjson: the default below the process. See `tagged` for what plain JSON cannot say."""

from __future__ import annotations

from typing import Any, Final

import orjson

from .base import Refusal
from .tagged import ATOMS, MAX_DEPTH, Lowering, heighten, is_plain

_OPTIONS: Final = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
_TAGGED: Final = b" "
"""A payload with tagged forms begins with a space: still JSON to everyone else."""

_LOWERING: Final = Lowering()


class JsonCodec:
    """Values as JSON text; stateless and thread-safe."""

    id: Final = 1
    name: Final = "json"

    def encode(self, value: Any) -> bytes:
        # The walk finds what orjson would change without a word (tuples, NaN, UUIDs, enums), orjson what it cannot
        # write: keys that are not text, lone surrogates, integers beyond 64 bits.
        try:
            if is_plain(value, ATOMS, True, None):
                return orjson.dumps(value, option=_OPTIONS)
        except (TypeError, RecursionError):
            pass
        try:
            return _TAGGED + orjson.dumps(_LOWERING.lower(value), option=_OPTIONS)
        except (RecursionError, orjson.JSONEncodeError) as exc:
            raise Refusal(f"nested deeper than {MAX_DEPTH} levels, or inside itself") from exc

    def decode(self, data: bytes) -> Any:
        value = orjson.loads(data)
        return heighten(value) if data[:1] == _TAGGED else value
