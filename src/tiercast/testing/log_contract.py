"""The contract of a log, as a suite that every log passes: tiercast's own, and yours.

    class TestMyLog(LogContract):
        @pytest.fixture
        def make_log(self, tmp_path):
            return lambda: MyLog(tmp_path)  # each call: another process's handle on the same log

Every claim is checked for threads (`drive`) and for tasks (`drive_async`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from ..coherence.ledger import Ledger, Verdict
from ..coherence.log import Appended, Beat, Log, Member
from ..coherence.records import Draft, Kind, Record
from ..plans import Plan, drive, drive_async

T = TypeVar("T")
Run = Callable[[Plan[T]], T]
MakeLog = Callable[[], Log]

ANYTHING_ELSE = ("no such epoch", 0)
"""A place in no epoch at all."""


def expect(actual: object, expected: object, claim: str) -> None:
    """Raise AssertionError with both sides; assertions of an installed package are not rewritten by pytest."""
    if actual != expected:
        raise AssertionError(f"{claim}: expected {expected!r}, got {actual!r}")


def tag(name: str, *, soft: bool = False, region: str = "") -> Draft:
    """Return a draft that invalidates a tag."""
    return Draft(Kind.TAG, region, (name,), soft=soft, origin="contract", sent=1.5)


def key(name: str) -> Draft:
    """Return a draft that invalidates a key of the root scope."""
    return Draft(Kind.KEY, "default", (f"|{name}",), origin="contract", sent=1.5)


EVERY_KIND = (
    key("a"),
    tag("t"),
    tag("t", soft=True),
    tag("t", region="default"),
    tag("odd \x00 \ud800 \"'|{}"),
    Draft(Kind.SCOPE, "", ("o:1", "")),
    Draft(Kind.PATTERN, "default", ("|a*", "o:1|[ab]?")),
    Draft(Kind.REGION, "", ("default", "other")),
    Draft(Kind.ALL, "", (), soft=True),
    key("b"),
    tag("t"),
)


def as_drafts(records: tuple[Record, ...]) -> list[Draft]:
    """Return records without their places."""
    return [Draft(each.kind, each.region, each.targets, each.soft, each.origin, each.sent) for each in records]


class LogContract:
    """What every log keeps. A subclass provides the fixture `make_log`."""

    patience = 10.0
    """Seconds to wait for what takes real time: leases that lapse."""

    @pytest.fixture(params=["threads", "tasks"])
    def run(self, request: pytest.FixtureRequest) -> Iterator[Run[Any]]:
        """Run plans the one way and the other; tasks share one event loop."""
        if request.param == "threads":
            yield drive
            return
        with asyncio.Runner() as runner:
            yield lambda plan: runner.run(drive_async(plan))

    @pytest.fixture
    def log(self, make_log: MakeLog, run: Run[Any]) -> Iterator[Log]:
        """One handle on an empty log."""
        log = make_log()
        yield log
        run(log.close())

    def test_a_new_log_is_empty_and_has_an_epoch(self, log: Log, run: Run[Any]) -> None:
        """Position 0, no records, no stamps, an epoch that is not empty, and the time."""
        snapshot = run(log.snapshot())
        expect((snapshot.head.position, snapshot.stamps, snapshot.floor), (0, (), 0), "a new log")
        expect(bool(snapshot.head.epoch), True, "an epoch is not empty")
        expect(abs(snapshot.head.time - time.time()) < 60, True, "the log tells the time")
        expect(run(log.read((snapshot.head.epoch, 0))).records, (), "nothing came after 0")

    def test_positions_are_dense_and_batches_consecutive(self, log: Log, run: Run[Any]) -> None:
        """Every record takes the next position, several of one batch too."""
        epoch = run(log.snapshot()).head.epoch
        positions = [run(log.append([tag("a")], (epoch, 0))).position]
        positions.append(run(log.append([tag("b"), key("c"), tag("d")], (epoch, 1))).position)
        positions.append(run(log.append([key("e")], (epoch, 4))).position)
        expect(positions, [1, 4, 5], "the position of the last record of each batch")
        records = run(log.read((epoch, 0))).records
        expect([record.position for record in records], [1, 2, 3, 4, 5], "positions read back")

    def test_what_was_appended_is_read_back_unchanged(self, log: Log, run: Run[Any]) -> None:
        """All kinds, hard and soft, with odd characters, come back as they went in, with place and epoch."""
        epoch = run(log.snapshot()).head.epoch
        run(log.append(EVERY_KIND, (epoch, 0)))
        records = run(log.read((epoch, 0))).records
        expect(as_drafts(records), list(EVERY_KIND), "records read back")
        expect({record.epoch for record in records}, {epoch}, "their epoch")

    def test_a_read_brings_what_came_after(self, log: Log, run: Run[Any]) -> None:
        """`since` itself is not read again, the head is as of the reading."""
        epoch = run(log.snapshot()).head.epoch
        run(log.append([tag("a"), tag("b"), tag("c")], (epoch, 0)))
        tail = run(log.read((epoch, 2)))
        expect([record.targets for record in tail.records], [("c",)], "after position 2")
        expect((tail.head.epoch, tail.head.position), (epoch, 3), "the head")
        expect(run(log.read((epoch, 3))).records, (), "after the head")

    def test_another_epoch_is_answered_with_none_and_the_present_one(self, log: Log, run: Run[Any]) -> None:
        """A position of another epoch is never taken for one of this."""
        epoch = run(log.append([tag("a")], ANYTHING_ELSE)).tail.head.epoch
        tail = run(log.read(ANYTHING_ELSE))
        expect((tail.records, tail.head.epoch, tail.head.position), (None, epoch, 1), "a read in another epoch")
        expect(run(log.append([tag("a")], ANYTHING_ELSE)).tail.records, None, "an append in another epoch")
        beat = Beat("m", *ANYTHING_ELSE, lease=5.0)
        expect(run(log.beat(beat)).tail.records, None, "a heartbeat in another epoch")

    def test_a_position_ahead_of_the_log_is_never_answered_with_records(self, log: Log, run: Run[Any]) -> None:
        """Whoever has applied more than the log holds learns that it must begin anew."""
        epoch = run(log.append([tag("a")], ANYTHING_ELSE)).tail.head.epoch
        expect(run(log.read((epoch, 7))).records, None, "a read from beyond the head")

    def test_append_brings_all_since_the_caller_s_position(self, log: Log, make_log: MakeLog, run: Run[Any]) -> None:
        """Others' records that the caller has not seen come with its own, in order."""
        other = make_log()
        epoch = run(log.append([tag("a")], ANYTHING_ELSE)).tail.head.epoch
        run(other.append([tag("b"), tag("c")], (epoch, 1)))
        appended: Appended = run(log.append([tag("d"), tag("e")], (epoch, 1)))
        expect(appended.position, 5, "its position")
        expect(appended.tail.head.position, 5, "the head")
        targets = [record.targets[0] for record in appended.tail.records or ()]
        expect(targets, ["b", "c", "d", "e"], "all since the caller's position, its own included")
        alone = run(log.append([tag("f")], (epoch, 5)))
        expect([record.position for record in alone.tail.records], [6], "its own alone")
        run(other.close())

    def test_what_one_handle_appends_another_reads(self, log: Log, make_log: MakeLog, run: Run[Any]) -> None:
        """Two handles are two processes on one log."""
        other = make_log()
        epoch = run(log.append([tag("a")], ANYTHING_ELSE)).tail.head.epoch
        expect(as_drafts(run(other.read((epoch, 0))).records), [tag("a")], "read by the other")
        run(other.close())

    def test_the_word_is_that_of_the_records_read(self, log: Log, make_log: MakeLog, run: Run[Any]) -> None:
        """While nothing is appended `heads[0]` is the word of the last tail; where heads move, an append moves it."""
        other = make_log()
        epoch = run(log.append([tag("a")], ANYTHING_ELSE)).tail.head.epoch
        words = [run(log.read((epoch, 0))).word, run(log.snapshot()).word]
        words.append(run(log.beat(Beat("m", epoch, 1, 5.0))).tail.word)
        expect(words, [log.heads[0]] * 3, "the words")
        appended = run(other.append([tag("b")], (epoch, 1)))
        expect(appended.tail.word, other.heads[0], "the word of an append")
        if log.kind != "redis":
            expect(log.heads[0] == words[0], False, "the head after another's append")
        run(other.close())

    def test_a_snapshot_is_the_fold_of_all_records(self, log: Log, run: Run[Any]) -> None:
        """Who begins from a snapshot judges as who applied every record, hard and soft apart."""
        epoch = run(log.append(EVERY_KIND, ANYTHING_ELSE)).tail.head.epoch
        snapshot = run(log.snapshot())
        expect((snapshot.head.position, snapshot.floor), (len(EVERY_KIND), 0), "the snapshot's place")
        expect(any(record.kind is Kind.KEY for record in snapshot.stamps), False, "keys leave no stamp")
        folded, followed = Ledger(), Ledger()
        folded.reset(epoch, snapshot.head.position, snapshot.stamps, snapshot.floor)
        followed.reset(epoch, 0)
        for record in run(log.read((epoch, 0))).records:
            followed.apply(record)
        folded.check()
        questions = [
            (region, scope, name, born, tags)
            for region in ("default", "other", "third")
            for scope in ("", "o:1", "o:1/u:2", "o:2")
            for name in ("c", "ab", "bx")
            for born in range(len(EVERY_KIND) + 1)
            for tags in ((), ("t",), (EVERY_KIND[4].targets[0],))
        ]
        expect(
            [folded.judge_stamps(*question) for question in questions],
            [followed.judge_stamps(*question) for question in questions],
            "verdicts",
        )
        expect(len({folded.judge_stamps(*question) for question in questions}), 3, "kinds of verdict seen")

    def test_a_stamp_s_position_is_where_it_was_last_set(self, log: Log, run: Run[Any]) -> None:
        """Setting it again moves it; it appears once."""
        run(log.append([tag("a"), tag("b"), tag("a")], ANYTHING_ELSE))
        stamps = sorted((record.targets, record.position) for record in run(log.snapshot()).stamps)
        expect(stamps, [(("a",), 3), (("b",), 2)], "the stamps")

    def test_a_heartbeat_brings_the_tail_and_the_members(self, log: Log, make_log: MakeLog, run: Run[Any]) -> None:
        """It registers, renews, reports what the member has applied, and reads what it has not."""
        other = make_log()
        epoch = run(log.append([tag("a"), tag("b")], ANYTHING_ELSE)).tail.head.epoch
        run(other.beat(Beat("second", epoch, 2, 30.0, digest='{"n":1}')))
        pulse = run(log.beat(Beat("first", epoch, 1, 30.0)))
        expect([record.position for record in pulse.tail.records], [2], "the tail")
        run(log.beat(Beat("first", epoch, 2, 30.0)))
        members = {member.name: member for member in run(log.members())}
        expect({name: each.applied for name, each in members.items()}, {"first": 2, "second": 2}, "what is applied")
        expect({each.epoch for each in members.values()}, {epoch}, "their epoch")
        expect(members["second"].digest, '{"n":1}', "the digest")
        expect(all(-31 < each.lapsed < 0 for each in members.values()), True, "all are live")
        expect({each.name for each in pulse.members}, {"first", "second"}, "the members a heartbeat brings")
        run(other.close())

    def test_who_leaves_is_no_member(self, log: Log, run: Run[Any]) -> None:
        """Closing is not lapsing; leaving twice is no error."""
        run(log.beat(Beat("first", *ANYTHING_ELSE, lease=30.0)))
        run(log.beat(Beat("second", *ANYTHING_ELSE, lease=30.0)))
        run(log.leave("first"))
        run(log.leave("first"))
        expect([member.name for member in run(log.members())], ["second"], "the members left")

    def test_a_lease_lapses_and_the_member_stays_listed(self, log: Log, run: Run[Any]) -> None:
        """A barrier has to know of who was cut off, so lapsed members are not dropped at once."""
        run(log.beat(Beat("short", *ANYTHING_ELSE, lease=0.05)))
        run(log.beat(Beat("long", *ANYTHING_ELSE, lease=30.0)))
        deadline = time.monotonic() + self.patience
        members: dict[str, Member] = {}
        while time.monotonic() < deadline and (not members or members["short"].lapsed < 0):
            members = {member.name: member for member in run(log.members())}
        expect((members["short"].lapsed >= 0, members["long"].lapsed >= 0), (True, False), "who has lapsed")

    def test_carried_never_goes_back_and_never_ahead(self, log: Log, run: Run[Any]) -> None:
        """What was carried once stays carried; another epoch's claim is ignored."""
        epoch = run(log.append([key("a"), key("b"), key("c")], ANYTHING_ELSE)).tail.head.epoch
        run(log.carry(epoch, 2))
        carried = [run(log.read((epoch, 3))).head.carried]
        run(log.carry(epoch, 1))
        carried.append(run(log.read((epoch, 3))).head.carried)
        run(log.carry("no such epoch", 3))
        carried.append(run(log.read((epoch, 3))).head.carried)
        expect(carried[0] >= 2, True, "carried is published")
        expect(carried, sorted(carried), "carried never goes back")
        expect(max(carried) <= 3, True, "carried is not ahead of the head")

    def test_a_life_of_a_server_keeps_the_position_at_which_it_was_first_seen(
        self, log: Log, make_log: MakeLog, run: Run[Any]
    ) -> None:
        """Whoever asks, and however often; of several lives the newest counts; another epoch knows of none."""
        epoch = run(log.append([key("a")], ANYTHING_ELSE)).tail.head.epoch
        seen = [run(log.first_seen(epoch, ["one"]))]
        run(log.append([key("b"), key("c")], (epoch, 1)))
        other = make_log()
        seen += [run(other.first_seen(epoch, lives)) for lives in (["one"], ["one", "two"], ["two"], ["one"])]
        expect(seen, [1, 1, 3, 3, 1], "positions")
        expect(run(log.first_seen("no such epoch", ["one"])), None, "in another epoch")
        run(other.close())

    def test_appends_from_many_threads_are_dense_and_none_is_lost(
        self, make_log: MakeLog, log: Log, run: Run[Any]
    ) -> None:
        """Threads and handles side by side: each position once, each batch together, every record there."""
        epoch = run(log.snapshot()).head.epoch
        handles = [log, make_log(), make_log()]
        seen: list[tuple[int, str]] = []
        errors: list[BaseException] = []

        def work(number: int) -> None:
            handle = handles[number % len(handles)]
            try:
                for count in range(10):
                    name = f"{number}-{count}"
                    appended = drive(handle.append([tag(name), tag(name + "+")], (epoch, 0)))
                    seen.append((appended.position, name + "+"))
            except BaseException as exc:  # noqa: BLE001  shown below
                errors.append(exc)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expect(errors, [], "errors")
        records = run(log.read((epoch, 0))).records
        expect([record.position for record in records], list(range(1, 121)), "positions")
        names = [record.targets[0] for record in records]
        expect(len(set(names)), 120, "records that are there")
        expect([names[at] for at, _ in seen for at in (at - 1,)], [name for _, name in seen], "answers and places")
        together = [names[at] + "+" == names[at + 1] for at in range(0, 120, 2)]
        expect(all(together), True, "each batch is consecutive")
        for handle in handles[1:]:
            run(handle.close())

    def test_a_closed_log_opens_again_and_has_forgotten_nothing(
        self, log: Log, make_log: MakeLog, run: Run[Any]
    ) -> None:
        """Close gives back what is open, not what was appended."""
        keeper = make_log()
        epoch = run(log.append([tag("a")], ANYTHING_ELSE)).tail.head.epoch
        run(log.close())
        expect(as_drafts(run(log.read((epoch, 0))).records or ()), [tag("a")], "records after closing")
        run(keeper.close())

    def test_the_stamps_of_the_log_kill_what_was_born_before_them(self, log: Log, run: Run[Any]) -> None:
        """The end to end of a snapshot: an entry born before a tag's record is dead to who starts afterwards."""
        epoch = run(log.append([tag("t")], ANYTHING_ELSE)).tail.head.epoch
        snapshot = run(log.snapshot())
        ledger = Ledger()
        ledger.reset(epoch, snapshot.head.position, snapshot.stamps, snapshot.floor)
        verdicts = [ledger.judge("default", "", "k", epoch, born, ("t",), vouched=1) for born in (0, 1)]
        expect(verdicts, [Verdict.DEAD, Verdict.ALIVE], "born before and after")
