"""The disk log among real processes: killed, forked, with its files broken, lost, replaced or of before a power cut."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tiercast.coherence import disk_files
from tiercast.coherence.disk_files import DiskFiles, word_of
from tiercast.coherence.disk_log import DiskLog
from tiercast.coherence.log import Beat, LogUnavailable
from tiercast.coherence.records import Draft, Kind, encode_draft
from tiercast.plans import drive, drive_async

NOWHERE = ("", 0)


def tag(name):
    return Draft(Kind.TAG, "", (name,))


def append(log, *names, since=NOWHERE):
    return drive(log.append([tag(name) for name in names], since))


def names(tail):
    return None if tail.records is None else [record.targets[0] for record in tail.records]


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def log(directory):
    log = DiskLog(directory)
    yield log
    drive(log.close())


@pytest.fixture
def another(directory):
    """Make further handles on the same log; each stands for a process."""
    made = []

    def make(**settings):
        made.append(DiskLog(directory, **settings))
        return made[-1]

    yield make
    for each in made:
        drive(each.close())


PEER = """
import os, signal, sys
from tiercast.coherence.disk_files import DiskFiles
from tiercast.coherence.disk_log import DiskLog
from tiercast.coherence.log import Beat, LogUnavailable
from tiercast.coherence.records import Draft, Kind
from tiercast.plans import drive

log = DiskLog(sys.argv[1], timeout=20.0)

def append(name):
    return drive(log.append([Draft(Kind.TAG, "", (name,))], ("", 0)))

def say(*words):
    print(*words, flush=True)
"""


@pytest.fixture
def peer(directory):
    """Start a real process on the same log; it is killed at the end if it still runs."""
    started = []

    def start(program):
        process = subprocess.Popen(
            [sys.executable, "-c", PEER + textwrap.dedent(program), str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


# -- strictness between processes ---------------------------------------------------------------


def test_an_append_is_seen_by_every_other_process_before_it_returns(log, peer):
    """The other process's very next look at the head, after the append said it was done, differs; it finds the record."""
    first = append(log, "first")
    reader = peer(
        """
        word = drive(log.read(("", 0))).word
        say(log.heads[0] == word)
        for line in sys.stdin:
            moved = log.heads[0] != word
            tail = drive(log.read((line.split()[0], int(line.split()[1]))))
            word = tail.word
            say(moved, log.heads[0] == word, *(record.targets[0] for record in tail.records))
        """
    )
    assert reader.stdout.readline() == "True\n"
    position, epoch = first.position, first.tail.head.epoch
    for number in range(200):
        appended = append(log, f"n{number}", since=(epoch, position))
        print(epoch, position, file=reader.stdin, flush=True)
        assert reader.stdout.readline() == f"True True n{number}\n"
        position = appended.position


def test_processes_that_append_at_once_get_dense_positions(log, peer):
    """Four processes, 200 records each: every position once, none lost."""
    program = """
        sys.stdin.readline()
        for number in range(200):
            say(append(f"{os.getpid()}-{number}").position)
        """
    peers = [peer(program) for _ in range(4)]
    for process in peers:
        process.stdin.write("go\n")
        process.stdin.flush()
    told = sorted(int(line) for process in peers for line in process.communicate(timeout=60)[0].split())
    assert told == list(range(1, 801))
    epoch = drive(log.snapshot()).head.epoch
    assert len(set(names(drive(log.read((epoch, 0)))))) == 800
    log.check()


# -- writers that die -------------------------------------------------------------------------------

DIES = """
    def dies(files, writer):
        say("raised", log.files.view[0])
        os.kill(os.getpid(), signal.SIGKILL)

    append("before")
    DiskFiles.commit = dies
    append("never")
    """


