"""The protocol's encoder and parser."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from tiercast.connections.resp import FUSE_MOST, ProtocolError, Push, Replies, encode, spread

EVERYTHING = (
    b"+OK\r\n:42\r\n$-1\r\n$3\r\na\r\n\r\n*2\r\n*1\r\n:1\r\n$0\r\n\r\n*0\r\n*-1\r\n"
    b"%1\r\n$1\r\nk\r\n*1\r\n#t\r\n~1\r\n_\r\n,1.5\r\n(123456789012345678901\r\n=5\r\ntxt:x\r\n*2\r\n:1\r\n$2\r\nzz\r\n"
)
PARSED = [
    b"OK", 42, None, b"a\r\n", [[1], b""], [], None,
    [b"k", [1]], [None], b"1.5", 123456789012345678901, b"x", [1, b"zz"],
]  # fmt: skip


@given(st.lists(st.integers(1, len(EVERYTHING))))
def test_replies_are_the_same_however_the_bytes_are_cut(cuts):
    """Any partition of the stream parses to the same replies, the open lists and long values included."""
    parser = Replies()
    edges = [0, *sorted(cuts), len(EVERYTHING)]
    for begin, end in itertools.pairwise(edges):
        parser.feed(EVERYTHING[begin:end])
    taken, parser.ready[:] = parser.ready[:], []
    assert PARSED == taken
    assert parser.idle


def test_any_two_cuts_change_nothing():
    """Every piece of the stream arrives by itself once: the end of one reply with the first byte of the next, too."""
    for begin, end in itertools.combinations(range(len(EVERYTHING)), 2):
        parser = Replies()
        for piece in (EVERYTHING[:begin], EVERYTHING[begin:end], EVERYTHING[end:]):
            parser.feed(piece)
        assert PARSED == parser.ready, (EVERYTHING[:begin], EVERYTHING[begin:end])


@pytest.mark.parametrize("value", [b"", b"x", b"0", b"\r\n", b"$1\r\nx\r\n"])
def test_an_answer_to_a_get_is_the_same_however_it_is_cut(value):
    """One value and nothing else takes a shorter way where it arrives whole, and only there."""
    data = b"$%d\r\n%b\r\n" % (len(value), value)
    for cut in range(len(data)):
        replies = Replies()
        replies.feed(data[:cut])
        assert replies.ready == []
        replies.feed(data[cut:])
        assert replies.ready == [value]
        replies.feed(data + data)
        assert replies.ready == [value] * 3


def test_errors_are_values_that_begin_with_their_code():
    """An error reply becomes a ResponseError in its place, with the whole text."""
    parser = Replies()
    parser.feed(b"*2\r\n-NOSCRIPT No matching script\r\n:1\r\n!9\r\nERR hello\r\n")
    (first, one), second = parser.ready
    assert (ResponseError, "NOSCRIPT No matching script", 1) == (type(first), str(first), one)
    assert "ERR hello" == str(second)


@pytest.mark.parametrize("keep", [False, True])
def test_out_of_band_messages_answer_no_command(keep):
    """A push is dropped on a connection for commands and kept on one that listens."""
    parser = Replies(pushes=keep)
    parser.feed(b">2\r\n+invalidate\r\n*0\r\n:1\r\n")
    assert ([[b"invalidate", []], 1] if keep else [1]) == parser.ready
    assert not keep or isinstance(parser.ready[0], Push)


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n", b"$x\r\n", b"?\r\n"])
def test_what_is_no_redis_is_refused(data):
    """Another protocol on the port ends the connection rather than hanging it."""
    with pytest.raises(ProtocolError):
        Replies().feed(data)


def test_arguments_of_all_kinds_are_encoded():
    """Text is UTF-8, numbers are decimal, lengths count bytes."""
    payload, shape = encode([("SET", "ü", b"\x00\r\n", "PX", 10, 0.5)], fuse=True)
    assert b"*6\r\n$3\r\nSET\r\n$2\r\n\xc3\xbc\r\n$3\r\n\x00\r\n\r\n$2\r\nPX\r\n$2\r\n10\r\n$3\r\n0.5\r\n" == payload
    assert [0] == shape


def test_runs_of_get_become_mget_and_come_apart_again():
    """Only GETs side by side are fused, up to a length, and each command gets its own reply."""
    commands = [("GET", "a"), ("GET", "b"), ("INCR", "n"), ("GET", "c")]
    payload, shape = encode(commands, fuse=True)
    assert (
        b"*3\r\n$4\r\nMGET\r\n$1\r\na\r\n$1\r\nb\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n*2\r\n$3\r\nGET\r\n$1\r\nc\r\n"
        == payload
    )
    assert [b"1", None, 7, b"3"] == spread([[b"1", None], 7, b"3"], shape)
    error = ResponseError("NOPERM")
    assert [error, error, 7, b"3"] == spread([error, 7, b"3"], shape)
    assert [0, 0, 0, 0] == encode(commands, fuse=False)[1]
    assert [FUSE_MOST, FUSE_MOST, 0] == encode([("GET", "k")] * (2 * FUSE_MOST + 1), fuse=True)[1]


def test_a_long_value_in_small_pieces_is_joined_once():
    """64 MiB in pieces of 64 KiB parse in linear time (a quadratic parser takes minutes)."""
    parser = Replies()
    value = b"x" * (64 << 20)
    parser.feed(b"$%d\r\n" % len(value))
    for begin in range(0, len(value), 65536):
        parser.feed(value[begin : begin + 65536])
    parser.feed(b"\r\n")
    assert [value] == parser.ready
