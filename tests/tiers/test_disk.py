"""The disk tier: position and order, bounds, bytes only, and where it may live."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tiercast.errors import ConfigError
from tiercast.keys import storage_key
from tiercast.plans import Blocking, drive
from tiercast.testing import FakeClock
from tiercast.testing.tier_contract import EPOCH, make_envelope
from tiercast.tiers.base import Guard, Put
from tiercast.tiers.disk import LATER, DiskTier
from tiercast.tiers.disk_directory import check_directory, file_system
from tiercast.tiers.entry import STALE, Address
from tiercast.tiers.envelope import pack

KEY = Address("region", "", "key")
OTHER = Address("region", "", "other")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def tier(tmp_path, clock):
    tier = DiskTier(tmp_path / "cache", clock=clock)
    drive(tier.drop(EPOCH, 10))
    yield tier
    drive(tier.close())


def put(tier, address=KEY, born=10, guard=None, **changes):
    return drive(tier.put_if_newer(address, make_envelope(address, tier.clock, born, **changes), guard or Guard()))


def found(tier, *addresses, epoch=EPOCH):
    return drive(tier.get_many(addresses or [KEY], epoch)).found


def record(address, position, *soft):
    return (*address, position, *soft)


# -- behind -------------------------------------------------------------------------------------


def later(tier, address=KEY, born=10, guard=None):
    return tier.put_later(address, make_envelope(address, tier.clock, born), guard or Guard())


def test_what_waits_is_there_for_whoever_looks(tmp_path, clock, tier):
    """Reads, walks and removals write first what waits, and so does closing: nobody sees that it waited."""
    put(tier)
    assert later(tier, OTHER)
    assert later(tier, KEY, 12)
    assert tier.get_now(KEY, EPOCH) is None
    assert found(tier)[KEY].born == 12
    assert later(tier, OTHER, 13)
    assert {address: envelope.born for address, envelope in drive(tier.scan(EPOCH))[1]} == {KEY: 12, OTHER: 13}
    assert later(tier, OTHER, 14)
    assert drive(tier.remove([OTHER], EPOCH)) == 1
    assert later(tier, OTHER, 15)
    drive(tier.close())
    again = DiskTier(tmp_path / "cache", clock=clock)
    assert found(again, KEY, OTHER).keys() == {KEY, OTHER}
    drive(again.close())


def test_what_waits_is_judged_when_it_is_written(tier):
    """Not when it was left: what an invalidation has killed since never reaches the disk, and nothing newer is replaced."""
    put(tier, born=20)
    alive = [True]
    later(tier, OTHER, 11, Guard(admit=lambda _: alive[0]))
    later(tier, KEY, 12)
    alive.clear()
    alive.append(False)
    drive(tier.flush())
    assert {address: envelope.born for address, envelope in found(tier, KEY, OTHER).items()} == {KEY: 20}


def test_what_waits_is_not_replaced_by_what_is_older(tier):
    """As on disk itself: a copy that was read before what waits was stored may come to be left after it."""
    put(tier, OTHER)
    assert later(tier, KEY, 12)
    assert later(tier, KEY, 11)
    assert found(tier)[KEY].born == 12
    assert later(tier, KEY, 13)
    assert later(tier, KEY, 14)
    assert found(tier)[KEY].born == 14


def test_little_waits(tier):
    """Beyond a bound, and in an epoch in which the tier has stored nothing yet, the caller has to write by himself."""
    assert not later(tier)
    put(tier)
    many = [Address("region", "", f"k{number}") for number in range(LATER)]
    assert all(later(tier, address) for address in many)
    assert not later(tier)
    put(tier, OTHER)
    assert later(tier)
    assert found(tier, *many).keys() == set(many)


def test_another_may_come_while_what_waits_is_gathered(tier):
    """The collector may run there, and with it finalizers, in which another thread gets its turn: no read fails of it."""
    put(tier)
    many = [Address("region", "", f"k{number}") for number in range(LATER - 1)]
    assert all(later(tier, address) for address in many)
    pairs = [
        (number, number) for number in range(5_000)
    ]  # as many as Python keeps for later use: now it has to allocate

    def come(phase, info):
        if sys._getframe(1).f_code.co_name == "_flush":
            later(tier, OTHER)

    threshold = gc.get_threshold()
    gc.callbacks.append(come)
    gc.set_threshold(10)
    try:
        drive(tier.flush())
    finally:
        gc.callbacks.remove(come)
        gc.set_threshold(*threshold)
    assert len(pairs) == 5_000
    assert found(tier, *many).keys() == set(many)


# -- position -----------------------------------------------------------------------------------


def test_a_new_tier_takes_nothing_until_it_has_a_position(tmp_path, clock):
    """An empty directory is of no epoch: nothing is stored before `drop` has put it somewhere."""
    tier = DiskTier(tmp_path / "cache", clock=clock)
    assert tier.applied() == ("", 0)
    assert put(tier) is Put.BEHIND
    drive(tier.drop(EPOCH, 3))
    assert tier.applied() == (EPOCH, 3)
    assert put(tier) is Put.STORED
    drive(tier.close())


def test_entries_and_position_survive_a_restart(tmp_path, clock, tier):
    """A process that opens the directory later finds both."""
    put(tier)
    drive(tier.close())
    script = f"""