def test_a_writer_killed_between_raising_the_head_and_its_commit_does_no_harm(log, another, peer):
    """The head stays ahead and every look asks the table, which is right; the next transaction sets the head right."""
    reader = another()
    first = append(log, "first")
    here = (first.tail.head.epoch, 1)
    drive(reader.read(here))
    process = peer(DIES)
    raised = int(process.communicate(timeout=30)[0].split()[1])
    assert process.returncode == -signal.SIGKILL
    assert reader.head_word() == raised == word_of(here[0], 3)
    tail = drive(reader.read(here))
    assert names(tail) == ["before"]
    assert tail.word == word_of(here[0], 2), "a head that no row stands behind is never taken for a place"
    beaten = drive(log.beat(Beat("m", here[0], 2, 5.0)))
    assert reader.head_word() == beaten.tail.word == tail.word
    appended = append(log, "after", since=(here[0], 2))
    assert (appended.position, names(appended.tail)) == (3, ["after"])
    assert reader.head_word() != tail.word
    log.check()


def test_a_reader_that_looks_while_a_writer_commits_goes_on_seeing_that_the_head_moved(log, another):
    """Between the raised head and the commit, the word of the rows read is not the word in the head."""
    reader = another()
    first = append(log, "first")
    here = (first.tail.head.epoch, 1)
    drive(reader.read(here))
    looks = []

    class Spying(DiskFiles):
        def commit(self, writer):
            tail = drive(reader.read(here))
            looks.append((names(tail), tail.word == reader.head_word()))
            super().commit(writer)

    log.files.__class__ = Spying
    append(log, "second", since=here)
    assert looks == [([], False)]
    tail = drive(reader.read(here))
    assert (names(tail), tail.word == reader.head_word()) == (["second"], True)


def test_a_transaction_that_fails_leaves_no_record(log):
    """The disk is full at the commit: LogUnavailable, nothing appended, nobody is told to look, the next append works."""
    first = append(log, "first")
    here = (first.tail.head.epoch, 1)

    class Full(DiskFiles):
        def commit(self, writer):
            raise sqlite3.OperationalError("database or disk is full")

    log.files.__class__ = Full
    with pytest.raises(LogUnavailable, match="full"):
        append(log, "lost", since=here)
    assert log.heads[0] == word_of(*here)  # else every process of the host would count as behind until there is room
    log.files.__class__ = DiskFiles
    assert names(drive(log.read(here))) == []
    assert names(append(log, "second", since=here).tail) == ["second"]
    log.check()


# -- epochs -----------------------------------------------------------------------------------------


def test_another_boot_of_the_machine_is_another_epoch(log, another, monkeypatch):
    """A power cut may take commits back, so what was appended before it is of another epoch."""
    here = append(log, "first").tail.head
    monkeypatch.setattr(disk_files, "boot_id", lambda: "another boot")
    later = another()
    tail = drive(later.read((here.epoch, here.position)))
    assert tail.records is None
    assert tail.head.epoch != here.epoch
    assert tail.head.position == 0
    assert log.heads[0] != word_of(here.epoch, here.position)


def test_without_a_boot_id_no_commit_may_be_taken_back(another, monkeypatch):
    """Where the system names no boot, every commit is synced, so the epoch may outlive it."""
    monkeypatch.setattr(disk_files, "boot_id", lambda: "")
    log = another()
    append(log, "first")
    assert log.files._writer.execute("PRAGMA synchronous").fetchone() == (2,)


@pytest.mark.parametrize("damage", ["DELETE FROM head", "UPDATE head SET boot = NULL", "UPDATE head SET epoch = NULL"])
def test_a_missing_part_is_another_epoch(log, directory, damage):
    """Epoch, boot and records stand or fall together."""
    here = append(log, "first").tail.head
    with sqlite3.connect(directory / "tiercast-log.db") as database:
        database.execute(damage)
    database.close()
    tail = drive(log.read((here.epoch, 1)))
    assert (tail.records, tail.head.position, tail.head.epoch == here.epoch) == (None, 0, False)
    log.check()


def test_rows_that_were_committed_and_are_gone_are_another_epoch(log, directory):
    """A lost WAL or an older copy of the database would hand out the same positions again."""
    epoch = append(log, "first", "second", "third").tail.head.epoch
    drive(log.beat(Beat("m", epoch, 3, 5.0)))
    with sqlite3.connect(directory / "tiercast-log.db") as database:
        database.execute("DELETE FROM records WHERE position > 1")
    database.close()
    appended = append(log, "again")
    assert appended.tail.head.epoch != epoch
    assert appended.position == 1


