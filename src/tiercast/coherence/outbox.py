"""The outbox: invalidations made while the log is away, kept until the log has them.

A record that is replayed twice is harmless; one that is lost is not. So a row goes only after
the log has answered, whatever cannot be read becomes "everything", what does not fit any more
is replaced by "everything", and what the disk does not take waits in memory.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from .records import Draft, Kind, decode_logged, encode_draft, split, stamp

logger = logging.getLogger("tiercast.coherence")

MOST_ROWS: Final = 10_000
"""Records that wait at most; one more, and "everything" waits in the place of them all."""
MOST_BYTES: Final = 16 * 1024 * 1024
"""The same for the bytes they take."""
BATCH: Final = 100
"""Records that are replayed in one append."""
LEASE: Final = 15.0
"""Seconds after which a batch that nobody reported done may be claimed by another process."""
SPILLED: Final = "memory:"
"""What the tokens of claims on records in memory begin with."""
EVERYTHING: Final = Draft(Kind.ALL, "", ())


@dataclass(frozen=True, slots=True)
class Queued:
    """One record that waits; `token` names the claim by which it is being replayed."""

    id: int
    draft: Draft
    token: str


class Outbox(Protocol):
    """Where records wait, in order, while the log is away. Thread-safe; every method may wait for a disk."""

    def put(self, drafts: Sequence[Draft]) -> tuple[int, ...]:
        """Keep records and return their ids."""
        ...

    def waiting(self) -> bool:
        """Whether any record of this fleet waits, be it a sibling process's."""
        ...

    def claim(self) -> list[Queued]:
        """Return the oldest records, for this caller to replay; nothing where none wait or another replays them."""
        ...

    def done(self, batch: Sequence[Queued]) -> None:
        """Forget a claimed batch: the log has answered."""
        ...

    def release(self, batch: Sequence[Queued]) -> None:
        """Give a claimed batch back: the log has not answered."""
        ...

    @property
    def trouble(self) -> str:
        """Why it cannot be read or written at present; "" where it can."""
        ...

    def close(self) -> None:
        """Give back handles; what waits goes on waiting (in memory: as long as this process lives)."""
        ...


def outbox_at(directory: str | os.PathLike[str] | None, fleet: str) -> Outbox:
    """Return the durable outbox of a fleet in a directory, or one in memory where there is none."""
    if directory is None:
        return MemoryOutbox()
    from .disk_outbox import DiskOutbox

    return DiskOutbox(directory, fleet)


def boot_time() -> float:
    """Return seconds of the clock that every process of this host shares and that runs while it sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def encoded_drafts(drafts: Iterable[Draft]) -> Iterator[bytes]:
    """Encode drafts for keeping, cut so that each fits the log."""
    for draft in drafts:
        for part in split(draft) if draft.targets else [draft]:
            yield encode_draft(part)


def decoded_draft(data: object) -> Draft:
    """Return what `encoded_drafts` wrote; "everything" where it cannot be read."""
    record = decode_logged(stamp(data, "outbox", 1) if isinstance(data, bytes) else b"", "outbox", 1)
    return Draft(record.kind, record.region, record.targets, record.soft, record.origin, record.sent)


class MemoryOutbox:
    """An outbox that dies with its process."""

    trouble = ""

    def __init__(
        self, *, most: int = MOST_ROWS, most_bytes: int = MOST_BYTES, now: Callable[[], float] = boot_time
    ) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._now = now
        self._rows: dict[int, bytes] = {}
        self._bytes = 0
        self._ids = itertools.count(1)
        self._token = ""
        self._ends = float("-inf")
        self._lock = threading.RLock()
        register(self)

    def put(self, drafts: Sequence[Draft]) -> tuple[int, ...]:
        encoded = list(encoded_drafts(drafts))
        with self._lock:
            self._bytes += sum(map(len, encoded))
            if len(self._rows) + len(encoded) > self._most or self._bytes > self._most_bytes:
                logger.warning("the outbox is full: it replays as an invalidation of everything")
                self._rows.clear()
                encoded = [encode_draft(EVERYTHING)]
                self._bytes = len(encoded[0])
            ids = tuple(next(self._ids) for _ in encoded)
            self._rows.update(zip(ids, encoded, strict=True))
        return ids

    def waiting(self) -> bool:
        return bool(self._rows)

    def claim(self) -> list[Queued]:
        with self._lock:
            now = self._now()
            if not self._rows or (self._token and now < self._ends):
                return []
            self._token, self._ends = f"{SPILLED}{secrets.token_hex(8)}", now + LEASE
            rows = list(itertools.islice(self._rows.items(), BATCH))
            return [Queued(row, decoded_draft(data), self._token) for row, data in rows]

    def done(self, batch: Sequence[Queued]) -> None:
        with self._lock:
            for item in batch:
                self._bytes -= len(self._rows.pop(item.id, b""))
            self.release(batch)

    def release(self, batch: Sequence[Queued]) -> None:
        with self._lock:
            if batch and batch[0].token == self._token:
                self._token = ""

    def close(self) -> None:
        pass

    def before_fork(self) -> None:
        self._lock.acquire()

    def after_fork(self, *, child: bool) -> None:
        """Go on; in the child with a copy of what waits, for the two may part before it is replayed."""
        if child:
            self._lock = threading.RLock()
            self._token = ""
        else:
            self._lock.release()


class Forking(Protocol):
    """What has to be still while the process forks."""

    def before_fork(self) -> None: ...

    def after_fork(self, *, child: bool) -> None: ...


_open: weakref.WeakSet[Forking] = weakref.WeakSet()
_forks = threading.RLock()
"""Held from before a fork until after it, and while an outbox is entered here."""
_forking: Final[list[Forking]] = []


def register(outbox: Forking) -> None:
    """Have an outbox told of every fork, for as long as it lives."""
    with _forks:
        _open.add(outbox)


def _before_fork() -> None:
    _forks.acquire()
    _forking[:] = list(_open)
    for outbox in _forking:
        outbox.before_fork()


def _after_fork(*, child: bool) -> None:
    global _forks  # noqa: PLW0603  a lock does not survive a fork
    for outbox in _forking:
        outbox.after_fork(child=child)
    _forking.clear()
    if child:
        _forks = threading.RLock()
    else:
        _forks.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(child=False),
        after_in_child=lambda: _after_fork(child=True),
    )
