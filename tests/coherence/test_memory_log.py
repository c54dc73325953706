"""The memory log where it differs from the others: its bounds, and what a fork makes of it."""

from __future__ import annotations

import os

from tiercast.coherence.memory_log import MemoryLog
from tiercast.coherence.records import Draft, Kind
from tiercast.plans import drive


def tag(name):
    return Draft(Kind.TAG, "", (name,))


def test_a_forked_child_begins_another_epoch():
    """Parent and child go on alone; the same position must not mean two records to a store that both share."""
    log = MemoryLog()
    epoch = drive(log.append([tag("a")], ("", 0))).tail.head.epoch
    word = log.heads[0]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            moved = log.heads[0] != word
            tail = drive(log.read((epoch, 1)))
            code = 0 if moved and tail.records is None and tail.head.epoch != epoch else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert drive(log.read((epoch, 1))).records == ()


def test_records_and_stamps_are_bounded():
    """Older records are no longer told, older stamps leave a floor at the last that went."""
    log = MemoryLog(retention=10, stamps=5)
    for number in range(30):
        epoch = drive(log.append([tag(f"t{number}")], ("", 0))).tail.head.epoch
    assert drive(log.read((epoch, 19))).records is None
    assert [record.position for record in drive(log.read((epoch, 20))).records] == list(range(21, 31))
    snapshot = drive(log.snapshot())
    assert (snapshot.floor, [record.position for record in snapshot.stamps]) == (25, list(range(26, 31)))
    assert drive(log.forget_stamps("another", 28)) == 0
    assert drive(log.forget_stamps(epoch, 28)) == 2
    assert drive(log.snapshot()).floor == 25
    log.check()
