"""diskcache confined to bytes: nothing is pickled, nothing is ever unpickled (CVE-2025-69872)."""

from __future__ import annotations

import re
import sqlite3
import threading
from pathlib import Path
from typing import Any

import diskcache
from diskcache.core import MODE_BINARY, MODE_RAW, UNKNOWN

from ..databases import Database

TIMEOUT = 1.0
"""Seconds that a transaction waits for another process's."""
FILENAME = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val")
"""What diskcache calls the files of large values; no row may make us open or remove another."""


class RefusedRow(Exception):  # noqa: N818  internal
    """A row that is not plain bytes of ours: pickled, of another type, or naming a file that is no cache file."""


class BytesDisk(diskcache.Disk):  # type: ignore[misc]  # untyped
    """diskcache's serialization without one: str keys, bytes values, and never pickle (CVE-2025-69872)."""

    def put(self, key: Any) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError(f"the disk tier's keys are str, not {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: Any) -> str:
        if not raw or type(key) is not str:
            raise RefusedRow(f"a key in pickle mode or of type {type(key).__name__}")
        return key

    def store(self, value: Any, read: bool, key: Any = UNKNOWN) -> tuple[int, int, str | None, bytes | None]:
        if type(value) is not bytes or read:
            raise TypeError(f"the disk tier stores bytes, not {type(value).__name__}")
        if len(value) < self.min_file_size:
            return 0, MODE_RAW, None, value
        filename, path = self.filename(key, value)
        try:
            self._write(path, iter((value,)), "xb")
        except BaseException:  # half a file would take up room for ever
            self.remove(filename)
            raise
        return len(value), MODE_BINARY, filename, None

    def fetch(self, mode: Any, filename: Any, value: Any, read: bool) -> bytes:
        if mode == MODE_RAW and filename is None and type(value) is bytes:
            return value
        if mode == MODE_BINARY and value is None and type(filename) is str and FILENAME.fullmatch(filename):
            return Path(self._directory, filename).read_bytes()
        raise RefusedRow(f"a row in mode {mode!r}")

    def remove(self, file_path: Any) -> None:
        if type(file_path) is str and FILENAME.fullmatch(file_path):
            super().remove(file_path)


class BytesCache(diskcache.Cache):  # type: ignore[misc]  # untyped
    """diskcache on connections of ours. Every use is inside a section that holds the thread's seat."""

    def __init__(self, database: Database, directory: str, **settings: Any) -> None:
        self._database = database
        self._mine = threading.local()
        super().__init__(directory, timeout=TIMEOUT, disk=BytesDisk, **settings)

    @property
    def _con(self) -> sqlite3.Connection:
        # diskcache reaches its connections by this property and nothing else. Its
        # own are closed neither before a fork nor by another thread.
        return self._database.open(self._database.seat())

    @property
    def _txn_id(self) -> int | None:
        """Which thread is in a transaction, as diskcache notes it: this one, or none.

        It keeps one for all threads, since a file has one writer. Where the directory was replaced, one thread may
        still write to the old file while another writes to the new one, and an assertion would end the former's read.
        """
        return getattr(self._mine, "transaction", None)

    @_txn_id.setter
    def _txn_id(self, thread: int | None) -> None:
        self._mine.transaction = thread

    def close(self) -> None:
        """Do nothing: connections belong to the database."""
