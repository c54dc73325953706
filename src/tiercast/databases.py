"""SQLite connections that survive threads and forks: one a thread, closed around every fork.

Why a fork needs this. SQLite keeps, per process and file, the state of its locks. A
child inherits that state while the locks themselves stay with the parent: a
connection that the child opens *anew* then finds "database is locked" for ever if a
thread of the parent was in a transaction, or writes into a log that the parent has
removed. (sqlite.org/howtocorrupt.html, 2.6; tests/tiers/test_disk_fork.py shows it.)
The only cure is that no connection of the file is open while the process forks.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable

logger = logging.getLogger("tiercast.databases")

FORK_PATIENCE = 5.0
"""Seconds that a fork waits for other threads to leave their transactions."""


class ForkedInsideTransaction(sqlite3.OperationalError):
    """This process was forked while a connection of the file was in use; it must not touch the file."""


class Seat:
    """One thread's place at a database. Hold `lock` while using `connection`; a fork takes it away in between."""

    __slots__ = ("__weakref__", "connection", "generation", "lock", "pid")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connection: sqlite3.Connection | None = None
        self.generation = 0
        self.pid = os.getpid()

    def close(self) -> None:
        """Close the connection. Call with `lock` held, or from the seat's own end."""
        connection, self.connection = self.connection, None
        if connection is None:
            return
        if self.pid != os.getpid():
            leak(connection)
            return
        try:
            connection.close()
        except sqlite3.Error as exc:
            logger.warning("a database connection could not be closed: %s", exc)

    def __del__(self) -> None:
        self.close()


class Database:
    """The connections of this process to one SQLite file.

    Thread-safe. A thread sits down with `seat()`, holds the seat's lock and calls
    `open(seat)`, which costs an attribute and a pid check where the connection is open.

    Args:
        path: the file.
        prepare: called with each new connection.
        timeout: seconds that a statement waits for another process's lock.
        forked: called in a forked child, before anything else uses the database there.
    """

    def __init__(
        self,
        path: str,
        prepare: Callable[[sqlite3.Connection], None],
        timeout: float,
        forked: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self.unusable = ""
        """Why this process must not touch the file; empty: it may."""
        self.generation = 0
        """Counts up where open connections are not to be trusted: the file may be another by now."""
        self._prepare = prepare
        self._timeout = timeout
        self.forked = forked
        self._local = threading.local()
        self._seats: weakref.WeakSet[Seat] = weakref.WeakSet()
        self._seating = threading.Lock()
        self._held: list[Seat] = []
        self._touched = False
        """Whether a connection may be open."""
        _watch_forks()
        _databases.add(self)

    def seat(self) -> Seat:
        """Return this thread's seat."""
        try:
            seat: Seat = self._local.seat
        except AttributeError:
            seat = Seat()
            with self._seating:
                self._seats.add(seat)
            self._local.seat = seat
        return seat

    def open(self, seat: Seat) -> sqlite3.Connection:
        """Return the seat's connection. Call with the seat's lock held.

        Raises:
            sqlite3.Error: the file cannot be opened.
            ForkedInsideTransaction: this process was forked at a bad moment.
        """
        connection = seat.connection
        if connection is not None and seat.generation == self.generation and seat.pid == os.getpid():
            return connection
        return self._open(seat)

    def renew(self) -> None:
        """Have every thread open the file anew at its next use, when it is in no transaction. Waits for nobody."""
        self.generation += 1

    def close(self) -> None:
        """Close every thread's connection once it is not in use; they open again when used."""
        for seat in self._all():
            with seat.lock:
                seat.close()

    def _open(self, seat: Seat) -> sqlite3.Connection:
        generation = self.generation
        if seat.connection is not None and seat.pid == os.getpid():
            if seat.connection.in_transaction:
                return seat.connection
            seat.close()
        if seat.connection is not None:
            # Forked by something that does not run Python's hooks.
            leak(seat.connection)
            seat.connection = None
            self.unusable = "the process was forked behind Python's back (no os.fork) while the database was open"
        if self.unusable:
            raise ForkedInsideTransaction(self.unusable)
        self._touched = True
        connection = sqlite3.connect(
            self.path, timeout=self._timeout, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        seat.connection, seat.pid, seat.generation = connection, os.getpid(), generation
        return connection

    def _all(self) -> list[Seat]:
        with self._seating:
            return list(self._seats)

    # -- forks ------------------------------------------------------------------------------

    def _before_fork(self) -> None:
        """Take every seat, waiting for who is in a transaction, and close its connection; by the forking thread."""
        self._seating.acquire()
        own = getattr(self._local, "seat", None)
        seats = list(self._seats)
        until = time.monotonic() + FORK_PATIENCE
        for seat in seats:
            # The forking thread's own seat is taken only where it forks inside its own transaction.
            if seat.lock.acquire(timeout=0.0 if seat is own else max(0.0, until - time.monotonic())):
                seat.close()
                self._held.append(seat)
        if len(self._held) == len(seats):
            self._touched = False

    def _after_fork_in_parent(self) -> None:
        while self._held:
            self._held.pop().lock.release()
        self._touched = True
        self._seating.release()

    def _after_fork_in_child(self) -> None:
        if self._touched:
            self.unusable = "it was open while the process forked, in a transaction or by a fork without Python's hooks"
            logger.warning("%s is not used in this process: %s", self.path, self.unusable, extra={"path": self.path})
        for seat in list(self._seats):
            if seat.connection is not None:
                leak(seat.connection)
                seat.connection = None
        self._held.clear()
        self._local = threading.local()
        self._seats = weakref.WeakSet()
        self._seating = threading.Lock()
        self.forked()


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_forking: list[Database] = []
_leaked: list[sqlite3.Connection] = []
_watching = False


def leak(connection: sqlite3.Connection) -> None:
    """Keep an inherited connection from ever being closed: closing it would meddle with the parent's locks and log."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
    _leaked.append(connection)


def _watch_forks() -> None:
    """Register the hooks; not at import but with the first database, so that they run before those of whoever made it.

    (A fork runs the hooks that were registered last first. The owner's hook holds the ledger's
    lock, which a transaction that this one waits for may need.)
    """
    global _watching  # noqa: PLW0603  registering cannot be undone
    if _watching or not hasattr(os, "register_at_fork"):  # Windows does not fork
        return
    _watching = True
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def _before_fork() -> None:
    _forking[:] = _databases
    for database in _forking:
        database._before_fork()


def _after_fork_in_parent() -> None:
    while _forking:
        _forking.pop()._after_fork_in_parent()


def _after_fork_in_child() -> None:
    _forking.clear()
    for database in list(_databases):
        database._after_fork_in_child()