def test_a_caller_ahead_of_the_log_makes_another_epoch(log):
    """Who has applied more than there is proves that records were lost."""
    epoch = append(log, "first").tail.head.epoch
    tail = drive(log.read((epoch, 2)))
    assert (tail.records, tail.head.epoch == epoch) == (None, False)


def test_two_epochs_at_one_position_have_different_heads():
    """A process that slept through a change of epoch sees that the head moved."""
    words = {word_of(f"{epoch:016x}", 5) for epoch in range(1000)}
    assert len(words) == 1000
    assert word_of("5f0c", 1 << 39) < 2**64


# -- files broken, lost and replaced ------------------------------------------------------------------


def test_a_broken_database_is_moved_aside_and_another_epoch_begins(log, another, directory):
    """Reads and appends go on; other processes follow into the new database without being told."""
    other = another()
    old = append(log, "first").tail.head.epoch
    append(other, "second", since=(old, 1))
    drive(log.close())
    drive(other.close())
    (directory / "tiercast-log.db").write_bytes(b"not a database, " * 1000)
    appended = append(log, "third", since=(old, 2))
    assert (appended.position, appended.tail.head.epoch != old) == (1, True)
    assert log.files.moved_aside == 1
    assert (directory / "tiercast-log.db.broken").exists()
    assert names(drive(other.read((appended.tail.head.epoch, 0)))) == ["third"]
    log.check()


def test_a_database_broken_under_open_handles_is_moved_aside_once(log, another, directory):
    """SQLite may go on for a while with pages it remembers; then both handles end up in one new epoch."""
    other = another()
    old = append(log, *(f"n{number}" for number in range(500))).tail.head.epoch
    assert len(names(drive(other.read((old, 0))))) == 500
    log.files._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (directory / "tiercast-log.db").open("r+b") as file:
        file.write(b"\xff" * 65536)
    seen = [drive(handle.append([tag("x")], NOWHERE)).tail.head.epoch for handle in (log, other) * 5]
    assert seen[-1] != old
    assert sorted(seen, key=seen.index) == seen, "no handle goes back to an epoch that another one left"
    at = append(log, "one").tail.head
    assert names(drive(other.read((at.epoch, at.position - 1)))) == ["one"]
    assert log.files.moved_aside + other.files.moved_aside == 1
    log.check()


def test_a_directory_removed_while_in_use_is_made_again(log, another, directory):
    """Every handle leaves the files that nobody else can find, at its next operation."""
    other = another()
    old = append(log, "first").tail.head.epoch
    append(other, "second", since=(old, 1))
    word = other.heads[0]
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()
    new = append(log, "third", since=(old, 2)).tail.head
    assert new.epoch != old
    assert other.heads[0] != word, "who still maps the old head sees that something changed"
    assert names(drive(other.read((new.epoch, 0)))) == ["third"]
    append(log, "fourth", since=(new.epoch, 1))
    assert other.heads[0] != drive(other.read((new.epoch, 1))).word or other.heads[0] == log.heads[0]


def test_a_lost_head_file_is_noticed_at_the_next_heartbeat(log, another, directory):
    """The heartbeat compares the file by name; afterwards both map the same file again."""
    other = another()
    epoch = append(log, "first").tail.head.epoch
    drive(other.read((epoch, 0)))
    (directory / "tiercast-log.head").unlink()
    for handle in (log, other):
        drive(handle.beat(Beat("m", epoch, 1, 5.0)))
    appended = append(log, "second", since=(epoch, 1))
    assert other.head_word() == log.head_word() == appended.tail.word


def test_a_database_of_another_version_is_left_alone(log, directory):
    """A newer tiercast on the same host keeps its files; this one says what is the matter."""
    directory.mkdir()
    with sqlite3.connect(directory / "tiercast-log.db") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(LogUnavailable, match="version 99"):
        append(log, "first")
    with sqlite3.connect(directory / "tiercast-log.db") as database:
        assert database.execute("PRAGMA user_version").fetchone() == (99,)
    database.close()