from tiercast.tiers.disk import LATER, DiskTier
from tiercast.plans import drive
from tiercast.tiers.entry import Address
tier = DiskTier({str(tmp_path / "cache")!r})
reading = drive(tier.get_many([Address(*{tuple(KEY)!r})], {EPOCH!r}))
print(tier.applied(), reading.vouched, [e.born for e in reading.found.values()])
"""
    assert run_python(script) == f"('{EPOCH}', 10) ('{EPOCH}', 10) [10]"


def test_what_the_guard_refuses_is_not_written(tier):
    """The guard is asked inside the transaction, with the tier's own position; other writers wait meanwhile."""
    asked = []

    def admit(at):
        asked.append(at)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection = sqlite3.connect(tier.store.database.path, timeout=0)
            try:
                connection.execute("BEGIN IMMEDIATE")
            finally:
                connection.close()
        return len(asked) > 1

    assert put(tier, guard=Guard(admit)) is Put.BEHIND
    assert found(tier) == {}
    assert put(tier, guard=Guard(admit)) is Put.STORED
    assert asked == [(EPOCH, 10), (EPOCH, 10)]
    assert tier.counters.behind.value == 1


def test_another_epoch_writes_nothing(tier):
    """Puts, burials, renewals, removals and records of another epoch leave the tier as it is."""
    put(tier)
    seen = found(tier)[KEY]
    assert put(tier, epoch="other", born=99) is Put.BEHIND
    drive(tier.bury(KEY, "other", 99, 1.0))
    assert drive(tier.renew(KEY, replace(seen, epoch="other"), seen)) is False
    assert drive(tier.remove([KEY], "other")) == 0
    assert drive(tier.apply("other", 10, [record(KEY, 11)], 11)) is False
    assert found(tier) == {KEY: seen}
    reading = drive(tier.get_many([KEY], "other"))
    assert (reading.found, reading.vouched) == ({}, (EPOCH, 10))


def test_apply_removes_what_died_and_moves_the_position(tier):
    """A key record takes out what was born before it; the position moves in the same transaction."""
    put(tier, KEY, born=10)
    put(tier, OTHER, born=12)
    assert drive(tier.apply(EPOCH, 10, [record(KEY, 11), record(OTHER, 12)], 13)) is True
    reading = drive(tier.get_many([KEY, OTHER], EPOCH))
    assert (list(reading.found), reading.vouched) == ([OTHER], (EPOCH, 13))


def test_a_soft_record_marks(tier):
    """A soft key record leaves the entry, marked stale."""
    put(tier)
    drive(tier.apply(EPOCH, 10, [record(KEY, 11, True)], 11))
    assert found(tier)[KEY].flags == STALE


def test_apply_refuses_a_gap(tier):
    """Records that begin behind the tier's position leave it untouched: some would be missing."""
    put(tier)
    assert drive(tier.apply(EPOCH, 11, [record(KEY, 12)], 12)) is False
    assert tier.applied() == (EPOCH, 10)
    assert list(found(tier)) == [KEY]


