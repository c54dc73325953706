"""The doctor: looks at everything that a fleet needs, and says of each what to do.

What it writes lies under names of its own and is gone within a minute.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..coherence.log import LogUnavailable
from ..coherence.redis_scripts import LogKeys
from ..connections import Script
from ..errors import ConfigError, TiercastError
from ..observing.checks import LEAST_FREE, directories_of
from ..observing.fleet import fleet_of, library_version
from ..plans import drive
from ..tiers.disk_directory import check_directory

if TYPE_CHECKING:
    from ..connections import RedisConnections
    from ..manager import CacheManager

OLDEST = (6, 2)
"""The oldest Redis whose commands suffice."""
SKEW = 1.0
"""Seconds that this host's clock may differ from Redis's: deadlines are told by wall clocks."""
SHORT = 512 * 1024 * 1024
"""Bytes free below which the doctor warns, before the cache itself complains."""
PROBE = Script("return redis.call('SET', KEYS[1], '1', 'PX', 1)")
"""Says whether scripts may be sent, and called by their digest."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: "ok", "note" (worth knowing), "warning" (will hurt one day) or "error" (does not work).
        check: what was looked at. text: what was found. todo: what to do about it.
    """

    level: str
    check: str
    text: str
    todo: str = ""


def examine(cache: CacheManager, statvfs: Callable[[str], Any] | None = None) -> Iterator[Finding]:
    """Yield what is found, as it is found; ends early where nothing more can be found out."""
    runtime = cache._runtime
    yield Finding("ok", "tiercast", f"version {library_version()}, log: {runtime.log.kind}, fleet: {runtime.fleet}")
    yield from _directories(cache, statvfs or os.statvfs)
    connections = runtime.connections
    if connections is not None:
        reachable = yield from _server(connections)
        if not reachable:
            return
        allowed = yield from _permissions(connections, runtime.fleet)
        if not allowed:
            return
    if runtime.log.kind == "memory":
        yield Finding(
            "note", "fleet", "memory only: each process has a cache of its own, and invalidations stay in it",
            "name a Redis (REDIS_URL) or a directory if several processes are to agree",
        )  # fmt: skip
        return
    readable = yield from _fleet(cache)
    if readable:
        yield from _canary(cache)


# -- Redis ----------------------------------------------------------------------------------------


def _ask(connections: RedisConnections, *commands: tuple[Any, ...]) -> list[Any]:
    return connections.execute(commands, timeout=2.0)


def _server(connections: RedisConnections) -> Generator[Finding, None, bool]:
    from ..connections import Unavailable

    try:
        (reply,) = _ask(connections, ("PING",))
        if isinstance(reply, Exception):
            raise Unavailable(str(reply))
        replies = _ask(connections, ("INFO", "server"), ("INFO", "memory"), ("INFO", "replication"))
    except Unavailable as exc:
        yield _unreachable(connections.name, str(exc))
        return False
    sections = [_fields(reply) for reply in replies]
    info = {name: value for section in sections for name, value in section.items()}
    yield Finding("ok", "connection", f"{connections.name} answers")
    yield _version(info.get("redis_version", ""))
    yield _eviction(info)
    yield _clock(connections)
    return True


def _unreachable(name: str, reason: str) -> Finding:
    reason = reason.removeprefix(f"{name}: ")
    trouble = _trouble(reason)
    if trouble is not None:
        return trouble
    lower = reason.lower()
    refusals = ("wrongpass", "noauth", "invalid username-password", "authentication", "without any password")
    if any(refusal in lower for refusal in refusals):
        return Finding(
            "error", "connection", f"{name} refuses the password: {reason}",
            "check user and password in the connection string (percent-encode special characters), and `ACL LIST`",
        )  # fmt: skip
    if "noperm" in lower:
        return Finding(
            "error", "connection", f"{name} lets this user in, but not do anything: {reason}",
            "grant the user what `tiercast doctor` lists, see docs/operating.md",
        )  # fmt: skip
    if "db index" in lower:
        return Finding(
            "error", "connection", f"{name} has no such database: {reason}",
            "name another in the connection string, or raise `databases` in redis.conf",
        )  # fmt: skip
    return Finding(
        "error", "connection", f"{name} cannot be reached: {reason}",
        "is the server running, is the address right, does a firewall or TLS (rediss://) stand between?",
    )  # fmt: skip


def _fields(reply: object) -> dict[str, str]:
    if not isinstance(reply, bytes):
        return {}
    lines = (line.partition(":") for line in reply.decode("utf-8", "replace").splitlines())
    return {name: value for name, _, value in lines}


def _version(version: str) -> Finding:
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if not numbers:
        return Finding("note", "version", "the server does not say its version (INFO is refused)")
    if numbers < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return Finding("error", "version", f"Redis {version} is too old", f"use Redis {wanted} or newer, or Valkey")
    return Finding("ok", "version", f"Redis {version}")


def _eviction(info: dict[str, str]) -> Finding:
    policy, limit = info.get("maxmemory_policy", ""), int(info.get("maxmemory", "0") or 0)
    if not policy:
        return Finding(
            "note", "eviction", "the server does not say its maxmemory-policy", "make sure that it is noeviction"
        )
    if policy == "noeviction":
        return Finding("ok", "eviction", "maxmemory-policy is noeviction")
    what = {
        "allkeys": "may drop the log itself: every process then drops all it has cached and begins anew",
        "volatile": "may drop fences, so that a slow load brings back what was deleted, and leases",
    }[policy.partition("-")[0]]
    todo = (
        "set maxmemory-policy noeviction and bound the cache by TTLs, or give it a server of its own with enough memory"
    )
    if not limit:
        return Finding("warning", "eviction", f"maxmemory-policy {policy} {what}; maxmemory is 0, so not yet", todo)
    return Finding("error", "eviction", f"maxmemory-policy {policy} with maxmemory {limit} {what}", todo)


def _clock(connections: RedisConnections) -> Finding:
    before = time.time()
    (reply,) = _ask(connections, ("TIME",))
    after = time.time()
    if not isinstance(reply, list):
        return Finding("note", "clock", "the server does not tell its time (TIME is refused)", "grant +time")
    there = int(reply[0]) + int(reply[1]) / 1_000_000
    skew = (before + after) / 2 - there
    if abs(skew) > SKEW + (after - before) / 2:
        return Finding(
            "warning", "clock", f"this host's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} Redis's",
            "run NTP on both: TTLs are told by wall clocks (the order of invalidations is not)",
        )  # fmt: skip
    return Finding("ok", "clock", f"within {max(abs(skew), 0.001):.3f} s of Redis's")


def _permissions(connections: RedisConnections, fleet: str) -> Generator[Finding, None, bool]:
    from ..connections import Unavailable

    nonce = secrets.token_hex(4)
    value, log = f"{fleet}:doctor:{nonce}", f"{LogKeys.of(fleet).log}:doctor:{nonce}"
    probes: Sequence[tuple[str, str, list[tuple[Any, ...]]]] = (
        ("values", "+get +set +pexpire +del", [("SET", value, "1", "PX", 60_000), ("GET", value), ("PEXPIRE", value, 1)]),
        ("the log", "+hset +xadd +zadd +pexpire", [
            ("HSET", f"{log}:h", "a", "1"), ("PEXPIRE", f"{log}:h", 1),
            ("XADD", f"{log}:x", "*", "a", "1"), ("PEXPIRE", f"{log}:x", 1),
            ("ZADD", f"{log}:z", "1", "a"), ("PEXPIRE", f"{log}:z", 1),
        ]),
        ("scripts", "+eval +evalsha", [("EVAL", PROBE.text, 1, value), ("EVALSHA", PROBE.digest, 1, value)]),
        ("the bus", "+publish", [("PUBLISH", f"{LogKeys.of(fleet).bus}:doctor", "")]),
        ("walking (purge)", "+scan", [("SCAN", 0, "COUNT", 1)]),
        ("telling lives of the server apart", "+info", [("INFO", "server")]),
    )  # fmt: skip
    refused = []
    for what, grant, commands in probes:
        try:
            reasons = [str(reply) for reply in _ask(connections, *commands) if isinstance(reply, Exception)]
        except Unavailable as exc:  # a replica that refuses to write, say
            reasons = [str(exc)]
        refused += [(what, grant, reason) for reason in reasons[:1]]
    if not refused:
        yield Finding("ok", "permissions", "values, log, scripts and bus may be read and written")
        return True
    for what, grant, reason in refused:
        trouble = _trouble(reason)
        if trouble is not None:  # of the server, not of this user: the same for all that writes
            yield trouble
            return False
        yield Finding(
            "error", "permissions", f"{what}: {reason}",
            f"grant this user {grant} on ~{fleet}:* ~tiercast:{{{fleet}}}:* and &tiercast:{{{fleet}}}:*, "
            "and check that the server is no read-only replica",
        )  # fmt: skip
    return False


TROUBLES = {
    "OOM": (
        "memory",
        "raise maxmemory, or shorten TTLs: nothing can be stored and nothing invalidated in Redis meanwhile",
    ),
    "READONLY": ("replica", "name the master in the connection string, or ask a Sentinel for it (redis+sentinel://)"),
    "MISCONF": ("persistence", "make room on the server's disk, or set stop-writes-on-bgsave-error no"),
    "LOADING": ("loading", "the server reads its snapshot from disk; try again in a moment"),
}
"""Why a server refuses to work, by the first word of what it says: what was looked at, and what to do."""


def _trouble(reason: str) -> Finding | None:
    found = TROUBLES.get(reason.partition(" ")[0])
    return None if found is None else Finding("error", found[0], reason, found[1])


# -- the fleet ------------------------------------------------------------------------------------


def _fleet(cache: CacheManager) -> Generator[Finding, None, bool]:
    runtime = cache._runtime
    try:
        fleet = drive(fleet_of(runtime, strict=True))
    except LogUnavailable as exc:
        yield Finding("error", "fleet", f"the log cannot be read: {exc}", "see the findings above")
        return False
    living = [process for process in fleet if process.alive]
    versions = sorted({process.version for process in living if process.version} | {library_version()})
    hosts = len({each.host for each in living})
    yield Finding("ok", "fleet", f"{_counted(len(living), 'live process', 'es')} on {_counted(hosts, 'host', 's')}")
    if len(versions) > 1:
        others = [f"{each.host}:{each.pid} ({each.version})" for each in living if each.version != library_version()]
        yield Finding(
            "warning", "versions",
            f"the name {runtime.fleet!r} is shared by tiercast {', '.join(versions)}: {', '.join(others[:5])}",
            "fine while a release rolls out; if it is another service, give each its own `name` in CacheConfig: "
            "they share entries and invalidations",
        )  # fmt: skip
    for process in living:
        if process.lag is None or process.lag > 1000:
            yield Finding(
                "warning", "lag", f"{process.host}:{process.pid} is {process.lag or 'an epoch'} behind",
                "it serves nothing unproven; see whether it is stopped, swapping, or cut off",
            )  # fmt: skip
        if process.waiting:
            yield Finding(
                "warning", "outbox", f"{process.host}:{process.pid} has invalidations that Redis has not got",
                "they are replayed by themselves once it reaches Redis",
            )  # fmt: skip
    return True


def _counted(number: int, what: str, plural: str) -> str:
    return f"{number} {what}{plural if number != 1 else ''}"


def _canary(cache: CacheManager) -> Iterator[Finding]:
    coherence = cache._runtime.coherence
    if coherence.listen is not None:
        began = time.monotonic()
        try:
            with closing(coherence.listen()):
                pass
        except (LogUnavailable, OSError) as exc:
            yield Finding(
                "error", "canary", f"a message to oneself was not heard: {exc}",
                "grant +subscribe and the channel, and look for a proxy that does not carry Pub/Sub; "
                "until then processes hear of changes only with each heartbeat",
            )  # fmt: skip
        else:
            yield Finding("ok", "canary", f"published and heard within {(time.monotonic() - began) * 1000:.0f} ms")
    began = time.monotonic()
    try:
        cache.coherence.start(10.0)
    except TiercastError as exc:
        yield Finding("error", "proof", str(exc), "memory is not trusted until this works; see the findings above")
    else:
        position = coherence.position()[1]
        took = (time.monotonic() - began) * 1000
        yield Finding("ok", "proof", f"coherence proven at position {position} within {took:.0f} ms")
    if coherence.outbox.waiting():
        yield Finding(
            "warning", "outbox", "invalidations of this host wait in the outbox", "they go out with the next heartbeat"
        )


# -- disks ----------------------------------------------------------------------------------------


def _directories(cache: CacheManager, statvfs: Callable[[str], Any]) -> Iterator[Finding]:
    runtime = cache._runtime
    directories = directories_of(runtime)
    if runtime.log.kind == "redis" and not directories:
        yield Finding(
            "note", "outbox", "in memory: invalidations made while Redis is away die with their process",
            "set coherence.outbox_directory to keep them",
        )  # fmt: skip
    for directory in directories:
        try:
            check_directory(directory)
        except ConfigError as exc:
            yield Finding("error", "directory", str(exc), "see the message; the disk tier is off until then")
            continue
        there = Path(directory)
        while not there.exists() and there != there.parent:
            there = there.parent
        if not os.access(there, os.W_OK | os.X_OK):
            yield Finding(
                "error", "directory", f"{directory} cannot be written by this user", "change its owner or mode"
            )
            continue
        found = statvfs(str(there))
        free = found.f_bavail * found.f_frsize
        shown = f"{free // 1024 // 1024} MB free in {directory}"
        if free < LEAST_FREE:
            yield Finding(
                "error", "disk space", shown, "make room, or set a smaller max_size_mb: writes fail, reads go on"
            )
        elif free < SHORT:
            yield Finding("warning", "disk space", shown, "make room, or set a smaller max_size_mb")
        else:
            yield Finding("ok", "disk space", shown)
