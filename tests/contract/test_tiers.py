"""The tiers that come with tiercast, and a dictionary behind the adapter, keep the tier's contract."""

from __future__ import annotations

import sqlite3

from tiercast.keys import storage_key
from tiercast.plans import drive
from tiercast.testing import TierContract
from tiercast.tiers.adapter import SyncTier
from tiercast.tiers.disk import DiskTier


class TestDiskTier(TierContract):
    """L2. It needs no fences: who is behind its position writes nothing to it."""

    fences = False

    def make_tier(self, tmp_path, clock):
        return DiskTier(tmp_path / "cache", clock=clock)

    def arrive(self, tier, epoch, position):
        drive(tier.drop(epoch, position))

    def plant(self, tier, address, data):
        key = storage_key(*address)

        def plant(execute):
            execute("DELETE FROM Cache WHERE key = ?", (key,))
            tier.store.cache.set(key, data)

        tier.store.transaction(plant)


class DictStore:
    """As little as a user's own store can be."""

    def __init__(self):
        self.data = {}

    def get(self, key):
        return self.data.get(key)

    def set(self, key, value, ttl):
        self.data[key] = value

    def delete(self, key):
        self.data.pop(key, None)

    def keys(self):
        return self.data.keys()


class TestSyncTier(TierContract):
    """A user's own store, behind the adapter."""

    def make_tier(self, tmp_path, clock):
        return SyncTier(DictStore(), clock=clock)

    def plant(self, tier, address, data):
        tier.store.data[storage_key(*address)] = data


class SqliteStore:
    """A store that blocks, and that loses its connection when it is told to."""

    def __init__(self, path):
        self.connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.connection.execute("CREATE TABLE t (k TEXT PRIMARY KEY, v BLOB)")

    def get(self, key):
        row = self.connection.execute("SELECT v FROM t WHERE k = ?", (key,)).fetchone()
        return row and row[0]

    def set(self, key, value, ttl):
        self.connection.execute("REPLACE INTO t VALUES (?, ?)", (key, value))

    def delete(self, key):
        self.connection.execute("DELETE FROM t WHERE k = ?", (key,))


class TestSyncTierWithoutKeys(TierContract):
    """A store without `keys` serves and cannot be walked."""

    scans = False

    def make_tier(self, tmp_path, clock):
        self.store = SqliteStore(tmp_path / "own.db")
        return SyncTier(self.store, clock=clock)

    def teardown_method(self):
        self.store.connection.close()
