"""What the bus carries besides records: that the lease of a load was given back. Pure.

On the wire: ``{"v":1,"fill":"<name of the lease>"}``. It has no position and moves none; one
that is lost costs those who wait half a second.
"""

from __future__ import annotations

from typing import Final

import orjson

ANNOUNCEMENT: Final = b'{"v":1,"fill":'
"""What an announcement begins with."""


def announcement(name: str) -> bytes:
    """Return the message that the lease `name` was given back."""
    return ANNOUNCEMENT + orjson.dumps(name) + b"}"


def announced(message: bytes) -> str | None:
    """Return the name that a message announces; None where it is no announcement."""
    if not message.startswith(ANNOUNCEMENT):
        return None
    try:
        name = orjson.loads(message)["fill"]
    except (orjson.JSONDecodeError, KeyError):
        return None
    return name if isinstance(name, str) else None
