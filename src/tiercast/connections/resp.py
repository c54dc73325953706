"""The Redis protocol as bytes in and values out; no sockets.

redis-py's own Python parser spends about 4 µs and a coroutine on each bulk string; a batch of
1,000 replies is parsed here in a tenth of that. Both versions of the protocol are understood and
answered in the shapes of version 2: a map is a flat list, a boolean 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from .base import Command

FUSE_MOST: Final = 500
"""Keys in one MGET: Redis serves nobody else meanwhile (about 0.2 ms)."""


class ProtocolError(Exception):
    """What arrived is not the Redis protocol: the connection is of no more use."""


class Push(list[Any]):
    """An out-of-band message of protocol version 3."""

    __slots__ = ()


_SIZES: Final = tuple(b"\r\n$%d\r\n" % size for size in range(256))
"""What stands before an argument of so many bytes, the end of the one before it included: formatting it costs as much again."""


def _encode(command: Sequence[object], out: list[bytes]) -> None:
    out.append(b"*%d" % len(command))
    for part in command:
        if part.__class__ is bytes:
            data: Any = part
        elif isinstance(part, str):
            data = part.encode()
        elif isinstance(part, bytes):
            data = part
        else:
            data = b"%d" % part if isinstance(part, int) else repr(part).encode()
        size = len(data)
        out.append(_SIZES[size] if size < 256 else b"\r\n$%d\r\n" % size)
        out.append(data)
    out.append(b"\r\n")


def encode(commands: Sequence[Command], *, fuse: bool) -> tuple[bytes, list[int]]:
    """Encode commands for the wire.

    Args:
        commands: what to send.
        fuse: write runs of GET as one MGET (only where one server holds all keys).

    Returns:
        The bytes, and for each reply to expect how many commands it answers: 0 for one command and
        its own reply, n for a list of n replies to n GETs.
    """
    if len(commands) == 1 and commands[0][0] == "GET":  # a read of one key: most of what is sent
        return _gets((commands[0][1],)), [0]
    out: list[bytes] = []
    shape: list[int] = []
    run: list[str | bytes] = []
    for command in commands:
        if fuse and command[0] == "GET":
            run.append(command[1])
            if len(run) < FUSE_MOST:
                continue
            command = ()  # noqa: PLW2901  only the run ends here
        _end_run(run, out, shape)
        if command:
            _encode(command, out)
            shape.append(0)
    _end_run(run, out, shape)
    return b"".join(out), shape


class Template:
    """Commands encoded once, but for some arguments, which each use fills in: ten times as fast as `encode`.

    Args:
        commands: as for `encode`; None stands for an argument to come.
    """

    __slots__ = ("_text", "count")

    def __init__(self, *commands: Command) -> None:
        self.count = len(commands)
        """How many replies it brings."""
        hole = "\0"
        filled = [tuple(hole if part is None else part for part in command) for command in commands]
        self._text = encode(filled, fuse=False)[0].replace(b"%", b"%%").replace(b"$1\r\n\0\r\n", b"$%d\r\n%b\r\n")

    def fill(self, *arguments: bytes) -> bytes:
        """Return the commands for the wire, with the arguments that were to come, in order."""
        parts: list[int | bytes] = []
        for argument in arguments:
            parts.append(len(argument))
            parts.append(argument)
        return self._text % tuple(parts)


def _end_run(run: list[str | bytes], out: list[bytes], shape: list[int]) -> None:
    if not run:
        return
    out.append(_gets(run))
    shape.append(len(run) if len(run) > 1 else 0)
    run.clear()


def _gets(names: Sequence[str | bytes]) -> bytes:
    """Encode a GET of one key, or an MGET of several."""
    parts = [name.encode() if isinstance(name, str) else name for name in names]
    if len(parts) == 1:
        return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(parts[0]), parts[0])
    head = b"*%d\r\n$4\r\nMGET\r\n" % (len(parts) + 1)
    return head + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


def spread(replies: list[Any], shape: list[int]) -> list[Any]:
    """Turn the replies of a server into one reply for each command that `encode` was given."""
    if not any(shape):
        return replies
    answers: list[Any] = []
    for reply, size in zip(replies, shape, strict=True):
        if not size:
            answers.append(reply)
        elif isinstance(reply, list):
            answers += reply
        else:
            answers += [reply] * size
    return answers


def _scalar(kind: int, line: bytes) -> Any:
    if kind == 43 or kind == 44 or kind == 40:  # + , (
        return int(line) if kind == 40 else line
    if kind == 45:  # -
        return _error(line)
    if kind == 95:  # _
        return None
    if kind == 35:  # #
        return int(line == b"t")
    message = f"unknown reply type {bytes([kind])!r}"
    raise ProtocolError(message)


def _error(line: bytes) -> Exception:
    from redis.exceptions import ResponseError

    return ResponseError(line.decode("utf-8", "replace"))


class Replies:
    """Parses what arrives on one connection, in any pieces, in linear time. For one thread at a time.

    Args:
        pushes: keep out-of-band messages, which answer no command.
    """

    __slots__ = ("_chunks", "_missing", "_open", "_pushes", "_rest", "ready")

    def __init__(self, *, pushes: bool = False) -> None:
        self._pushes = pushes
        self.ready: list[Any] = []
        """Replies that are complete; whoever takes them removes them."""
        self._rest = b""
        self._chunks: list[bytes] = []
        self._missing = 0
        # Lists not yet full: (list, how many items are still to come), the innermost last.
        self._open: list[tuple[list[Any], int]] = []

    @property
    def idle(self) -> bool:
        """Whether everything that arrived has been answered with."""
        return not (self.ready or self._rest or self._chunks or self._open)

    def feed(self, data: bytes) -> None:
        """Append to `ready` every reply that is complete now.

        Raises:
            ProtocolError: this is no Redis server.
        """
        if self._missing:
            # A long value: gather its pieces and join them once.
            self._chunks.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._missing = 0
        elif self._rest:
            data = self._rest + data
        elif data[:1] == b"$" and not self._open:
            # One value and nothing else, the answer to a GET: most of what arrives. Not "$-1" with one byte of the
            # next reply, whose lengths agree as well.
            end = data.find(b"\r\n")
            length = len(data) - end - 4
            if end > 0 and length >= 0 and data[1:end] == b"%d" % length:
                self.ready.append(data[end + 2 : -2])
                return
        self._rest = b""
        end = self._parse(data)
        if end < len(data):
            rest = data[end:] if end else data
            if self._missing:
                self._chunks.append(rest)
            else:
                self._rest = rest

    def _parse(self, data: bytes) -> int:  # noqa: PLR0912, PLR0915  one loop, for each reply of a batch
        """Parse from the beginning; return where the first incomplete item begins."""
        find = data.find
        size = len(data)
        position = 0
        items, left = self._open.pop() if self._open else (self.ready, -1)
        try:
            while position < size:
                end = find(b"\r\n", position)
                if end < 0:
                    break
                kind = data[position]
                if kind == 36 or kind == 61 or kind == 33:  # $ = !
                    length = int(data[position + 1 : end])
                    if length < 0:
                        value: Any = None
                        position = end + 2
                    else:
                        stop = end + 2 + length
                        if stop + 2 > size:
                            self._missing = stop + 2 - size
                            break
                        value = data[end + 2 : stop]
                        position = stop + 2
                        if kind != 36:
                            value = value[4:] if kind == 61 else _error(value)
                elif kind == 58:  # :
                    value = int(data[position + 1 : end])
                    position = end + 2
                elif kind == 42 or kind == 37 or kind == 126 or kind == 62:  # * % ~ >
                    length = int(data[position + 1 : end])
                    position = end + 2
                    if kind == 37:
                        length *= 2
                    if length > 0:
                        self._open.append((items, left))
                        items, left = (Push() if kind == 62 else []), length
                        continue
                    value = None if length < 0 else []
                else:
                    value = _scalar(kind, data[position + 1 : end])
                    position = end + 2
                items.append(value)
                left -= 1
                while left == 0:
                    full = items
                    items, left = self._open.pop()
                    if full.__class__ is not Push or self._pushes:
                        items.append(full)
                    left -= 1
        except ValueError as error:
            message = f"not the Redis protocol: {data[position : position + 40]!r}"
            raise ProtocolError(message) from error
        if items is not self.ready:
            self._open.append((items, left))
        return position
