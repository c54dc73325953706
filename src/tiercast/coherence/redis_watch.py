"""Appending without the script, where nothing has happened since it last looked.

Implementation notes.
    A script costs Redis several times what the commands in it cost, and everybody waits for it: no
    message leaves the server before it ends. So what the script finds out before it adds a record
    (that this is the server that the log knows, in the same life, that no part of the log is missing,
    where the head is) is found out ahead of time: after an append the log's keys are WATCHed on a
    connection of this process's own, and then the script is asked. The next append is MULTI … EXEC
    on that connection, which does nothing unless the keys are what they were (optimistic locking,
    https://redis.io/docs/latest/develop/using-commands/transactions/). It WATCHes them again at once:
    where the head is then as that append left it, nothing came between.

    A connection does not outlive its server's life (a proxy that opens another one without a word would
    break the transaction too, and leave a hole in the positions, which every process notices). A master that was demoted and promoted again
    without losing it has either loaded the other's data, which counts as a change of every key that is
    watched, or has lost nothing of its own; and where the other was used, its epoch stands in the log.
    The table of members is not watched, because every heartbeat changes it: who reads it runs the script.

    A fence must not end before one that stood there, which only a script could see. So the longest
    fence of the epoch is kept in the log, and only who gives none shorter appends in this way; when it
    begins is estimated, and afterwards compared with the server's time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ..connections import Template, Unavailable, encode, error_code
from ..plans import Blocking, Plan
from . import redis_scripts as wire
from .log import Appended, Head, Tail, Write
from .records import Draft, Kind, encode_draft, placed, stamp

if TYPE_CHECKING:
    from ..connections import Command, Session

REST: Final = 1.0
"""Seconds after a failure before a connection is opened again."""
SCRIPTED: Final = 256
"""One append of so many is the script's, which looks at everything anew and keeps the log within its bounds."""
MOST_TARGETS: Final = 100
"""Targets of a record that is added without the script."""
NOWHERE: Final = ("", -1)
_TRIED: Final = [b"OK", b"OK", b"OK", b"OK", None]
"""What a trial brings: a transaction does nothing where what was watched has changed."""
_REFUSALS: Final = frozenset({"ERR", "EXECABORT", "NOPERM"})
"""Codes of errors that another connection would bring as well."""
_SET: Final = Template(("SET", None, None))
_SET_FOR: Final = Template(("SET", None, None, "PX", None))


