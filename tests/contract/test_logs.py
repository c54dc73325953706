"""Every log passes the shipped contract suite."""

from __future__ import annotations

import pytest

from tiercast.coherence.disk_log import DiskLog
from tiercast.coherence.memory_log import MemoryLog
from tiercast.testing.log_contract import LogContract


class TestMemoryLog(LogContract):
    @pytest.fixture
    def make_log(self):
        log = MemoryLog()
        return lambda: log


class TestDiskLog(LogContract):
    @pytest.fixture
    def make_log(self, tmp_path):
        return lambda: DiskLog(tmp_path / "cache")


class TestDiskLogThatCarries(LogContract):
    @pytest.fixture
    def make_log(self, tmp_path):
        return lambda: DiskLog(tmp_path / "cache", carries=True)
