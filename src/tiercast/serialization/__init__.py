"""Values to bytes and back: one codec a file, and `Serializer`, which puts them to use."""

from __future__ import annotations

from .base import Codec, Dumped, Refusal, UnreadableValue
from .serializer import Serializer
from .types import Restorer

__all__ = ["Codec", "Dumped", "Refusal", "Restorer", "Serializer", "UnreadableValue"]