def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path):
    """No exception of the file system reaches who uses the log."""
    (tmp_path / "file").write_text("in the way")
    log = DiskLog(tmp_path / "file" / "cache")
    for plan in (log.append([tag("t")], NOWHERE), log.read(NOWHERE), log.snapshot(), log.beat(Beat("m", "", 0, 1.0)),
                 log.members(), log.leave("m"), log.carry("e", 1), log.take("n", "t", 1.0)):  # fmt: skip
        with pytest.raises(LogUnavailable):
            drive(plan)


def test_the_files_are_the_user_s_alone(log, directory):
    """Mode 0600, the write-ahead log and its index included."""
    append(log, "first")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert set(modes.values()) == {0o600}
    assert {"tiercast-log.db", "tiercast-log.db-wal", "tiercast-log.head"} <= modes.keys()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


# -- waiting ----------------------------------------------------------------------------------------


def test_a_stopped_writer_holds_others_up_for_the_timeout_only_and_readers_not_at_all(another, peer):
    """A process stopped inside its transaction: appends say LogUnavailable in time, reads answer."""
    process = peer(
        """
        def stops(files, writer):
            say("inside")
            os.kill(os.getpid(), signal.SIGSTOP)
            writer.execute("COMMIT")

        append("before")
        DiskFiles.commit = stops
        append("late")
        say("committed")
        """
    )
    assert process.stdout.readline() == "inside\n"
    log = another(timeout=0.2)
    began = time.monotonic()
    with pytest.raises(LogUnavailable):
        append(log, "mine")
    assert time.monotonic() - began < 5
    process.send_signal(signal.SIGCONT)
    assert process.stdout.readline() == "committed\n"
    assert append(log, "mine").position == 3


async def test_reading_the_tail_on_an_event_loop_never_waits_for_a_writer(log, another):
    """While a thread of this very log is inside a transaction, a read is done in place and at once."""
    epoch = append(log, "first").tail.head.epoch
    inside, go_on = threading.Event(), threading.Event()

    class Slow(DiskFiles):
        def commit(self, writer):
            inside.set()
            go_on.wait(30)
            super().commit(writer)

    log.files.__class__ = Slow
    thread = threading.Thread(target=append, args=(log, "second"))
    thread.start()
    inside.wait(30)
    try:
        tail = await asyncio.wait_for(drive_async(log.read((epoch, 0))), 10)
        assert names(tail) == ["first"]
    finally:
        go_on.set()
        thread.join()
    assert names(await drive_async(log.read((epoch, 0)))) == ["first", "second"]


# -- forks ------------------------------------------------------------------------------------------


def in_child(work):
    """Run `work` in a forked child; answers whether it said True within the time."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if work() is True else 2
        finally:
            os._exit(code)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def test_a_child_forked_at_any_moment_appends_and_reads(log):
    """While threads append, children are forked: each appends and reads, none hangs, nothing is lost."""
    epoch = append(log, "first").tail.head.epoch
    stop = threading.Event()
    appended = []

    def busy():
        while not stop.is_set():
            # The other thread may keep it for as long as an append waits, where the host gives neither any time.
            with contextlib.suppress(LogUnavailable):
                appended.append(append(log, f"thread-{len(appended)}").position)

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()

    def child():
        mine = append(log, f"child-{os.getpid()}")
        return names(drive(log.read((epoch, mine.position - 1))))[0] == f"child-{os.getpid()}"

    try:
        assert [True] * 8 == [in_child(child) for _ in range(8)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    log.check()
    assert append(log, "last").position == len(appended) + 10


def test_parent_and_child_see_each_other_through_the_inherited_map(log):
    """The mapped head is shared across the fork: each sees the other's append by its next look."""
    first = append(log, "first")
    here, word = (first.tail.head.epoch, 1), first.tail.word

    def child():
        return log.heads[0] == word and append(log, "child", since=here).position == 2

    assert in_child(child)
    assert log.heads[0] != word
    assert names(drive(log.read(here))) == ["child"]


# -- bounds, leases -----------------------------------------------------------------------------------


