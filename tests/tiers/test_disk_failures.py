"""A disk that fails never raises into a read: it is counted, warned of once, and tried again later."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tiercast.plans import drive
from tiercast.testing import FakeClock
from tiercast.testing.tier_contract import EPOCH, make_envelope
from tiercast.tiers import disk_bytes, disk_store
from tiercast.tiers.base import Guard, Put
from tiercast.tiers.disk import DiskTier
from tiercast.tiers.entry import Address

KEY = Address("region", "", "key")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def tier(tmp_path, clock):
    tier = DiskTier(tmp_path / "cache", clock=clock)
    drive(tier.drop(EPOCH, 10))
    put(tier)
    yield tier
    drive(tier.close())


def put(tier, born=10, **changes):
    return drive(tier.put_if_newer(KEY, make_envelope(KEY, tier.clock, born, **changes), Guard()))


def read(tier):
    return drive(tier.get_many([KEY], EPOCH))


def everything_fails(tier):
    """Every operation answers, and none raises."""
    seen = make_envelope(KEY, tier.clock, 10)
    assert put(tier) is Put.FAILED
    assert read(tier).failed
    assert drive(tier.get_many([KEY, Address("region", "", "other")], EPOCH)).failed
    assert tier.applied() == ("", 0)
    assert drive(tier.apply(EPOCH, 10, [(*KEY, 11)], 11)) is False
    assert drive(tier.bury(KEY, EPOCH, 11, 1.0)) is False
    assert drive(tier.renew(KEY, seen, seen)) is False
    assert drive(tier.remove([KEY], EPOCH)) == 0
    assert drive(tier.scan(EPOCH)) == (-1, [])
    assert drive(tier.usage()) is None
    assert drive(tier.expire()) == 0
    assert drive(tier.prepare()) is False
    drive(tier.drop(EPOCH, 99))
    return True


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def make_corrupt(tier, how):
    path = Path(tier.store.database.path)
    drive(tier.close())
    if how == "foreign":
        path.write_bytes(b"this is no database" * 1000)
    elif how == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    else:
        data = bytearray(path.read_bytes())
        data[4096:] = b"\xff" * (len(data) - 4096)
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["foreign", "truncated", "scribbled"])
def test_a_corrupt_file_is_set_aside(tier, clock, caplog, how):
    """It costs misses and one warning; after a second the tier begins anew, and the old file is kept."""
    make_corrupt(tier, how)
    reading = read(tier)
    assert (reading.found, reading.failed) == ({}, True)
    assert everything_fails(tier)
    assert len(warnings_of(caplog)) == 1
    clock.advance(2)
    assert tier.applied() == ("", 0)
    drive(tier.drop(EPOCH, 12))
    assert put(tier, 12) is Put.STORED
    assert list(read(tier).found) == [KEY]
    assert Path(f"{tier.store.database.path}.corrupt").exists()
    assert ["begins anew" in text for text in warnings_of(caplog)] == [False, True]


def test_a_file_that_goes_bad_while_it_is_open(tier, clock, caplog):
    """What is scribbled over under an open connection fails or misses, never raises, and heals."""
    path = Path(tier.store.database.path)
    for number in range(200):
        address = Address("region", "", str(number))
        drive(tier.put_if_newer(address, make_envelope(address, clock, 10, payload=b"x" * 2000), Guard()))
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * (path.stat().st_size - 100))
    drive(tier.close())
    for _ in range(6):
        read(tier)
        put(tier)
        clock.advance(10)
    drive(tier.drop(EPOCH, 13))
    assert put(tier, 13) is Put.STORED
    assert list(read(tier).found) == [KEY]


def test_a_file_that_is_cut_to_nothing_while_it_is_open(tier, clock):
    """What idle threads have open does not keep it from being laid out anew, nor anybody waiting for a minute."""
    with ThreadPoolExecutor(1) as idle:
        assert list(idle.submit(read, tier).result().found) == [KEY]
        os.truncate(tier.store.database.path, 0)
        began = time.monotonic()
        for _ in range(3):
            read(tier)
            put(tier)
            clock.advance(10)
        drive(tier.drop(EPOCH, 13))
        assert put(tier, 13) is Put.STORED
        assert list(read(tier).found) == [KEY]
        assert time.monotonic() - began < 30


def test_what_another_process_has_open_is_not_waited_for(tier, clock, monkeypatch):
    """A file that was cut to nothing can be laid out when no other process has it open; until then each try is short."""
    monkeypatch.setattr(disk_store, "TIMEOUT", 0.05)
    path = tier.store.database.path
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM Cache').fetchall();"
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline()
        os.truncate(path, 0)
        began = time.monotonic()
        for _ in range(4):
            read(tier)
            put(tier)
            clock.advance(10)
        assert time.monotonic() - began < 30
        other.stdin.close()
        other.wait()
    drive(tier.drop(EPOCH, 13))
    assert put(tier, 13) is Put.STORED


def test_only_one_process_sets_a_corrupt_file_aside(tier, clock, tmp_path):
    """A process that notices later finds the new file in its place and uses that."""
    make_corrupt(tier, "foreign")
    read(tier)
    path = Path(tier.store.database.path)
    path.rename(tmp_path / "gone")
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE Sign (x)")
    other.commit()
    other.close()
    clock.advance(2)
    drive(tier.drop(EPOCH, 12))
    assert put(tier, 12) is Put.STORED
    other = sqlite3.connect(path)
    assert other.execute("SELECT count(*) FROM Sign").fetchone() == (0,)
    other.close()


def test_a_locked_database_fails_in_time_and_comes_back(tier, clock, caplog, monkeypatch):
    """A process that sits on the write lock costs one wait; then the tier is off until it is tried again."""
    blocker = sqlite3.connect(tier.store.database.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    try:
        assert list(read(tier).found) == [KEY]
        assert put(tier) is Put.FAILED
        failures = tier.store.failures.value
        assert everything_fails(tier)
        assert tier.store.failures.value == failures
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()
    assert read(tier).failed
    clock.advance(1.1)
    assert list(read(tier).found) == [KEY]
    assert put(tier) is Put.STORED
    assert len(warnings_of(caplog)) == 1
    assert "database is locked" in warnings_of(caplog)[0]


def test_a_full_disk(tier, clock, caplog):
    """Where nothing more can be written the tier is off, what it held is served again afterwards, and no file is left over."""
    directory = Path(tier.store.directory)
    before = sorted(directory.rglob("*.val"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(tier.store.database.path).stat().st_size // 2, limits[1]))
    try:
        assert put(tier, payload=b"x" * 500_000) is Put.FAILED
        assert everything_fails(tier)
        clock.advance(1.5)
        read(tier)
        clock.advance(10)
        read(tier)
        assert put(tier) is Put.FAILED
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    clock.advance(60)
    assert list(read(tier).found) == [KEY]
    assert put(tier, payload=b"x" * 500_000) is Put.STORED
    assert len(sorted(directory.rglob("*.val"))) == len(before) + 1
    assert len(warnings_of(caplog)) == 1


def test_a_database_that_cannot_be_written(tier, clock, caplog, monkeypatch):
    """Read-only: one warning however often it is tried, and it heals."""
    real = disk_bytes.BytesCache.set

    def refuse(self, *args, **kwargs):
        raise sqlite3.OperationalError("attempt to write a readonly database")

    monkeypatch.setattr(disk_bytes.BytesCache, "set", refuse)
    assert put(tier) is Put.FAILED
    assert everything_fails(tier)
    monkeypatch.setattr(disk_bytes.BytesCache, "set", real)
    clock.advance(1.1)
    assert put(tier) is Put.STORED
    assert len(warnings_of(caplog)) == 1
    assert "readonly" in warnings_of(caplog)[0]


@contextmanager
def read_only(directory):
    """A directory in which nothing can be written: without rights, or for root, who needs none, mounted so."""
    if os.geteuid() == 0:
        if subprocess.run(["mount", "--bind", directory, directory], check=False).returncode:
            pytest.skip("root may write everywhere, and may not mount here")
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True)
            yield
        finally:
            subprocess.run(["umount", "-l", directory], check=True)
        return
    for path in directory.iterdir():
        path.chmod(0o400)
    directory.chmod(0o500)
    try:
        yield
    finally:
        directory.chmod(0o700)
        for path in directory.iterdir():
            path.chmod(0o600)


def test_a_read_only_directory(tmp_path, tier, clock, caplog):
    """A directory that can no longer be written to is a failing disk, until it can be again."""
    drive(tier.close())
    with read_only(tmp_path / "cache"):
        assert everything_fails(tier)
    clock.advance(60)
    assert list(read(tier).found) == [KEY]


def test_a_directory_that_is_removed_is_made_anew(tmp_path, tier, clock):
    """The threads whose connections are on the removed file come over to the new one, whichever tries first."""

    def elsewhere(work, *args):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(work, *args).result()

    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").mkdir(mode=0o700)  # as the disk log does
    assert elsewhere(read, tier).failed  # a new thread finds an empty file
    clock.advance(60)
    drive(tier.drop(EPOCH, 10))  # this thread's connection was on the removed one
    assert put(tier) is Put.STORED
    assert list(elsewhere(read, tier).found) == list(read(tier).found) == [KEY]


def test_a_directory_that_another_process_makes_anew_during_a_transaction(tmp_path, tier, clock):
    """One thread still writes to the file that is gone while another writes to the new one: neither raises."""
    store, begun, go_on = tier.store, threading.Event(), threading.Event()

    def slowly(execute):
        begun.set()
        assert go_on.wait(20)
        return execute("UPDATE TiercastPosition SET position = position").rowcount

    def quickly(execute):
        go_on.set()
        assert slow.result(20) == 1
        return execute("UPDATE TiercastPosition SET position = position").rowcount

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        slow = one.submit(store.transaction, slowly)
        assert begun.wait(20)
        shutil.rmtree(tmp_path / "cache")
        other = disk_store.DiskStore(store.directory, store.size_limit, clock)
        assert other.open()
        assert two.submit(store.transaction, quickly).result(20) == 1
        other.close()


def test_it_is_asked_less_and_less_often(tier, clock, monkeypatch):
    """The pause between two attempts doubles, up to four seconds."""
    opened = []
    monkeypatch.setattr(type(tier.store), "_open_cache", lambda self: opened.append(1) or _raise())
    tier.store.failed(OSError("broken"))
    attempts = []
    for _ in range(30):
        clock.advance(0.5)
        before = len(opened)
        read(tier)
        attempts.append(len(opened) - before)
    moments = [number / 2 + 0.5 for number, tried in enumerate(attempts) if tried]
    assert moments == [1.0, 3.0, 7.0, 11.0, 15.0]


def _raise():
    raise OSError("still broken")


def test_a_directory_that_turns_bad_is_a_failing_disk(tmp_path, tier, clock):
    """Refused when the tier is made, a directory is only a failing disk when it turns bad later."""
    drive(tier.close())
    (tmp_path / "cache").chmod(0o777)
    assert everything_fails(tier)
    (tmp_path / "cache").chmod(0o700)
    clock.advance(60)
    assert list(read(tier).found) == [KEY]
