"""The disk tier across forks, at any moment."""

from __future__ import annotations

import faulthandler
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
import warnings

import pytest

from tiercast import databases
from tiercast.databases import Database
from tiercast.plans import drive
from tiercast.testing import FakeClock
from tiercast.testing.tier_contract import EPOCH, make_envelope
from tiercast.tiers.base import Guard, Put
from tiercast.tiers.disk import DiskTier
from tiercast.tiers.entry import Address

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

KEY = Address("region", "", "key")


@pytest.fixture
def tier(tmp_path):
    tier = DiskTier(tmp_path / "cache", clock=FakeClock())
    drive(tier.drop(EPOCH, 0))
    yield tier
    drive(tier.close())


def put(tier, born, guard=None, address=KEY):
    return drive(tier.put_if_newer(address, make_envelope(address, tier.clock, born), guard or Guard()))


def found(tier):
    return drive(tier.get_many([KEY], EPOCH)).found


def forked(work, patience=20.0):
    """Run `work` in a forked child and return its exit code: 0 well, 1 it raised, "hangs" it had to be killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12+: threads are running; that is the point
        child = os.fork()
    if not child:
        faulthandler.register(signal.SIGUSR1)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    until = time.monotonic() + patience
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGUSR1)  # it prints where it hangs
    time.sleep(0.2)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


class Busy:
    """A thread that sits in transactions, one after the other."""

    def __init__(self, tier, seconds):
        self.tier = tier
        self.seconds = seconds
        self.inside = threading.Event()
        self.stop = threading.Event()
        self.count = 0
        self.thread = threading.Thread(target=self.work)

    def admit(self, at):
        self.inside.set()
        time.sleep(self.seconds)
        self.inside.clear()
        return True

    def work(self):
        while not self.stop.is_set():
            assert put(self.tier, self.count, Guard(self.admit), Address("region", "", "busy")) is Put.STORED
            self.count += 1
            time.sleep(self.seconds)  # SQLite's lock is not fair: without a gap others starve, fork or no fork

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.stop.set()
        self.thread.join()


def test_forks_while_a_thread_is_in_transactions(tier):
    """Eight children forked at such moments all read and write, and so does the parent throughout."""
    put(tier, 1)

    def work(born):
        assert list(found(tier)) == [KEY]
        assert put(tier, born) is Put.STORED
        assert found(tier)[KEY].born == born

    with Busy(tier, 0.02) as busy:
        outcomes = []
        for number in range(8):
            assert busy.inside.wait(10)
            outcomes.append(forked(lambda born=number + 2: work(born)))
        assert found(tier)[KEY].born == 9
    assert outcomes == [0] * 8
    assert busy.count > 0


def test_child_and_parent_share_the_file_after_a_fork(tier):
    """What one writes the other reads; the child's end leaves the parent's log and locks alone."""
    put(tier, 1)
    found(tier)
    assert forked(lambda: put(tier, 2)) == 0
    assert found(tier)[KEY].born == 2
    assert put(tier, 3) is Put.STORED

    def grandchild():
        assert forked(lambda: put(tier, 4)) == 0
        assert found(tier)[KEY].born == 4

    assert forked(grandchild) == 0
    assert found(tier)[KEY].born == 4
    connection = sqlite3.connect(tier.store.database.path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_the_child_keeps_the_log_alive_when_the_parent_closes(tier):
    """A child's connections hold locks of their own: the parent's last close does not take the log away from it."""
    put(tier, 1)
    found(tier)
    child_done, child_says = os.pipe()
    parent_done, parent_says = os.pipe()

    def work():
        assert put(tier, 2) is Put.STORED
        os.write(child_says, b"x")
        os.read(parent_done, 1)
        assert found(tier)[KEY].born == 3
        assert put(tier, 4) is Put.STORED

    def parent():
        os.read(child_done, 1)
        drive(tier.close())
        assert put(tier, 3) is Put.STORED
        os.write(parent_says, b"x")

    thread = threading.Thread(target=parent)
    thread.start()
    outcome = forked(work)
    thread.join()
    for end in (child_done, child_says, parent_done, parent_says):
        os.close(end)
    assert outcome == 0
    assert found(tier)[KEY].born == 4


def test_locks_that_other_threads_hold_are_not_inherited(tier):
    """A fork while some thread is opening the tier, or noting that it failed, leaves the child free to do so."""
    put(tier, 1)

    def work():
        tier.store.failed(OSError("made up"))
        tier.clock.advance(60)
        assert put(tier, 2) is Put.STORED

    with tier.store._opening, tier.store._breaker._lock:
        assert forked(work) == 0


def test_a_fork_that_cannot_wait_leaves_the_child_without_the_disk(tier, monkeypatch, caplog):
    """A transaction that outlasts the patience of a fork: the child's disk fails, safely; the parent goes on."""
    monkeypatch.setattr(databases, "FORK_PATIENCE", 0.05)
    put(tier, 1)

    def work():
        assert drive(tier.get_many([KEY], EPOCH)).failed
        assert put(tier, 2) is Put.FAILED
        assert tier.applied() == ("", 0)

    with Busy(tier, 0.5) as busy:
        assert busy.inside.wait(10)
        assert forked(work) == 0
    assert put(tier, 3) is Put.STORED


