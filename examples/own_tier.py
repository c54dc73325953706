"""A tier of your own: three plain methods that keep bytes, here in one SQLite table."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from pathlib import Path

from tiercast import CacheConfig, CacheManager, DistributedCacheConfig


class SqliteStore:
    """Keeps bytes by key. Called from any thread, one at a time; what it raises is counted and never reaches a reader."""

    def __init__(self, path: Path | str) -> None:
        self.rows = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.rows.execute("CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value BLOB, ends REAL)")

    def __del__(self) -> None:
        self.rows.close()

    def get(self, key: str) -> bytes | None:
        row = self.rows.execute("SELECT value, ends FROM kept WHERE key = ?", (key,)).fetchone()
        return row[0] if row and (row[1] is None or time.time() < row[1]) else None

    def set(self, key: str, value: bytes, ttl: float | None) -> None:
        self.rows.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", (key, value, ttl and time.time() + ttl))

    def delete(self, key: str) -> None:
        self.rows.execute("DELETE FROM kept WHERE key = ?", (key,))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        tier = DistributedCacheConfig(type=SqliteStore(f"{directory}/kept.sqlite3"))
        with CacheManager(CacheConfig(local=None, distributed=tier)) as cache:
            cache.set("capital:KZ", "Astana")
            print("from the tier below:", cache.get("capital:KZ"))
