"""The outbox: what the log has not got is not lost, whatever happens to the process that wrote it down."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tiercast.coherence.disk_outbox import DiskOutbox
from tiercast.coherence.outbox import BATCH, EVERYTHING, LEASE, MemoryOutbox, Outbox, Queued, boot_time, outbox_at
from tiercast.coherence.records import Draft, Kind


class Boot:
    """A boot clock held in the hand."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def tag(*names: str) -> Draft:
    return Draft(Kind.TAG, "", names, origin="h:1:x", sent=1.5)


def names(batch: list[Queued]) -> list[str]:
    return [item.draft.targets[0] for item in batch]


def drain(outbox: Outbox) -> list[Draft]:
    drafts = []
    while batch := outbox.claim():
        drafts += [item.draft for item in batch]
        outbox.done(batch)
    return drafts


@pytest.fixture(params=["memory", "disk"])
def outbox(request: pytest.FixtureRequest, tmp_path: Path) -> Outbox:
    """Each kind of outbox in turn, empty."""
    return outbox_at(tmp_path if request.param == "disk" else None, "shop")


# -- what both promise -----------------------------------------------------------------------------


def test_what_is_put_comes_back_in_order_and_equal(outbox: Outbox) -> None:
    """All kinds, every field; and only once it is done is it gone."""
    drafts = [
        Draft(Kind.KEY, "r", ("o:1|user:1", "|a"), soft=True, origin="h:1:x", sent=1.25),
        tag("é\ud800", "\x00"),
        Draft(Kind.SCOPE, "", ("",)),
        Draft(Kind.PATTERN, "r", ("|u*",)),
        Draft(Kind.REGION, "", ("r",)),
        EVERYTHING,
    ]
    assert outbox.waiting() is False
    outbox.put(drafts[:2])
    ids = outbox.put(drafts[2:])
    assert list(ids) == sorted(ids)
    assert outbox.waiting() is True
    batch = outbox.claim()
    assert [item.draft for item in batch] == drafts
    assert outbox.waiting() is True
    outbox.done(batch)
    assert outbox.waiting() is False
    assert outbox.claim() == []


def test_one_at_a_time_replays(outbox: Outbox) -> None:
    """Who comes second gets nothing until the first is done, or gives it back."""
    outbox.put([tag("a"), tag("b")])
    batch = outbox.claim()
    assert outbox.claim() == []
    outbox.release(batch)
    again = outbox.claim()
    assert names(again) == ["a", "b"]
    outbox.release(batch)  # a claim that is over gives nothing back
    assert outbox.claim() == []
    outbox.put([tag("c")])
    outbox.done(again)
    assert names(outbox.claim()) == ["c"]


def test_many_are_replayed_batch_by_batch(outbox: Outbox) -> None:
    """In the order in which they were put."""
    drafts = [tag(f"t{number}") for number in range(2 * BATCH + 1)]
    for draft in drafts:
        outbox.put([draft])
    first = outbox.claim()
    assert [item.draft for item in first] == drafts[:BATCH]
    outbox.done(first)
    assert drain(outbox) == drafts[BATCH:]


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_claim_lapses(kind: str, tmp_path: Path) -> None:
    """A batch that nobody reports done may be claimed again after the lease."""
    boot = Boot()
    outbox: Outbox = MemoryOutbox(now=boot) if kind == "memory" else DiskOutbox(tmp_path, "shop", now=boot)
    outbox.put([tag("a")])
    first = outbox.claim()
    boot.time += LEASE - 0.1
    assert outbox.claim() == []
    boot.time += 0.2
    second = outbox.claim()
    assert names(second) == names(first)
    outbox.done(first)
    assert outbox.waiting() is False


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("bound", ["rows", "bytes"])
def test_a_full_outbox_replays_as_everything(kind: str, bound: str, tmp_path: Path) -> None:
    """The safe side of a bound: nothing that was invalidated is forgotten."""
    limits = {"most": 5} if bound == "rows" else {"most_bytes": 600}
    outbox: Outbox = MemoryOutbox(**limits) if kind == "memory" else DiskOutbox(tmp_path, "shop", **limits)
    for number in range(5):
        outbox.put([tag(f"t{number}")])
    outbox.put([tag("one more", "x" * 200)])
    outbox.put([tag("later")])
    assert drain(outbox) == [EVERYTHING, tag("later")]


def test_a_draft_too_long_for_the_log_is_cut(outbox: Outbox) -> None:
    """As the log would cut it."""
    targets = tuple(f"target-{number}-{'x' * 50}" for number in range(5000))
    outbox.put([tag(*targets)])
    drafts = drain(outbox)
    assert len(drafts) > 1
    assert tuple(target for draft in drafts for target in draft.targets) == targets


