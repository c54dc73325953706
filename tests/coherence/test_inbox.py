"""The inbox: only the very next records of the epoch move anything; for all else the log is asked."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercast.coherence.inbox import Apply, Duplicate, Gap, OtherEpoch, meaning_of
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
    assert meaning_of(message(*positions), "e1", applied) == expected


@pytest.mark.parametrize("position", [1, 4, 5, 6])
def test_a_message_never_changes_the_epoch(position):
    """Of another epoch, whatever it names, it only makes the process ask the log."""
    assert meaning_of(message(position, epoch="e2"), "e1", 4) == OtherEpoch("e2")


def test_a_batch_of_two_epochs_applies_nothing():
    """One foreign record in a message discredits all of it."""
    data = message(5) + b"\n" + message(6, epoch="e2")
    assert meaning_of(data, "e1", 4) == OtherEpoch("e2")


@pytest.mark.parametrize(
    "data", [b"", b"garbage", b'{"v":2,"epoch":"e1","position":5,"kind":"all"}', b"x" * (MAX_MESSAGE + 1)]
)
def test_a_malformed_message_is_told_from_all_others_and_says_why(data):
    """The position never moves by it; the reason is kept for the operator."""
    meaning = meaning_of(data, "e1", 4)
    assert isinstance(meaning, Malformed)
    assert meaning.reason != ""


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 2**32))
def test_whatever_the_bus_does_only_the_next_records_are_applied(applied, head, seed):
    """Lost, doubled and shuffled messages: what is applied is dense, and what is not shows as a gap."""
    rng = random.Random(seed)
    positions = [position for position in range(1, head + 1) for _ in range(rng.choice((0, 1, 1, 2)))]
    rng.shuffle(positions)
    at = applied
    for position in positions:
        meaning = meaning_of(message(position), "e1", at)
        if isinstance(meaning, Apply):
            assert [each.position for each in meaning.records] == [at + 1]
            at += 1
        else:
            assert meaning == (Duplicate() if position <= at else Gap(position))


@pytest.mark.parametrize("positions", [(4,), (3, 4), (1,)])
def test_an_echo_is_known_without_being_read(positions, monkeypatch):
    """What a process appended itself comes back to it: the beginning of the last line says so."""
    monkeypatch.setattr("tiercast.coherence.inbox.decode_message", None)
    assert meaning_of(message(*positions), "e1", 4) == Duplicate()


@pytest.mark.parametrize("place", [b"5", b"", b"+4", b"-4", b"4.0", b'"4"', b" 4", b"1" * 30])
def test_what_only_looks_like_an_echo_is_read(place):
    """Nothing but a plain number that was reached makes a message an echo."""
    data = b'{"v":1,"epoch":"e1","position":' + place + b',"kind":"nothing"}'
    assert isinstance(meaning_of(data, "e1", 4), Malformed)


def test_a_message_longer_than_is_read_is_malformed():
    """The setting `max_message_bytes` bounds what is parsed; the log is read instead."""
    data = message(5, 6, 7)
    assert isinstance(meaning_of(data, "e1", 4, len(data) - 1), Malformed)
    assert isinstance(meaning_of(data, "e1", 4, len(data)), Apply)
