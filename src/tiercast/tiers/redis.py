"""The remote tier: envelopes in Redis, shared by the fleet.

Implementation notes. The epoch is part of a key's name, so that entries of another life of the server
are not found. Writing is by one-key Lua (redis_scripts.py), which compares `born`, keeps fences and
refuses loads that took too long, all by the clock of the server that holds the key. Reading is plain
GET. A read in flight when something is invalidated is judged by the ledger of whoever reads, not here.
Nothing raises for I/O: a server that does not answer is a miss or `Put.FAILED`, and is counted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from .. import keys
from ..clock import Clock, SystemClock
from ..connections import Command, RedisConnections, Unavailable
from ..monitoring.counter import Counter
from ..plans import Blocking, Plan
from . import redis_scripts as scripts
from .base import Guard, Keeps, Put, Reading
from .entry import TOMBSTONE, Address, Envelope
from .envelope import FRESH_AT, HEADER_SIZE, KEEP_AT, MAGIC, EnvelopeError, pack, tombstone, unpack
from .lives import ServerLives

if TYPE_CHECKING:
    from ..config.settings import DistributedCacheConfig
    from .lives import FirstSeen

logger = logging.getLogger("tiercast.tiers")

_IDENTITY: Final = HEADER_SIZE + 4
"""Bytes that tell two envelopes apart: the header and the checksum of the rest."""
_TOMBSTONES: Final = frozenset(b"%x" % flags for flags in range(16) if flags & TOMBSTONE)
_PUTS: Final = {b"stored": Put.STORED, b"newer": Put.NEWER, b"late": Put.LATE}
LARGE: Final = 512 * 1024
"""Bytes whose checksum is not computed on an event loop: about a fifth of a millisecond."""
LONGEST_LEASE: Final = 1e9
"""Seconds: Redis takes no expiry that does not fit its clock."""
TOLD_AGAIN: Final = 60.0
"""Seconds between two warnings of one kind of refusal: a full Redis refuses thousands of times a second."""
FAILED_SCAN: Final = -1
"""The cursor that says that a scan could not go on; it is no end: begin again later."""


class RedisTier:
    """Entries of one fleet in Redis. Thread-safe, loop-safe, fork-safe as its connections are.

    Args:
        connections: where Redis is.
        fleet: the fleet's encoded name; all keys begin with it.
        settings: `max_value_bytes` bounds how long an entry may be, and `ttl`, without `keeps`, how long it is kept.
        clock: for the deadlines written into the envelopes.
        max_load_time: seconds after which a load is refused, where a guard says when it began.
        keeps: how long an entry is kept.
        first_seen: asks the log since when the server's lives are known; None: they vouch for all that was carried.
    """

    name = "remote"

    def __init__(
        self,
        connections: RedisConnections,
        fleet: str,
        settings: DistributedCacheConfig,
        clock: Clock | None = None,
        *,
        max_load_time: float = 600.0,
        keeps: Keeps | None = None,
        first_seen: FirstSeen | None = None,
    ) -> None:
        self.connections = connections
        self._fleet = fleet
        cap = math.inf if settings.ttl is None else float(settings.ttl)
        self._keeps: Keeps = keeps or (lambda region, seconds: min(seconds, cap))
        self._largest = settings.max_value_bytes
        self._clock = clock or SystemClock()
        self._max_load_ms = round(max_load_time * 1000)
        self._lives = None if first_seen is None else ServerLives(first_seen)
        self._told: dict[str, float] = {}
        """By the code of an error, from when on it is worth another line in the log."""
        self.failures = Counter()
        """Operations that Redis did not answer or refused."""
        self.corrupt = Counter()
        """Values of no known form."""
        self.oversized = Counter()
        """Values not stored because they are longer than `max_value_bytes`."""

    # -- names -----------------------------------------------------------------------------------

    def key_of(self, address: Address, epoch: str) -> str:
        """Return the Redis key of an entry."""
        return f"{self._fleet}:{epoch}:{keys.storage_key(*address)}"

    def _lease_key(self, name: str) -> str:
        # "lease" is no epoch, so no entry has this key and no scan of entries meets it.
        return f"{self._fleet}:lease:{name}"

    # -- reading ---------------------------------------------------------------------------------

    def get_many(self, addresses: Sequence[Address], epoch: str) -> Plan[Reading]:
        """See `Tier`; one round trip, in a Cluster one to each node at once for tasks."""
        reading = Reading({})
        if not addresses:
            return reading
        prefix = f"{self._fleet}:{epoch}:"
        storage_key = keys.storage_key
        names = [prefix + storage_key(region, scope, key) for region, scope, key in addresses]
        try:
            replies = yield self.connections.gets(names)
        except Unavailable:
            self.failures.add()
            reading.failed = True
            return reading
        now = self._clock.wall()
        found = reading.found
        for address, blob in zip(addresses, replies, strict=True):
            if blob is None:
                continue
            if not isinstance(blob, bytes):
                self._refused(blob)
                return Reading(failed=True)
            if len(blob) > LARGE:
                envelope = yield Blocking(self._open, blob, address, epoch, now, reading)
            else:
                envelope = self._open(blob, address, epoch, now, reading)
            if envelope is not None:
                found[address] = envelope
        if found and self._lives is not None:
            since = self._lives.known(epoch, self.connections.lives)
            if since is None:
                since = yield from self._vouching(self._lives, epoch)
            if since and any(envelope.born < since for envelope in found.values()):
                reading.vouched = (epoch, 0)
        return reading

    def _vouching(self, lives: ServerLives, epoch: str) -> Plan[float]:
        """Answer the position since which the servers vouch; all of them are met as soon as one is needed in an epoch."""
        if not lives.met(epoch):
            try:
                for index in range((yield from self.connections.master_count())):
                    yield self.connections.commands(("PING",), node=index)
            except Unavailable:
                self.failures.add()
        return (yield from lives.since(epoch, self.connections.lives)) if self.connections.lives else 0

    def _open(self, blob: bytes, address: Address, epoch: str, now: float, reading: Reading) -> Envelope | None:
        """Decode an envelope; None for a tombstone, one past its time, or one that is corrupt or not this entry's."""
        try:
            envelope = unpack(blob)
            if envelope.flags & TOMBSTONE or envelope.keep_until <= now:
                return None
            # The names are compared because over-long ones are hashed.
            if envelope.epoch == epoch and envelope.key == address.key and envelope.scope == address.scope:
                return envelope
        except EnvelopeError:  # which matters to nobody where the header says that nothing is here, or was until now
            whole = blob[:3] == MAGIC and len(blob) >= HEADER_SIZE
            if whole and (blob[3:4] in _TOMBSTONES or blob[KEEP_AT:FRESH_AT] <= b"%016x" % int(now * 1000)):
                return None
        reading.corrupt += 1
        self.corrupt.add()
        return None

    def _refused(self, error: object) -> None:
        self.failures.add()
        code, now = str(error).partition(" ")[0], self._clock.monotonic()
        if now >= self._told.get(code, now):
            self._told[code] = now + TOLD_AGAIN
            logger.warning(
                "Redis refuses what the cache asks of it: %s", error, extra={"server": self.connections.name}
            )

    # -- writing ---------------------------------------------------------------------------------

    def _ttl_ms(self, region: str, keep_until: float) -> int:
        """Return how long to keep it, in ms; 0 where neither the entry nor the tier has an end."""
        seconds = self._keeps(region, keep_until - self._clock.wall())
        return 0 if seconds == math.inf else max(math.ceil(seconds * 1000), 1)

    def put_if_newer(self, address: Address, envelope: Envelope, guard: Guard) -> Plan[Put]:
        """See `Tier`."""
        blob = pack(envelope) if len(envelope.payload) <= LARGE else (yield Blocking(pack, envelope))
        if self._largest is not None and len(envelope.payload) > self._largest:
            self.oversized.add()
            return Put.FAILED
        if self._lives is not None and not self._lives.met(envelope.epoch):
            yield from self._vouching(self._lives, envelope.epoch)
        begun = -1 if guard.begun is None else int(guard.begun * 1000)
        reply = yield from self._call(
            scripts.PUT.call(
                (self.key_of(address, envelope.epoch),),
                blob,
                self._ttl_ms(address.region, envelope.keep_until),
                round(guard.fence * 1000),
                begun,
                self._max_load_ms,
            )
        )
        return _PUTS.get(reply, Put.FAILED)

    def bury(self, address: Address, epoch: str, position: int, fence: float) -> Plan[bool]:
        """See `Tier`; repeating it changes nothing, so it is sent again where its outcome is unknown."""
        return self.bury_many([(address, position)], epoch, fence)

    def bury_many(self, graves: Sequence[tuple[Address, int]], epoch: str, fence: float) -> Plan[bool]:
        """Bury several in one round trip (the carrier's work); says whether all were."""
        calls = [
            scripts.BURY.call((self.key_of(address, epoch),), tombstone(position, 0), round(fence * 1000))
            for address, position in graves
        ]
        replies = yield from self._call_many(calls, retry=True)
        return replies is not None and not any(isinstance(reply, Exception) for reply in replies)

    def renew(self, address: Address, seen: Envelope, renewed: Envelope) -> Plan[bool]:
        """See `Tier`; compares everything but the fence, which is not the entry's."""
        reply = yield from self._call(
            scripts.RENEW.call(
                (self.key_of(address, seen.epoch),),
                pack(seen)[:_IDENTITY],
                pack(renewed),
                self._ttl_ms(address.region, renewed.keep_until),
            )
        )
        return bool(reply == 1)

    def remove(self, addresses: Sequence[Address], epoch: str) -> Plan[int]:
        """See `Tier`; what a fence protects becomes a tombstone until the fence ends."""
        calls = [scripts.REMOVE.call((self.key_of(address, epoch),)) for address in addresses]
        replies = yield from self._call_many(calls)
        return sum(reply for reply in replies or () if isinstance(reply, int))

    def write_of(self, address: Address, envelope: Envelope, fence: float) -> tuple[str, bytes, int, int]:
        """Return the (key, blob, ttl, fence) of `coherence.log.Write`, for an append that stores in the same step.

        The key is without fleet and epoch; times are in ms. The script that stores it fills in `born`, and keeps
        the fence as PUT and BURY do.
        """
        ttl = self._ttl_ms(address.region, envelope.keep_until)
        return keys.storage_key(*address), pack(envelope), ttl, round(fence * 1000)

    def _call(self, command: Command, *, retry: bool = False) -> Plan[Any]:
        """Answer the reply of one command; None where there is none."""
        replies = yield from self._call_many((command,), retry=retry)
        return replies[0] if replies and not isinstance(replies[0], Exception) else None

    def _call_many(self, commands: Sequence[Command], *, retry: bool = False) -> Plan[list[Any] | None]:
        if not commands:
            return []
        request = self.connections.commands(*commands, timeout=self.connections.write_timeout, retry=retry)
        try:
            try:
                replies: list[Any] = yield request
            except Unavailable as error:
                if not (retry and error.dropped):
                    raise
                replies = yield request  # `close` took the connection away: a lease must be given back all the same
        except Unavailable:
            self.failures.add()
            return None
        for reply in replies:
            if isinstance(reply, Exception):
                self._refused(reply)
                break
        return replies

    # -- walking ---------------------------------------------------------------------------------

    def scan(self, epoch: str, cursor: int = 0, count: int = 500) -> Plan[tuple[int, list[tuple[Address, Envelope]]]]:
        """See `Tier`; a cursor of `FAILED_SCAN` says that Redis did not answer and the walk is not complete.

        In a Cluster the masters are walked one after the other; the cursor's low bits say which.
        """
        master, position = (0, 0) if cursor <= 0 else (cursor & 0xFFF, cursor >> 12)
        pattern = keys.escape_glob(f"{self._fleet}:{epoch}:") + "*"
        try:
            masters = yield from self.connections.master_count()
            replies = yield self.connections.commands(("SCAN", position, "MATCH", pattern, "COUNT", count), node=master)
            if isinstance(replies[0], Exception):
                self._refused(replies[0])
                return FAILED_SCAN, []
            following, names = int(replies[0][0]), replies[0][1]
            blobs = yield self.connections.commands(*(("GET", name) for name in names)) if names else _Nothing()
        except Unavailable:
            self.failures.add()
            return FAILED_SCAN, []
        now = self._clock.wall()
        skip = len(f"{self._fleet}:{epoch}:")
        reading = Reading()
        entries = []
        for name, blob in zip(names, blobs, strict=True):
            address = _address(name, skip, blob)
            if address is not None:
                envelope = self._open(blob, address, epoch, now, reading)
                if envelope is not None:
                    entries.append((address, envelope))
        if following:
            return following << 12 | master, entries
        return (master + 1 if master + 1 < masters else 0), entries

    # -- leases ----------------------------------------------------------------------------------

    def take(self, name: str, token: str, ttl: float) -> Plan[bool | None]:
        """Take the lease `name` for `ttl` seconds, or find that the token has it; None: no answer.

        A lease that another has is marked as awaited.
        """
        reply = yield from self._call(
            scripts.TAKE_LEASE.call((self._lease_key(name),), token, _lease_ms(ttl)), retry=True
        )
        return None if reply is None else bool(reply)

    def keep(self, name: str, token: str, ttl: float) -> Plan[bool]:
        """Prolong a lease; False where the token no longer has it."""
        reply = yield from self._call(
            scripts.RENEW_LEASE.call((self._lease_key(name),), token, _lease_ms(ttl)), retry=True
        )
        return bool(reply == 1)

    def give(self, name: str, token: str) -> Plan[bool | None]:
        """Give a lease back and say whether it is awaited (None: no answer); what another token has is left alone."""
        reply = yield from self._call(scripts.GIVE_LEASE.call((self._lease_key(name),), token), retry=True)
        return None if reply is None else bool(reply == 2)

    def holder(self, name: str) -> Plan[str | None]:
        """Answer the token that has a lease."""
        reply = yield from self._call(("GET", self._lease_key(name)))
        return reply.decode("utf-8", "replace").removesuffix(scripts.AWAITED) if isinstance(reply, bytes) else None

    def lease(self, address: Address, token: str, ttl: float) -> Plan[bool]:
        """`take` the lease of an entry's load; no answer counts as having it."""
        return (yield from self.take(keys.storage_key(*address), token, ttl)) is not False

    def renew_lease(self, address: Address, token: str, ttl: float) -> Plan[bool]:
        """`keep` the lease of an entry's load."""
        return self.keep(keys.storage_key(*address), token, ttl)

    def release(self, address: Address, token: str) -> Plan[bool | None]:
        """`give` back the lease of an entry's load."""
        return self.give(keys.storage_key(*address), token)

    def peek(self, address: Address) -> Plan[str | None]:
        """Answer the token that has the lease of an entry's load."""
        return self.holder(keys.storage_key(*address))

    def close(self) -> Plan[None]:
        """See `Tier`."""
        yield _Closing(self.connections)


class _Nothing:
    """A request for no commands."""

    def run(self) -> list[Any]:
        return []

    async def run_async(self) -> list[Any]:
        return []


class _Closing:
    """A request that closes connections."""

    def __init__(self, connections: RedisConnections) -> None:
        self._connections = connections

    def run(self) -> None:
        self._connections.close()

    async def run_async(self) -> None:
        await self._connections.close_async()


def _lease_ms(ttl: float) -> int:
    """Return for how long Redis keeps a lease; of one without an end, for as long as it keeps anything."""
    return max(round(min(ttl, LONGEST_LEASE) * 1000), 1)


def _address(name: bytes, skip: int, blob: object) -> Address | None:
    """Return whose entry a key holds; hashed names are completed from the envelope."""
    if not isinstance(blob, bytes):
        return None
    try:
        region, scope, key = keys.parse_storage_key(name.decode()[skip:])
        if scope is None or key is None:
            envelope = unpack(blob)
            scope, key = envelope.scope, envelope.key
    except (ValueError, EnvelopeError):
        return None
    return Address(region, scope, key)