def test_threads_lose_and_double_nothing(outbox: Outbox) -> None:
    """Eight put while one drains."""
    drained: list[Draft] = []
    putting = threading.Event()

    def put(thread: int) -> None:
        for number in range(20):
            outbox.put([tag(f"{thread}-{number}")])

    def empty() -> None:
        while not putting.is_set() or outbox.waiting():
            drained.extend(drain(outbox))

    threads = [threading.Thread(target=put, args=(thread,)) for thread in range(8)]
    drainer = threading.Thread(target=empty)
    for thread in (*threads, drainer):
        thread.start()
    for thread in threads:
        thread.join()
    putting.set()
    drainer.join()
    expected = {f"{thread}-{number}" for thread in range(8) for number in range(20)}
    assert expected == {draft.targets[0] for draft in drained}
    assert len(drained) == len(expected)


# -- what is durable ------------------------------------------------------------------------------


def test_a_sibling_goes_on_where_a_crashed_process_was(tmp_path: Path) -> None:
    """Killed between claiming and reporting done: the lease lapses, nothing is lost."""
    boot = Boot()
    context = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
    process = context.Process(target=_claim_and_die, args=(tmp_path,))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    boot.time = boot_time()
    sibling = DiskOutbox(tmp_path, "shop", now=boot)
    assert sibling.waiting() is True
    assert sibling.claim() == []
    boot.time += LEASE + 1
    assert drain(sibling) == [tag("a"), tag("b")]
    sibling.close()


def _claim_and_die(directory: Path) -> None:
    outbox = DiskOutbox(directory, "shop")
    outbox.put([tag("a"), tag("b")])
    assert len(outbox.claim()) == 2
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_claim_of_an_earlier_boot_is_void(tmp_path: Path) -> None:
    """The boot clock began anew, so its number says nothing; nor does one too far ahead."""
    outbox = DiskOutbox(tmp_path, "shop")
    outbox.put([tag("a")])
    assert len(outbox.claim()) == 1
    rebooted = DiskOutbox(tmp_path, "shop")
    rebooted._boot = "another"
    assert len(rebooted.claim()) == 1
    boot = Boot()
    boot.time = -1e9
    assert len(DiskOutbox(tmp_path, "shop", now=boot).claim()) == 1


def test_fleets_are_kept_apart(tmp_path: Path) -> None:
    """One directory, several names, also such as no file could have."""
    fleets = ["shop", "Shop", "shop/../x", "é" * 300, "", "a%2F"]
    for fleet in fleets:
        DiskOutbox(tmp_path, fleet).put([tag(f"of {fleet}")])
    for fleet in fleets:
        assert drain(DiskOutbox(tmp_path, fleet)) == [tag(f"of {fleet}")]
    assert len(list(tmp_path.glob("*.sqlite3"))) == len(fleets)


def test_nothing_is_written_before_something_waits(tmp_path: Path) -> None:
    """Asking makes no file, nor a directory."""
    outbox = DiskOutbox(tmp_path / "cache", "shop")
    assert outbox.waiting() is False
    assert outbox.claim() == []
    assert not (tmp_path / "cache").exists()


def test_what_one_process_puts_waits_for_its_siblings_too(tmp_path: Path) -> None:
    """No process of the host proves its memory while a sibling's record waits."""
    one, other = DiskOutbox(tmp_path, "shop"), DiskOutbox(tmp_path, "shop")
    one.put([tag("a")])
    assert other.waiting() is True
    other.done(other.claim())
    assert one.waiting() is False


