"""What a loader may say about the value it is loading, and what it may know. Pure."""

from __future__ import annotations

import contextvars
import enum
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from ..config import DEFAULT, Default


class NotModified(enum.Enum):
    """The type of `NOT_MODIFIED`."""

    NOT_MODIFIED = "NOT_MODIFIED"

    def __repr__(self) -> str:
        return "NOT_MODIFIED"


NOT_MODIFIED: Final = NotModified.NOT_MODIFIED
"""What a loader returns where the stale value that it was shown is still right."""


class LoadContext:
    """One load, as its loader sees it: `current_load()` inside the loader.

    It belongs to one load. A loader that runs in a worker thread sees the same object; what
    threads of the loader's own write to it at the same time is theirs to order.

    Attributes:
        key: the key that is being loaded; "" outside a load.
        ttl: how long the value stays fresh: seconds, a timedelta, None for "until invalidated",
            or DEFAULT for the region's. Assign to it.
        keep: assign False to hand the value to whoever waits for it and store it nowhere.
        stale: assign True where the value was computed from a stale input; it is then stale itself.
        has_stale: whether there is an older value that may still be served as grace.
        stale_value: that value; None where there is none. A loader that finds it still right
            returns `NOT_MODIFIED`, and it is stored anew.
    """

    __slots__ = ("_tags", "has_stale", "keep", "key", "stale", "stale_value", "ttl")

    def __init__(
        self,
        key: str = "",
        *,
        ttl: float | timedelta | Default | None = DEFAULT,
        tags: Iterable[str] = (),
        stale_value: Any = None,
        has_stale: bool = False,
    ) -> None:
        self.key = key
        self.ttl = ttl
        self.keep = True
        self.stale = False
        self.has_stale = has_stale
        self.stale_value = stale_value
        self._tags = list(tags)

    @property
    def tags(self) -> list[str]:
        """The tags that the value will carry: append to the list, or assign another iterable of str."""
        return self._tags

    @tags.setter
    def tags(self, tags: Iterable[str]) -> None:
        if isinstance(tags, str):
            message = f"tags must be several str, not the one string {tags!r}; append it instead"
            raise TypeError(message)
        self._tags = list(tags)

    def __repr__(self) -> str:
        return f"LoadContext({self.key!r}, ttl={self.ttl!r}, tags={self._tags!r}, keep={self.keep})"


_current: contextvars.ContextVar[LoadContext | None] = contextvars.ContextVar("tiercast_load", default=None)

_as_of: contextvars.ContextVar[Mapping[Any, Any] | None] = contextvars.ContextVar("tiercast_as_of", default=None)
NOWHERE: Final = ("", 0)
"""The position of who did not stand in the log yet: anything may have come since."""


def current_load() -> LoadContext:
    """Return the load that calls this function, to read from and write to.

    Outside a load (the undecorated function called by a test, say) it is one that nobody reads,
    so that a loader behaves the same in both places.
    """
    return _current.get() or LoadContext()


@contextmanager
def entered(context: LoadContext) -> Iterator[LoadContext]:
    """Make `context` what `current_load()` returns in this thread or task."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


@contextmanager
def as_of(positions: Mapping[Any, Any]) -> Iterator[None]:
    """Make what `positions` says of a manager what a `set` of it in this thread or task takes as its `as_of`."""
    token = _as_of.set(positions)
    try:
        yield
    finally:
        _as_of.reset(token)


def current_as_of(runtime: object) -> Any:
    """Return the position of a manager at the miss, inside a `save_to_cache` callback; None elsewhere."""
    positions = _as_of.get()
    return None if positions is None else positions.get(runtime, NOWHERE)