def test_a_fork_inside_its_own_transaction(tier):
    """A thread that forks in the middle of its own transaction: the child's disk fails, the parent commits."""
    outcomes = []

    def work():
        thread = threading.Thread(target=check)
        thread.start()
        thread.join()

    def check():
        outcomes.append(put(tier, 5) is Put.FAILED)

    def admit(at):
        outcomes.append(forked(lambda: work() or outcomes == [True] or os._exit(3)))
        return True

    assert put(tier, 1, Guard(admit)) is Put.STORED
    assert outcomes == [0]
    assert list(found(tier)) == [KEY]


HOOKS = """
import os, sys, threading, time

ledger = threading.Lock()
order = []


def before():
    assert ledger.acquire(timeout=10)
    order.append("hook")


# As the runtime does it: registered when its module is imported, before the first disk tier is made.
os.register_at_fork(before=before, after_in_parent=ledger.release, after_in_child=ledger.release)

from tiercast import databases
from tiercast.plans import drive
from tiercast.testing import FakeClock
from tiercast.testing.tier_contract import EPOCH, make_envelope
from tiercast.tiers.base import Guard
from tiercast.tiers.disk import DiskTier
from tiercast.tiers.entry import Address

key = Address("region", "", "key")
tier = DiskTier(sys.argv[1], clock=FakeClock())
drive(tier.drop(EPOCH, 0))
inside = threading.Event()


def admit(at):
    inside.set()
    time.sleep(0.2)
    with ledger:
        order.append("transaction")
    return True


def put(born, guard):
    return drive(tier.put_if_newer(key, make_envelope(key, tier.clock, born), guard))


thread = threading.Thread(target=put, args=(1, Guard(admit)))
thread.start()
inside.wait(10)
began = time.monotonic()
child = os.fork()
if not child:
    os._exit(put(2, Guard()).value != "stored")
assert time.monotonic() - began < databases.FORK_PATIENCE / 2
thread.join()
assert os.waitpid(child, 0)[1] == 0
print(order)
"""


def test_a_fork_does_not_wait_for_who_waits_for_it(tmp_path):
    """A transaction that needs the ledger's lock ends before the runtime's hook, which takes that lock, runs."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HOOKS, str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == ("['transaction', 'hook']", 0), done.stderr


def test_why_a_new_connection_alone_is_not_enough(tmp_path):
    """The reason for all this: in a child of a process that is in a transaction, even a new connection is locked out."""
    path = str(tmp_path / "plain.db")
    parent = sqlite3.connect(path, isolation_level=None)
    parent.execute("PRAGMA journal_mode = wal")
    parent.execute("CREATE TABLE t (x)")
    parent.execute("BEGIN IMMEDIATE")
    parent.execute("INSERT INTO t VALUES (1)")
    go, ready = os.pipe()

    def work():
        os.read(go, 1)
        child = sqlite3.connect(path, isolation_level=None, timeout=0.2)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            child.execute("BEGIN IMMEDIATE")

    result = []
    waiter = threading.Thread(target=lambda: result.append(forked(work)))
    waiter.start()
    time.sleep(0.1)
    parent.execute("COMMIT")
    os.write(ready, b"x")
    waiter.join()
    parent.close()
    os.close(go)
    os.close(ready)
    assert result == [0]


def test_a_seat_costs_next_to_nothing(tmp_path):
    """Finding one's open connection, pid check and lock included, takes a small part of the quickest statement."""
    database = Database(str(tmp_path / "x.db"), lambda connection: None, 1.0)
    seat = database.seat()
    with seat.lock:
        connection = database.open(seat)

    def sit():
        mine = database.seat()
        with mine.lock:
            database.open(mine)

    def best(work):
        times = []
        for _ in range(7):
            began = time.perf_counter()
            for _ in range(2000):
                work()
            times.append(time.perf_counter() - began)
        return min(times)

    ratio = best(sit) / best(lambda: connection.execute("SELECT 1").fetchone())
    database.close()
    assert ratio < 1.0