def test_the_position_never_goes_back(tier):
    """Records that another process has applied already change nothing, nor does an older drop."""
    assert drive(tier.apply(EPOCH, 5, [record(OTHER, 9)], 15)) is True
    put(tier, born=9)
    assert drive(tier.apply(EPOCH, 5, [record(KEY, 12)], 12)) is True
    assert tier.applied() == (EPOCH, 15)
    assert list(found(tier)) == [KEY]
    drive(tier.drop(EPOCH, 14))
    drive(tier.drop(EPOCH, 15))
    assert tier.applied() == (EPOCH, 15)
    assert list(found(tier)) == [KEY]


def test_overlapping_records_apply_once(tier):
    """Of records that overlap the position only the newer ones are applied."""
    put(tier, born=9)
    assert drive(tier.apply(EPOCH, 5, [record(KEY, 10), record(OTHER, 11)], 11)) is True
    assert list(found(tier)) == [KEY]


def test_drop_clears_everything_in_one_transaction(tier):
    """Rows, files, counts and position change together; other epochs and further positions only."""
    for number in range(300):
        put(tier, Address("region", "", str(number)))
    put(tier, KEY, payload=b"x" * 100_000)
    assert list(Path(tier.store.directory).rglob("*.val")) != []
    drive(tier.drop(EPOCH, 11))
    assert tier.applied() == (EPOCH, 11)
    assert drive(tier.usage()).entries == 0
    assert found(tier, KEY, Address("region", "", "7")) == {}
    assert list(Path(tier.store.directory).rglob("*.val")) == []
    put(tier, KEY, payload=b"y" * 100_000)
    assert drive(tier.usage()).entries == 1
    with tier.store.database.seat().lock:
        assert tier.store.cache.check() == []
    drive(tier.drop("epoch-2", 1))
    assert tier.applied() == ("epoch-2", 1)


def test_position_and_row_are_one_snapshot(tier):
    """Whatever is read beside position p was judged by all key records up to p."""
    stop = threading.Event()
    wrong = []

    def read():
        while not stop.is_set():
            for addresses in ([KEY], [KEY, OTHER]):
                reading = drive(tier.get_many(addresses, EPOCH))
                # Of several addresses the position is read first: there the rows may be newer, never older.
                born = [envelope.born for envelope in reading.found.values()]
                wrong.extend(one for one in born if one < reading.vouched[1])

    thread = threading.Thread(target=read)
    thread.start()
    for position in range(11, 200):
        put(tier, born=position - 1)
        assert drive(tier.apply(EPOCH, position - 1, [record(KEY, position)], position)) is True
    stop.set()
    thread.join()
    assert wrong == []


# -- several processes ----------------------------------------------------------------------------