def test_records_and_stamps_are_bounded_and_what_goes_raises_the_floor(another):
    """Who asks for trimmed records begins anew; stamps that were let go leave a floor at the last of them."""
    log = another(retention=100, stamps=50)
    for number in range(0, 3000, 100):
        epoch = append(log, *(f"t{number + each}" for each in range(100))).tail.head.epoch
    drive(log.beat(Beat("m", epoch, 3000, 5.0)))
    assert drive(log.read((epoch, 1000))).records is None
    assert len(names(drive(log.read((epoch, 2950))))) == 50
    snapshot = drive(log.snapshot())
    kept = sorted(record.position for record in snapshot.stamps)
    assert snapshot.floor == kept[0] - 1
    assert kept == list(range(kept[0], 3001))
    assert len(kept) <= 50 + 256 + 100
    log.check()


def test_what_has_not_been_carried_is_not_trimmed(another):
    """Where some process buries in L3 what key records kill, the records wait for it."""
    log = another(retention=100, carries=True)
    for _ in range(10):
        epoch = append(log, *(f"t{each}" for each in range(100))).tail.head.epoch
    drive(log.beat(Beat("m", epoch, 1000, 5.0)))
    tail = drive(log.read((epoch, 0)))
    assert (len(tail.records), tail.head.carried) == (1000, 0)
    drive(log.carry(epoch, 700))
    append(log, *(f"t{each}" for each in range(300)))
    drive(log.beat(Beat("m", epoch, 1000, 5.0)))
    assert drive(log.read((epoch, 699))).records is None
    assert len(drive(log.read((epoch, 700))).records) == 600


def test_a_record_that_a_later_version_wrote_is_read_as_everything(log, directory):
    """Its kind is unknown here, its place is not; in the tail and in the snapshot it covers all."""
    epoch = append(log, "first").tail.head.epoch
    with sqlite3.connect(directory / "tiercast-log.db") as database:
        body = encode_draft(tag("x")).replace(b'"tag"', b'"galaxy"')
        database.execute("INSERT INTO records VALUES (2, ?)", (body,))
    database.close()
    assert [record.kind for record in drive(log.read((epoch, 0))).records] == [Kind.TAG, Kind.ALL]
    assert {(record.kind, record.position) for record in drive(log.snapshot()).stamps} == {(Kind.TAG, 1), (Kind.ALL, 2)}


def test_a_lease_is_one_holder_s_until_it_ends(directory):
    """Taken once, renewed by its holder, given back by its token only, and free again when it ends."""
    now = [100.0]
    log = DiskLog(directory, leases=lambda: now[0])

    def lease(token):
        return drive(log.take("region:key \ud800", token, 10.0))

    def release(token):
        return drive(log.give("region:key \ud800", token))

    assert [True, False, True] == [lease("a"), lease("b"), lease("a")]
    assert [False, False] == [release("b"), lease("b")]
    now[0] += 10.1
    assert [True, False] == [lease("b"), release("a")]
    assert [True, True, False] == [release("b"), lease("c"), release("b")]
    now[0] = 5.0  # the machine was restarted, and its clock begins anew
    assert lease("d") is True
    drive(log.close())


def test_a_lease_is_not_taken_for_who_has_gone(log):
    """A thread that comes to it late may come after the one that gave the lease back for who was cancelled."""
    plan = log.take("n", "token", 60.0)
    request = next(plan)
    with pytest.raises(asyncio.CancelledError):
        plan.throw(asyncio.CancelledError())
    drive(log.give("n", "token"))
    assert request.run() is False
    assert drive(log.take("n", "another", 60.0))


def test_members_of_before_a_restart_of_the_machine_are_forgotten(directory):
    """A lease told by a clock that has begun anew would never lapse."""
    now = [1000.0]
    log = DiskLog(directory, leases=lambda: now[0])
    drive(log.beat(Beat("old", "", 0, 10.0)))
    now[0] = 5.0
    assert [member.name for member in drive(log.beat(Beat("new", "", 0, 10.0))).members] == ["new"]
    now[0] += 700
    assert [member.name for member in drive(log.beat(Beat("newer", "", 0, 10.0))).members] == ["newer"]
    drive(log.close())