class WatchedHead:
    """The head of a fleet's log, watched. Thread-safe and loop-safe: whoever comes while another appends uses the script.

    Args:
        session: a connection of one's own.
        keys: the log's.
        values: what the names of value keys begin with, before the epoch.
        asking: returns the call of the script's operation "watch", for a place.
        timeout: seconds for an append.
        fence: milliseconds of the fences that this process gives.
        now: the server's time in ms, at most, by what it last said; None where it has said nothing.
    """

    def __init__(
        self,
        session: Session,
        keys: wire.LogKeys,
        *,
        values: str,
        asking: Callable[[tuple[str, int]], Command],
        timeout: float,
        fence: int,
        now: Callable[[], int | None],
    ) -> None:
        self._session = session
        self._keys = keys
        self._values = values
        self._asking = asking
        self._timeout = timeout
        self._fence = fence
        self._now = now
        self._try = (("UNWATCH",), ("WATCH", keys.trial), ("SET", keys.trial, "", "PX", 1), ("MULTI",), ("EXEC",))
        """Without a MULTI that is understood, what comes after it would be done at once; and there are proxies that take
        WATCH and send it on another connection than the transaction."""
        self._watch = ("WATCH", keys.log, keys.stream, keys.stamps)
        self._add_record = Template(
            ("MULTI",),
            ("XADD", keys.stream, None, "record", None, "time", None),
            ("HINCRBY", keys.log, "position", "1"),  # were it no transaction after all, a hole would show it
            ("HSET", keys.log, "carried", None),
        )
        self._tell_and_watch = Template(
            ("PUBLISH", keys.bus, None),
            ("TIME",),
            ("EXEC",),
            self._watch,
            ("HMGET", keys.log, "epoch", "position", "carried", "fence"),
            ("EXISTS", keys.stream, keys.stamps),
        )
        self._last = NOWHERE
        """Where this process's last append left the log: who finds it there was the last to append."""
        self._watched = NOWHERE
        """The place at which the head is watched, as far as is known."""
        self._carried = 0
        """How far L3 is clean at that place."""
        self._asked = False
        """Whether the script has been asked about that place, and its answer was not read yet."""
        self._rest_until = 0.0
        self.take = session.take
        self.release = session.release

    def append(self, drafts: Sequence[Draft], since: tuple[str, int], writes: Sequence[Write]) -> Plan[Appended | None]:
        """Append, where this process (which has taken the head) stands at `since`; None where the script has to.

        Raises:
            Unavailable: no answer in time; the log may have taken the records nonetheless.
        """
        watched, self._watched = self._watched, NOWHERE
        fits = len(drafts) == 1 and len(drafts[0].targets) <= MOST_TARGETS and (since[1] + 1) % SCRIPTED
        now = self._now()
        if watched != since or not fits or now is None or not self._session.usable():
            return None
        for write in writes:
            if write.fence != self._fence:
                return None
        deadline = time.monotonic() + self._timeout
        try:
            if self._asked and not (yield from self._stands(deadline)):
                return None
            return (yield from self._add(drafts[0], since, writes, now, deadline))
        except Unavailable as error:
            if error.dropped:  # the script's connection is another one, or a new one
                return None
            raise

    def watch(self, since: tuple[str, int], appended: Appended) -> Plan[None]:
        """Have the head watched after the script has appended: where this process has appended there twice running."""
        last, self._last = self._last, (appended.tail.head.epoch, appended.position)
        if last != since or self._last != (since[0], since[1] + 1):
            return
        session = self._session
        try:
            if not session.usable():
                if time.monotonic() < self._rest_until:
                    return
                self._rest_until = time.monotonic() + REST
                self._asked = False
                session.use((yield Blocking(session.connect, self._timeout)))
            elif self._asked:  # in vain
                yield from self._stands(time.monotonic() + self._timeout)
            session.tell(encode((*self._try, self._watch, self._asking(self._last)), fuse=False)[0])
        except (Unavailable, RuntimeError):  # RuntimeError: no thread to be had; the interpreter may be ending
            return
        self._watched, self._asked = self._last, True

    def _stands(self, deadline: float) -> Plan[bool]:
        """Read what the script answered; False where an append is left to it."""
        self._asked = False
        replies = yield self._session.ask(b"", len(_TRIED) + 2, deadline)
        useless = replies is None or replies[2:5] == [b"OK", b"OK", []]
        if useless or any(error_code(reply) in _REFUSALS for reply in replies[:6]):
            # This loop cannot use it, this user may not, or something in between cannot: so it will be with the next.
            self._session.drop()
            self._rest_until = math.inf
            return False
        *tried, watching, carried = replies
        self._carried = carried if isinstance(carried, int) else -1
        return tried == _TRIED and watching == b"OK" and self._carried >= 0

    def _add(
        self, draft: Draft, since: tuple[str, int], writes: Sequence[Write], now: int, deadline: float
    ) -> Plan[Appended | None]:
        """Do what the script would do, and watch what it leaves; None where the log was changed, or is not what it should be."""
        epoch, position = since[0], since[1] + 1
        carried = position if self._carried == since[1] and wire.covers(writes, (draft,)) else self._carried
        latest = now + round(1000 * self._timeout) + 1000
        begin, rest, clean = stamp(b"{", epoch, position), encode_draft(draft)[1:], b"%d" % carried
        payload = [self._add_record.fill(b"%d-0" % position, begin + rest, b"%d" % now, clean)]
        if draft.kind is not Kind.KEY:
            try:
                payload.append(
                    encode((("ZADD", self._keys.stamps, *wire.stamp_members(draft, position)),), fuse=False)[0]
                )
            except UnicodeEncodeError:  # half a surrogate pair: the script has a stamp for it
                return None
        payload += [self._set_value(write, epoch, position, now, latest) for write in writes]
        payload.append(self._tell_and_watch.fill(b'%b"carried":%b,%b' % (begin, clean, rest)))
        count = self._add_record.count + len(payload) - 2 + self._tell_and_watch.count
        replies = yield self._session.ask(b"".join(payload), count, deadline)
        if replies is None:
            return None
        *_, done, watching, kept, there = replies
        if not isinstance(done, list) or any(isinstance(reply, Exception) for reply in done) or done[1] != position:
            return None
        seconds, microseconds = map(int, done[-1])
        if writes and seconds * 1000 + microseconds // 1000 > latest:
            return None  # the fences may be too short; a record that stands in the log twice does no harm
        self._last = epoch, position
        if watching == b"OK" and self._is_left(kept, carried) and there == 2:
            self._watched, self._carried = self._last, carried
        head = Head(epoch, position, carried, seconds + microseconds / 1_000_000)
        return Appended(position, Tail(head, placed((draft,), *since)), bool(writes))

    def _is_left(self, kept: object, carried: int) -> bool:
        """Whether the log's head is as the last append left it, and no member gives longer fences by now."""
        if not isinstance(kept, list):
            return False
        *place, fence = kept
        epoch, position = self._last
        return place == [epoch.encode(), b"%d" % position, b"%d" % carried] and int(fence or 0) <= self._fence

    def _set_value(self, write: Write, epoch: str, position: int, now: int, latest: int) -> bytes:
        """Return the command that puts the L3 half of the record in its place: nothing that is there was born later."""
        blob = wire.TOMBSTONE if write.blob is None else write.blob
        ends = latest + write.fence if write.fence else 0
        name = f"{self._values}:{epoch}:{write.key}".encode()
        value = b"%b%016x%016x%b" % (blob[:4], position, ends, blob[36:])
        if write.ttl or blob[3:4] == b"2":
            return _SET_FOR.fill(name, value, b"%d" % max(write.ttl, ends - now, 1))
        return _SET.fill(name, value)
