"""The inbox: only the very next records of the epoch move anything; for all else the log is asked."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercast.coherence.inbox import Apply, Duplicate, Gap, Held, Inbox, OtherEpoch
from tiercast.coherence.records import MAX_MESSAGE, Kind, Malformed, Record, encode_record


def record(position, epoch="e1"):
    return Record(Kind.TAG, "", (f"t{position}",), epoch=epoch, position=position)


def message(*positions, epoch="e1"):
    return b"\n".join(encode_record(record(position, epoch)) for position in positions)


@pytest.mark.parametrize(
    ("positions", "applied", "expected"),
    [
        ((5,), 4, Apply((record(5),))),
        ((5, 6, 7), 4, Apply((record(5), record(6), record(7)))),
        ((4, 5), 4, Apply((record(5),))),
        ((4,), 4, Duplicate()),
        ((1, 2), 4, Duplicate()),
        ((6,), 4, Gap(6)),
        ((5, 7), 4, Gap(7)),
        ((7, 6, 5), 4, Gap(7)),
    ],
)
def test_what_a_message_means(positions, applied, expected):
    """The next ones are applied, known ones ignored, and at a gap the log is read."""
    assert Inbox().offer(message(*positions), "e1", applied) == expected


@pytest.mark.parametrize("position", [1, 4, 5, 6])
def test_a_message_never_changes_the_epoch(position):
    """Of another epoch, whatever it names, it only makes the process ask the log."""
    assert Inbox().offer(message(position, epoch="e2"), "e1", 4) == OtherEpoch("e2")


def test_a_batch_of_two_epochs_applies_nothing():
    """One foreign record in a message discredits all of it."""
    data = message(5) + b"\n" + message(6, epoch="e2")
    assert Inbox().offer(data, "e1", 4) == OtherEpoch("e2")


@pytest.mark.parametrize(
    "data", [b"", b"garbage", b'{"v":2,"epoch":"e1","position":5,"kind":"all"}', b"x" * (MAX_MESSAGE + 1)]
)
def test_a_malformed_message_is_told_from_all_others_and_says_why(data):
    """The position never moves by it; the reason is kept for the operator."""
    inbox = Inbox()
    meaning = inbox.offer(data, "e1", 4)
    assert isinstance(meaning, Malformed)
    assert inbox.last_refusal == meaning.reason != ""


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 2**32))
def test_whatever_the_bus_does_only_the_next_records_are_applied(applied, head, seed):
    """Lost, doubled and shuffled messages: what is applied is dense, and what is not shows as a gap."""
    rng = random.Random(seed)
    positions = [position for position in range(1, head + 1) for _ in range(rng.choice((0, 1, 1, 2)))]
    rng.shuffle(positions)
    inbox, at = Inbox(), applied
    for position in positions:
        meaning = inbox.offer(message(position), "e1", at)
        if isinstance(meaning, Apply):
            assert [each.position for each in meaning.records] == [at + 1]
            at += 1
        else:
            assert meaning == (Duplicate() if position <= at else Gap(position))


def test_what_came_before_the_snapshot_is_applied_after_it():
    """Subscribe, hold, take the snapshot at 6, release: 7 and 8 follow, 5 and 6 are in it."""
    inbox = Inbox()
    inbox.hold()
    assert [Held()] * 4 == [inbox.offer(message(position), "", 0) for position in (5, 6, 7, 8)]
    assert inbox.release("e1", 6) == Apply((record(7), record(8)))
    assert inbox.offer(message(9), "e1", 8) == Apply((record(9),)), "it holds no longer"


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ([], Duplicate()),
        ([message(6)], Duplicate()),
        ([message(7), message(9)], Gap(9)),
        ([message(7), message(1, epoch="e0")], OtherEpoch("e0")),
        ([message(7), b"?"], Malformed),
        ([message(7)] * (MAX_MESSAGE // len(message(7)) + 1), Gap(6)),
    ],
    ids=["nothing", "known", "gap", "other epoch", "malformed", "too many"],
)
def test_where_what_was_held_does_not_fit_the_log_is_asked(held, expected):
    """Holding is bounded, and one message in doubt sends the process to the log for all of them."""
    inbox = Inbox()
    inbox.hold()
    for data in held:
        inbox.offer(data, "", 0)
    meaning = inbox.release("e1", 6)
    assert meaning == expected if not isinstance(expected, type) else isinstance(meaning, expected)