@pytest.mark.parametrize("damage", ["garbage", "truncated", "pages"])
def test_a_corrupt_file_is_moved_aside_and_everything_invalidated(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Loudly: what it held is unknown, so it replays as everything; what is put afterwards is kept."""
    first = DiskOutbox(tmp_path, "shop")
    first.put([tag("x" * 1000, str(number)) for number in range(50)])
    first.close()
    data = bytearray(first.path.read_bytes())
    if damage == "garbage":
        data[:] = b"this is no database, whatever its name says" * 300
    elif damage == "truncated":
        del data[5000:]
    else:
        data[4096:] = b"\xa5" * (len(data) - 4096)
    first.path.write_bytes(data)
    outbox = DiskOutbox(tmp_path, "shop")
    with caplog.at_level(logging.ERROR):
        assert outbox.waiting() is True
        outbox.put([tag("later")])
        assert drain(outbox) == [EVERYTHING, tag("later")]
    assert "corrupt" in caplog.text
    assert len(list(tmp_path.glob("*.corrupt-*"))) >= 1


def test_a_sibling_with_the_old_file_open_puts_into_the_new_one(tmp_path: Path) -> None:
    """Its handle leads to a file that was moved aside; it notices before, or right after, it wrote."""
    old, new = DiskOutbox(tmp_path, "shop"), DiskOutbox(tmp_path, "shop")
    old.put([tag("before")])
    old.path.rename(tmp_path / "aside")
    new.put([tag("new")])
    old.put([tag("after")])
    assert drain(new) == [tag("new"), tag("after")]
    assert old.waiting() is False


def test_a_row_that_cannot_be_read_is_everything(tmp_path: Path) -> None:
    """Whatever it was."""
    outbox = DiskOutbox(tmp_path, "shop")
    outbox.put([tag("a")])
    with sqlite3.connect(outbox.path) as database:
        database.execute("INSERT INTO waiting (draft) VALUES (?)", (b"\xff{",))
        database.execute("INSERT INTO waiting (draft) VALUES (17)")
    database.close()
    assert drain(outbox) == [tag("a"), EVERYTHING, EVERYTHING]


def test_a_disk_that_takes_nothing_leaves_the_records_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The directory is a file: said once until it is none any more, lost never."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    outbox = DiskOutbox(blocked, "shop")
    with caplog.at_level(logging.WARNING):
        outbox.put([tag("a")])
        outbox.put([tag("b")])
        assert "memory" in caplog.text
        assert outbox.waiting() is True
        assert drain(outbox) == [tag("a"), tag("b")]
        assert outbox.waiting() is False
        assert len(caplog.records) == len({record.getMessage() for record in caplog.records})
        blocked.unlink()
        outbox.put([tag("c")])
        blocked.rename(tmp_path / "away")
        blocked.write_text("in the way")
        caplog.clear()
        outbox.put([tag("d")])
    assert ["memory" in record.getMessage() for record in caplog.records] == [True]


def test_it_says_why_nobody_knows_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be read counts as waiting; health must not blame the log for it."""
    outbox = outbox_at(tmp_path, "shop")
    assert outbox.trouble == ""
    outbox.put([tag("t")])
    full = sqlite3.OperationalError("database or disk is full")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise full

    with monkeypatch.context() as patched:
        patched.setattr(outbox, "_transaction", fail)
        assert outbox.waiting()
        assert outbox.trouble == "the outbox cannot be read: database or disk is full"
    drain(outbox)
    assert not outbox.waiting()
    assert outbox.trouble == ""


def test_a_directory_that_may_not_be_looked_into_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its permissions were changed under a running process: not knowing counts as waiting, and raises nothing."""
    outbox = outbox_at(tmp_path / "shop", "shop")
    stat = Path.stat

    def denied(path: Path, **options: Any) -> os.stat_result:
        if path.is_relative_to(tmp_path / "shop"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", denied)
        assert outbox.waiting()
        assert outbox.claim() == []
        assert "Permission denied" in outbox.trouble
        outbox.put([tag("t")])
        assert names(outbox.claim()) == ["t"]
    assert outbox.waiting()


def test_records_on_disk_and_in_memory_are_both_replayed(tmp_path: Path) -> None:
    """And their ids are not mixed up."""
    outbox = DiskOutbox(tmp_path, "shop")
    outbox.put([tag("disk")])
    outbox._spill.put([tag("memory")])
    disk = outbox.claim()
    memory = outbox.claim()
    assert (names(disk), names(memory)) == (["disk"], ["memory"])
    outbox.done(memory)
    assert outbox.waiting() is True
    outbox.done(disk)
    assert outbox.waiting() is False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_at_any_moment_breaks_nothing(tmp_path: Path) -> None:
    """While threads of the parent are inside SQLite: each child puts a record of its own, and all are there."""
    outbox = DiskOutbox(tmp_path, "shop", most=10_000_000, most_bytes=10**10)
    outbox.put([tag("parent")])
    stop = threading.Event()

    def busy(number: int) -> None:
        count = 0
        while not stop.is_set():
            outbox.put([tag(f"busy-{number}-{count}")])
            count += 1
            time.sleep(0.001)

    threads = [threading.Thread(target=busy, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    children = []
    for number in range(8):
        time.sleep(0.01)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            try:
                outbox.put([tag(f"child-{number}")])
                os._exit(0 if outbox.waiting() else 3)
            finally:
                os._exit(4)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    stop.set()
    for thread in threads:
        thread.join()
    assert codes == [0] * 8
    found = [draft.targets[0] for draft in drain(outbox)]
    assert {f"child-{number}" for number in range(8)} | {"parent"} <= set(found)
    assert len(found) == len(set(found))


def _put_many(directory: Path, name: str, start: Any) -> None:
    outbox = DiskOutbox(directory, "shop")
    start.wait(30)
    for number in range(30):
        outbox.put([tag(f"{name}-{number}")])


def test_processes_that_make_the_file_at_one_moment_all_get_theirs_in(tmp_path: Path) -> None:
    """Four at once, each in its own order."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    processes = [context.Process(target=_put_many, args=(tmp_path, f"p{number}", start)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    found = [draft.targets[0] for draft in drain(DiskOutbox(tmp_path, "shop"))]
    for number in range(4):
        assert [name for name in found if name.startswith(f"p{number}-")] == [
            f"p{number}-{count}" for count in range(30)
        ]
