"""Users' callables that are told what the cache does."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from .counter import Counter

logger = logging.getLogger("tiercast.monitoring")

EVENTS: Final = ("hit", "miss", "fill", "evict", "invalidate", "error")
BACKLOG: Final = 10_000
"""Events that may wait for the background thread; of more, the oldest are let go and counted."""


@dataclass(frozen=True, slots=True)
class CacheEvent:
    """One thing that happened.

    Attributes:
        event: "hit", "miss", "fill", "evict", "invalidate" or "error".
        region, scope, key: what it happened to; empty where it was no single entry.
        tier: "local", "disk" or "remote"; where a hit was found, or what failed ("loader" for a loader).
        cause: why an entry was evicted ("size", "bytes", "expiry", "key", "tag", …), or the kind of an invalidation.
        position: an invalidation's place in the log; None for the rest.
        targets: what an invalidation names. origin: the process that appended it.
        error: what was raised, where something was.
    """

    event: str
    region: str = ""
    scope: str = ""
    key: str = ""
    tier: str = ""
    cause: str = ""
    position: int | None = None
    targets: tuple[str, ...] = ()
    origin: str = ""
    error: BaseException | None = None


Listening = Callable[[CacheEvent], object]


class Listeners:
    """Who listens to what. Thread-safe.

    Each event's listeners stand in a tuple of their own, which is empty and costs one test
    where nobody listens. What happens under a lock is posted and told by a background
    thread (`flush`); everything else is told where it happens.
    """

    __slots__ = (
        "_lock",
        "_posted",
        "changed",
        "error",
        "errors",
        "evict",
        "fill",
        "hit",
        "invalidate",
        "lost",
        "miss",
        "wake",
    )

    def __init__(self) -> None:
        self.hit: tuple[Listening, ...] = ()
        self.miss: tuple[Listening, ...] = ()
        self.fill: tuple[Listening, ...] = ()
        self.evict: tuple[Listening, ...] = ()
        self.invalidate: tuple[Listening, ...] = ()
        self.error: tuple[Listening, ...] = ()
        self.errors = Counter()
        """Exceptions that listeners raised."""
        self.lost = Counter()
        """Events that nobody was told of, because too many waited."""
        self.changed: Callable[[], None] = lambda: None
        """Called when somebody began or ceased to listen."""
        self.wake: Callable[[], None] = lambda: None
        """Called when something was posted; must only set a flag."""
        self._posted: deque[CacheEvent] = deque(maxlen=BACKLOG)
        self._lock = threading.Lock()

    def add(self, **callables: Listening | None) -> Callable[[], None]:
        """Have callables told of events; returns what ends that.

        Args:
            callables: event to callable.

        Raises:
            TypeError: what was given is not callable.
        """
        given = {event: call for event, call in callables.items() if call is not None}
        for event, call in given.items():
            if not callable(call):
                raise TypeError(f"on_{event} must be callable with one CacheEvent, not {call!r}")
        with self._lock:
            for event, call in given.items():
                setattr(self, event, (*getattr(self, event), call))
        self.changed()

        def unsubscribe() -> None:
            with self._lock:
                for event in list(given):
                    left = list(getattr(self, event))
                    left.remove(given.pop(event))
                    setattr(self, event, tuple(left))
            self.changed()

        return unsubscribe

    def tell(self, event: CacheEvent) -> None:
        """Tell who listens now; what they raise is counted and logged. Call without any lock."""
        for call in getattr(self, event.event):
            try:
                call(event)
            except Exception as exc:
                self.errors.add()
                logger.warning(
                    "a listener of %s failed: %s", event.event, exc, exc_info=exc, extra={"event": event.event}
                )

    def post(self, event: CacheEvent) -> None:
        """Have an event told later, by `flush`; may be called under a lock."""
        if len(self._posted) >= BACKLOG:
            self.lost.add()
        self._posted.append(event)
        self.wake()

    def flush(self) -> None:
        """Tell what was posted."""
        posted = self._posted
        while posted:
            try:
                event = posted.popleft()
            except IndexError:  # another thread was quicker
                return
            self.tell(event)

    def forked(self) -> None:
        """Forget, in a forked child, the parent's lock and what the parent will tell."""
        self._lock = threading.Lock()
        self._posted.clear()


def event_of(event: str, address: Any, **more: Any) -> CacheEvent:
    """Make the event of one entry from its (region, scope, key)."""
    region, scope, key = address
    return CacheEvent(event, region, scope, key, **more)
