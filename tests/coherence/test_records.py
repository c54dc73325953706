"""Records on the wire: what goes in comes out, and nothing that comes in from outside can do harm."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercast.coherence.records import (
    MAX_MESSAGE,
    MAX_POSITION,
    MAX_RECORD,
    Draft,
    Kind,
    Malformed,
    Record,
    check_draft,
    decode_logged,
    decode_message,
    encode_draft,
    encode_record,
    split,
    stamp,
)
from tiercast.keys import encode_target

any_text = st.text(st.characters(exclude_categories=()), max_size=20)
some_text = any_text.filter(bool)
targets = {
    Kind.KEY: st.builds(encode_target, st.sampled_from(("", "o:1/u:2")), some_text),
    Kind.PATTERN: st.builds(encode_target, st.sampled_from(("", "o:1/u:2")), some_text),
    Kind.TAG: any_text,
    Kind.SCOPE: any_text,
    Kind.REGION: any_text,
}


@st.composite
def any_records(draw):
    kind = draw(st.sampled_from(Kind))
    named = () if kind is Kind.ALL else tuple(draw(st.lists(targets[kind], min_size=1, max_size=4)))
    region = draw(some_text if kind in (Kind.KEY, Kind.PATTERN) else any_text)
    sent = draw(st.floats(0, 2e9, allow_nan=False))
    position = draw(st.integers(1, MAX_POSITION - 1))
    return Record(kind, region, named, draw(st.booleans()), draw(any_text), sent, epoch="5f0c", position=position)


@given(any_records())
def test_every_record_survives_the_wire(record):
    """Any text, lone surrogates and control characters included."""
    assert decode_message(encode_record(record)) == (record,)
    assert decode_message(encode_record(record).decode()) == (record,)


@given(any_records(), any_records())
def test_a_batch_is_one_record_a_line(first, second):
    """No encoded record holds a line break, so a batch is joined and split by them."""
    assert decode_message(encode_record(first) + b"\n" + encode_record(second)) == (first, second)


def test_the_wire_form_is_this():
    """Golden bytes: other languages write and read them."""
    record = Record(Kind.TAG, "", ("users",), origin="web-1:71:9f", sent=1760000000.5, epoch="5f0c", position=42)
    assert encode_record(record) == (
        b'{"v":1,"epoch":"5f0c","position":42,"carried":0,"kind":"tag","region":"","targets":["users"],'
        b'"soft":false,"origin":"web-1:71:9f","sent":1760000000.5}'
    )


GOOD = {"v": 1, "epoch": "e", "position": 7, "kind": "tag", "region": "", "targets": ["t"]}


def wire(**changes):
    return json.dumps({name: value for name, value in {**GOOD, **changes}.items() if value is not ...}).encode()


def test_what_a_foreign_writer_may_leave_out():
    """soft, origin, sent and, where there are none, targets; unknown further members are ignored."""
    assert decode_message(wire(note={"x": 1})) == (Record(Kind.TAG, "", ("t",), epoch="e", position=7),)
    assert decode_message(wire(kind="all", targets=...)) == (Record(Kind.ALL, "", (), epoch="e", position=7),)


BAD = {
    "empty": b"",
    "not JSON": b"{",
    "not an object": b"[1]",
    "not UTF-8": b'{"v":1,"kind":"\xff"}',
    "deep": b"[" * 100_000,
    "deep with an escape": b'["\\ud800",' + b"[" * 30_000,
    "many digits": b'{"v":1' + b"0" * 5000 + b',"x":"\\ud800"}',
    "future version": wire(v=2),
    "version true": wire(v=True),
    "no version": wire(v=...),
    "no epoch": wire(epoch=...),
    "empty epoch": wire(epoch=""),
    "long epoch": wire(epoch="e" * 300),
    "epoch a number": wire(epoch=5),
    "no position": wire(position=...),
    "position 0": wire(position=0),
    "position true": wire(position=True),
    "position 7.0": wire(position=7.0),
    "position too great": wire(position=MAX_POSITION),
    "no kind": wire(kind=...),
    "unknown kind": wire(kind="galaxy"),
    "kind a list": wire(kind=[]),
    "no targets": wire(targets=[]),
    "targets a string": wire(targets="t"),
    "a target a number": wire(targets=["t", 1]),
    "everything with targets": wire(kind="all"),
    "key without a region": wire(kind="key", targets=["|k"]),
    "key without a bar": wire(kind="key", region="r", targets=["k"]),
    "key with a broken escape": wire(kind="key", region="r", targets=["|%zz"]),
    "pattern without a bar": wire(kind="pattern", region="r", targets=["k*"]),
    "region a number": wire(region=1),
    "soft a number": wire(soft=1),
    "sent infinite": wire(sent=float("inf")),
    "sent a string": wire(sent="now"),
    "origin a list": wire(origin=[]),
    "oversized record": wire(targets=["t" * MAX_RECORD]),
    "oversized message": b"\n".join([wire()] * (MAX_MESSAGE // len(wire()))),
    "one of a batch": wire() + b"\n" + wire(v=2),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_a_bad_message_is_malformed_and_a_bad_record_of_the_log_is_everything(data):
    """The bus's copy moves nothing; the log's own keeps its place and kills whatever it may have meant."""
    meaning = decode_message(data)
    assert isinstance(meaning, Malformed)
    assert meaning.reason
    logged = decode_logged(data, "the log's", 9)
    assert (logged.epoch, logged.position) == ("the log's", 9)


@pytest.mark.parametrize("name", ["future version", "unknown kind", "not JSON", "empty", "deep", "key without a bar"])
def test_what_the_log_holds_and_nobody_understands_is_everything(name):
    """A later version's record is applied in its place as an invalidation of everything."""
    assert decode_logged(BAD[name], "e", 9) == Record(Kind.ALL, "", (), epoch="e", position=9)