def run_python(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def put_many(directory, seed, results):
    clock = FakeClock()
    tier = DiskTier(directory, clock=clock)
    outcomes = set()
    for step in range(200):
        born = (step * 7919 + seed * 104_729) % 1000
        outcomes.add(put(tier, KEY, born=born, payload=b"%d" % born * (1 if step % 3 else 10_000)))
    results.put((seed, outcomes))


@pytest.mark.fault
def test_processes_that_put_the_same_key_leave_the_newest(tmp_path, clock, tier):
    """Four processes put one key in any order: the greatest `born` of all remains, and its own value."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    directory = str(tmp_path / "cache")
    processes = [context.Process(target=put_many, args=(directory, seed, results)) for seed in range(4)]
    for process in processes:
        process.start()
    outcomes = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    assert set().union(*outcomes.values()) == {Put.STORED, Put.NEWER}
    newest = max((step * 7919 + seed * 104_729) % 1000 for seed in range(4) for step in range(200))
    left = found(tier)[KEY]
    assert left.born == newest
    assert left.payload.startswith(b"%d" % newest)


# -- bounds -----------------------------------------------------------------------------------------


def test_room_is_bounded(tmp_path, clock):
    """Past its limit the tier gives up what was stored longest ago; the position stays."""
    tier = DiskTier(tmp_path / "cache", SimpleNamespace(byte_limit=2 * 1024 * 1024), clock)
    drive(tier.drop(EPOCH, 7))
    for number in range(400):
        put(tier, Address("region", "", str(number)), payload=b"x" * (20_000 if number % 2 else 60_000))
    usage = drive(tier.usage())
    assert usage.bytes < 2.5 * 1024 * 1024
    assert 0 < usage.entries < 100
    assert tier.applied() == (EPOCH, 7)
    assert found(tier, Address("region", "", "0")) == {}
    assert len(found(tier, Address("region", "", "399"))) == 1
    assert put(tier, payload=b"x" * 3_000_000) is Put.FAILED
    assert tier.counters.too_large.value == 1
    drive(tier.close())


def test_the_expired_are_removed(tier, clock):
    """`expire` takes out what is past its end; an entry without end stays."""
    put(tier, KEY, fresh_until=clock.wall() - 5, keep_until=clock.wall() - 5)
    put(tier, OTHER, keep_until=float("inf"))
    assert found(tier, KEY, OTHER).keys() == {OTHER}
    drive(tier.expire())
    assert drive(tier.usage()).entries == 1


def test_tiers_of_one_directory_share_it(tmp_path, clock, tier):
    """A second tier on the directory uses the same handles, position and rows; its size must be the same."""
    put(tier)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "cache")
    other = DiskTier(link, clock=clock)
    assert other.store is tier.store
    assert list(found(other)) == [KEY]
    drive(other.close())
    assert list(found(tier)) == [KEY]
    with pytest.raises(ConfigError, match=r"max_size: .* is used with 1073741824 bytes already"):
        DiskTier(tmp_path / "cache", SimpleNamespace(byte_limit=5_000_000), clock)


# -- bytes only -------------------------------------------------------------------------------------


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("in_file", [False, True])
def test_a_planted_pickle_is_never_loaded(tmp_path, tier, in_file):
    """A row in pickle mode, in the database or in a file, is a counted miss that runs nothing, and is removed."""
    sprung = tmp_path / "sprung"
    malicious = pickle.dumps(Trap(sprung))
    value, filename = malicious, None
    if in_file:
        filename = "aa/bb/" + "0" * 28 + ".val"
        path = Path(tier.store.directory, filename)
        path.parent.mkdir(parents=True)
        path.write_bytes(malicious)
        value = None
    for raw in (1, 0):
        plant(tier, storage_key(*KEY), mode=4, raw=raw, filename=filename, value=value)
    plant(tier, pickle.dumps(Trap(sprung)), mode=1, raw=0, value=b"x")
    reading = drive(tier.get_many([KEY], EPOCH))
    assert (reading.found, reading.corrupt) == ({}, 1)
    plant(tier, storage_key(*OTHER), mode=4, raw=1, filename=filename, value=value)
    assert drive(tier.get_many([OTHER, KEY], EPOCH)).corrupt == 1
    plant(tier, storage_key(*KEY), mode=4, raw=1, filename=filename, value=value)
    drive(tier.scan(EPOCH))
    assert put(tier) is Put.STORED
    drive(tier.apply(EPOCH, 10, [record(KEY, 11)], 11))
    drive(tier.drop(EPOCH, 12))
    assert not sprung.exists()


@pytest.mark.parametrize("value", ["text", 17, 1.5, None])
def test_rows_of_other_types_are_misses(tier, value):
    """A row that holds text, a number or nothing is corrupt."""
    plant(tier, storage_key(*KEY), mode=1, raw=1, value=value)
    assert drive(tier.get_many([KEY], EPOCH)).corrupt == 1
    assert put(tier) is Put.STORED


def test_a_row_cannot_name_a_file_elsewhere(tmp_path, tier):
    """A planted row whose file lies outside the cache neither reads nor removes it."""
    secret = tmp_path / "secret"
    secret.write_bytes(pack(make_envelope(KEY, tier.clock, 10)))
    for filename in ("../secret", str(secret)):
        plant(tier, storage_key(*KEY), mode=2, raw=1, filename=filename, value=None)
        assert drive(tier.get_many([KEY], EPOCH)).corrupt == 1
        plant(tier, storage_key(*KEY), mode=2, raw=1, filename=filename, value=None)
        assert put(tier) is Put.STORED
    assert secret.exists()


def test_a_vanished_file_is_a_miss(tier):
    """A value whose file another process has just replaced is not there; nothing is corrupt."""
    put(tier, payload=b"x" * 100_000)
    for path in Path(tier.store.directory).rglob("*.val"):
        path.unlink()
    reading = drive(tier.get_many([KEY], EPOCH))
    assert (reading.found, reading.corrupt, reading.failed) == ({}, 0, False)
    assert put(tier) is Put.STORED


def plant(tier, key, *, mode, raw, value, filename=None):
    def write(execute):
        execute("DELETE FROM Cache WHERE key = ? AND raw = ?", (key, raw))
        execute(
            "INSERT INTO Cache (key, raw, store_time, mode, filename, value) VALUES (?, ?, 1.0, ?, ?, ?)",
            (key, raw, mode, filename, value),
        )

    tier.store.transaction(write)


# -- reading in async code ----------------------------------------------------------------------------


def test_a_read_of_an_open_tier_wants_no_thread(tier):
    """Once open, a hit and a miss are answered inline; whatever writes is a Blocking."""
    put(tier)
    for address in (KEY, OTHER):
        with pytest.raises(StopIteration):
            next(tier.get_many([address], EPOCH))
        with pytest.raises(StopIteration):
            next(tier.get_many([address, OTHER], EPOCH))
    for plan in (
        tier.put_if_newer(KEY, make_envelope(KEY, tier.clock), Guard()),
        tier.bury(KEY, EPOCH, 1, 1.0),
        tier.remove([KEY], EPOCH),
        tier.apply(EPOCH, 1, [], 2),
        tier.drop(EPOCH, 1),
        tier.scan(EPOCH),
        tier.close(),
    ):
        assert type(next(plan)) is Blocking
        plan.close()


def test_reads_do_not_wait_for_a_writer(tier):
    """While another connection holds the write lock, reads answer at once."""
    put(tier)
    writer = sqlite3.connect(tier.store.database.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    try:
        assert list(found(tier)) == [KEY]
    finally:
        writer.execute("ROLLBACK")
        writer.close()


def test_the_connection_of_a_thread_ends_with_it(tier):
    """Threads that read once and end leave no open files behind (but one, which SQLite keeps to use again)."""
    files = Path("/proc/self/fd")
    if not files.exists():
        pytest.skip("open files are counted in /proc")
    put(tier)
    before = len(list(files.iterdir()))
    for _ in range(20):
        thread = threading.Thread(target=found, args=(tier,))
        thread.start()
        thread.join()
    assert len(list(files.iterdir())) <= before + 1


# -- directories ----------------------------------------------------------------------------------


def test_a_new_directory_is_private(tmp_path, tier):
    """It is made for this user alone."""
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_everybody_may_write_is_refused(tmp_path):
    """The reason is given, and what to do."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ConfigError, match=r"directory: .* can be written by everybody \(mode 777\).*chmod o-w"):
        DiskTier(tmp_path / "open")


def test_a_directory_of_another_user_is_refused(tmp_path, monkeypatch):
    """What others can write is not served."""
    (tmp_path / "theirs").mkdir()
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(ConfigError, match=f"belongs to user {mine}, this process runs as {mine + 1}"):
        DiskTier(tmp_path / "theirs")


def test_a_file_is_no_directory(tmp_path):
    """A path that is a file is refused when the tier is made."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; name a directory"):
        DiskTier(tmp_path / "file")


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph"])
def test_network_file_systems_are_refused(tmp_path, monkeypatch, kind):
    """The longest mount point decides, the later of two on one point, with its escapes undone."""
    far = tmp_path / "far away"
    far.mkdir()
    mounts = tmp_path / "mounts"
    escaped = str(far).replace(" ", "\\040")
    mounts.write_text(
        f"/dev/sda / ext4 rw 0 0\nx {escaped} ext4 rw 0 0\nhost:/x {escaped} {kind} rw 0 0\ny {far}2 tmpfs rw 0 0\n"
    )
    monkeypatch.setattr("tiercast.tiers.disk_directory.MOUNTS", str(mounts))
    with pytest.raises(ConfigError, match=rf"network file system \({kind}\).*local disk"):
        check_directory(far / "deeper")
    check_directory(tmp_path)


def test_unknown_mounts_are_not_refused(tmp_path):
    """Where there is no list of mounts, nothing is known against a directory."""
    assert file_system(tmp_path, str(tmp_path / "absent")) == ""


def test_making_a_tier_touches_nothing(tmp_path):
    """The directory is made when the tier is first used."""
    DiskTier(tmp_path / "deep" / "cache")
    assert list(tmp_path.iterdir()) == []
