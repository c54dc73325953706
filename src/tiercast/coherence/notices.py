"""What the bus carries besides records: notices, which have no position and move none. Pure.

On the wire:

    {"v":1,"fill":"<name of a lease>"}              the load under that lease has ended
    {"v":1,"ask":{"epoch":"5f0c…","position":42}}   a barrier waits for whoever has not said that it is there

One that is lost costs those who wait half a second, or a heartbeat.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from .records import MAX_POSITION

ANNOUNCEMENT: Final = b'{"v":1,"fill":'
"""What an announcement begins with."""
QUESTION: Final = b'{"v":1,"ask":'
"""What a question begins with."""


def announcement(name: str) -> bytes:
    """Return the message that the lease `name` was given back."""
    return ANNOUNCEMENT + orjson.dumps(name) + b"}"


def announced(message: bytes) -> str | None:
    """Return the name that a message announces; None where it is no announcement."""
    name = _told(message, ANNOUNCEMENT, "fill")
    return name if isinstance(name, str) else None


def question(epoch: str, position: int) -> bytes:
    """Return the message that asks who has applied a position."""
    return QUESTION + orjson.dumps({"epoch": epoch, "position": position}) + b"}"


def questioned(message: bytes) -> tuple[str, int] | None:
    """Return (epoch, position) that a message asks for; None where it is no question."""
    asked = _told(message, QUESTION, "ask")
    if not isinstance(asked, dict):
        return None
    epoch, position = asked.get("epoch"), asked.get("position")
    if isinstance(epoch, str) and type(position) is int and 0 <= position < MAX_POSITION:
        return epoch, position
    return None


def _told(message: bytes, beginning: bytes, name: str) -> Any:
    if not message.startswith(beginning):
        return None
    try:
        return orjson.loads(message)[name]
    except (orjson.JSONDecodeError, KeyError):
        return None