@given(st.binary(max_size=200))
def test_no_bytes_raise(data):
    """Whatever arrives on the channel, reading it raises nothing."""
    assert isinstance(decode_message(data), tuple | Malformed)
    assert decode_logged(data, "e", 3).position == 3


@given(any_records(), st.data())
def test_no_mangled_message_passes_for_another_record_s_place(record, data):
    """Cut anywhere, a message is malformed."""
    encoded = encode_record(record)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    assert isinstance(decode_message(encoded[:cut]), Malformed)


def test_the_log_s_place_wins_over_what_a_record_says_itself():
    """Position and epoch of a record in the log are where it stands."""
    record = decode_logged(wire(epoch="forged", position=999), "e", 3)
    assert (record.epoch, record.position, record.kind) == ("e", 3, Kind.TAG)


@pytest.mark.parametrize(
    "draft",
    [
        Draft(Kind.KEY, "", ("|k",)),
        Draft(Kind.KEY, "r", ()),
        Draft(Kind.KEY, "r", ("k",)),
        Draft(Kind.PATTERN, "", ("|k*",)),
        Draft(Kind.TAG, "", ()),
        Draft(Kind.ALL, "", ("t",)),
    ],
)
def test_a_draft_that_cannot_be_is_refused_before_it_is_sent(draft):
    """No process of ours writes what others would take for everything."""
    with pytest.raises(ValueError):
        check_draft(draft)
    with pytest.raises(ValueError):
        encode_draft(draft)


@given(st.lists(st.text(min_size=1, max_size=3000), min_size=1, max_size=60))
def test_many_targets_are_split_into_records_that_fit(names):
    """All targets, in order, each record within the bound, wherever it will stand."""
    draft = Draft(Kind.TAG, "region", tuple(names), soft=True, origin="o" * 50, sent=1760000000.123456)
    parts = split(draft)
    assert [target for part in parts for target in part.targets] == names
    for part in parts:
        placed = stamp(encode_draft(part), "e" * 16, MAX_POSITION - 1)
        assert len(placed) <= MAX_RECORD
        assert decode_message(placed) == (
            Record(Kind.TAG, "region", part.targets, True, "o" * 50, 1760000000.123456, "e" * 16, MAX_POSITION - 1),
        )


def test_a_target_too_long_for_any_record_is_named():
    """It is refused where it is said, not on the way."""
    with pytest.raises(ValueError, match=r"a tag of \d+ bytes .* too long .*: 'xxxx"):
        split(Draft(Kind.TAG, "", ("x" * MAX_RECORD,)))
    with pytest.raises(ValueError, match="longer"):
        encode_draft(Draft(Kind.TAG, "", ("x" * MAX_RECORD,)))


def test_everything_needs_no_splitting():
    """A draft without targets is one record."""
    assert split(Draft(Kind.ALL, "", ())) == [Draft(Kind.ALL, "", ())]
