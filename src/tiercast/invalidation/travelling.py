"""Events of the users' domain as they travel on the bus. Pure.

On the wire: ``{"v":1,"event":"user.updated","payload":{"id":"123"},"origin":"billing"}``. A
message without a position: it moves nothing in the log, and whoever does not know it passes
over it. Any service may publish one (docs/protocol.md); only `event` is required.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from ..errors import InvalidationError

RESERVED: Final = "tiercast."
"""What the names of tiercast's own events begin with; users' events are not named so."""
MOST_BYTES: Final = 64 * 1024
"""The longest message: the bus is made for records, and everybody reads everything."""


@dataclass(frozen=True, slots=True)
class DomainEvent:
    """Something that happened.

    Attributes:
        name: for example "user.updated". payload: about what; from the bus it is plain JSON.
        origin: the process that sent it; "" where it said nothing.
    """

    name: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""


def encode_event(event: DomainEvent) -> bytes:
    """Return the message of an event.

    Raises:
        InvalidationError: the payload is not of JSON (and UUIDs and times, which become text), or is too long.
    """
    fields = {"v": 1, "event": event.name, "payload": event.payload, "origin": event.origin}
    try:
        message = orjson.dumps(fields)
    except TypeError as exc:
        raise InvalidationError(f"event {event.name!r} cannot travel: its payload is not JSON ({exc})") from None
    if len(message) > MOST_BYTES:
        raise InvalidationError(f"event {event.name!r} cannot travel: {len(message)} bytes are more than {MOST_BYTES}")
    return message


def decode_event(message: bytes) -> DomainEvent | None:
    """Return the event that a message is; None where it is none. Never raises."""
    if len(message) > MOST_BYTES:
        return None
    try:
        fields = orjson.loads(message)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(fields, dict):
        return None
    name, payload, origin = fields.get("event"), fields.get("payload"), fields.get("origin")
    payload = {} if payload is None else payload
    if not isinstance(name, str) or not name or not isinstance(payload, dict) or fields.get("v", 1) != 1:
        return None
    return DomainEvent(name, payload, origin if isinstance(origin, str) else "")
