"""The fleet: what each process says of itself with its heartbeat, and what all of them say together."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson

from ..coherence.log import LogUnavailable, Member
from ..monitoring.figures import hit_rates, total
from ..plans import Plan
from .gather import proven_age, sizes_of

if TYPE_CHECKING:
    from ..runtime import Runtime

LARGEST = 400
"""Bytes that a digest may take: all of them travel with every heartbeat of every process."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the fleet, as it described itself with its last heartbeat.

    Attributes:
        name: its name in the fleet. host, pid: where it runs. version: of tiercast; "" where it did not say.
        alive: whether its lease runs. heard: seconds since its last heartbeat.
        epoch, position: what it had applied then. lag: records of the log that it had not; None where that cannot be told.
        proven_age: seconds since it last could prove its memory, by now; None where it never could.
        hit_rates: "overall", "local", "disk", "remote". sizes: "local", in entries. hits, misses: since it began.
        errors: failed operations of its tiers and loaders. waiting: whether invalidations wait in its outbox.
        self: whether it is the process that asks.
    """

    name: str
    host: str
    pid: int
    version: str
    alive: bool
    heard: float
    epoch: str
    position: int
    lag: int | None
    proven_age: float | None
    hit_rates: dict[str, float]
    sizes: dict[str, int]
    hits: int
    misses: int
    errors: int
    waiting: bool
    self: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


@cache
def library_version() -> str:
    """Return the version of tiercast."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tiercast")
    except PackageNotFoundError:  # run from its sources
        return "0"


def digest_of(runtime: Runtime) -> str:
    """Return what this process says of itself: JSON, below 400 bytes."""
    counts = total(runtime.monitor.moment().values())
    rates = hit_rates(counts)
    age = proven_age(runtime)
    sizes = sizes_of(runtime.regions())
    said: dict[str, Any] = {
        "v": library_version()[:40],
        "r": [round(rates[tier], 4) for tier in ("overall", "local", "disk", "remote")],
        "n": int(sizes["local"] or 0),
        "h": [int(sum(counts.starting("hits.").values())), int(counts["misses"])],
        "e": int(sum(counts.starting("errors.").values())),
        "a": None if age is None else round(age, 2),
        "w": int(runtime.coherence.outbox.waiting()),
        "l": 2 * runtime.config.coherence.max_staleness,
    }
    return orjson.dumps(said).decode()


def fleet_of(runtime: Runtime, *, strict: bool = False) -> Plan[list[Process]]:
    """Ask the log who is there; what was last heard where it cannot be reached.

    Raises:
        LogUnavailable: it cannot be reached, and `strict` is set.
    """
    coherence = runtime.coherence
    try:
        members = yield from runtime.log.members()
        tail = yield from runtime.log.read(coherence.position())
        epoch, head = tail.head.epoch, tail.head.position
    except LogUnavailable as exc:
        if strict:
            raise
        coherence.failure = str(exc)
        members, (epoch, _), head = coherence.fleet.seen, coherence.position(), None
    mine = coherence.position()
    members = tuple(
        replace(member, epoch=mine[0], applied=mine[1], digest=digest_of(runtime))
        if member.name == coherence.fleet.member
        else member
        for member in members
    )
    return processes_of(members, epoch, head, 2 * runtime.config.coherence.max_staleness, coherence.fleet.member)


def processes_of(members: Sequence[Member], epoch: str, head: int | None, lease: float, me: str = "") -> list[Process]:
    """Make the list of a fleet's processes.

    Args:
        members: as the log lists them.
        epoch: the log's.
        head: the log's newest position; None where it cannot be reached.
        lease: seconds that a heartbeat is good for, of those that do not say so.
        me: the name of the process that asks.
    """
    found = []
    for member in members:
        host, pid, _ = (*member.name.rsplit(":", 2), "", "")[:3]
        if not pid.isdecimal():
            continue  # it stands for whoever ran before this epoch
        said = read_digest(member.digest)
        heard = max(0.0, said.get("l", lease) + member.lapsed)
        age = said.get("a")
        rates = dict(zip(("overall", "local", "disk", "remote"), said.get("r", ()), strict=False))
        hits, misses = said.get("h", (0, 0))
        found.append(
            Process(
                name=member.name,
                host=host,
                pid=int(pid),
                version=str(said.get("v", "")),
                alive=member.lapsed < 0,
                heard=heard,
                epoch=member.epoch,
                position=member.applied,
                lag=max(0, head - member.applied) if head is not None and member.epoch == epoch else None,
                proven_age=None if age is None else age + heard,
                hit_rates=rates,
                sizes={"local": said.get("n", 0)},
                hits=hits,
                misses=misses,
                errors=said.get("e", 0),
                waiting=bool(said.get("w", 0)),
                self=member.name == me,
            )
        )
    return sorted(found, key=lambda process: (process.host, process.pid))


def read_digest(text: str) -> dict[str, Any]:
    """Return what a process said of itself; nothing where it cannot be read (another version's, or none yet)."""
    try:
        said = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        return {}
    if type(said) is not dict:
        return {}
    kinds: dict[str, Any] = {
        "n": int,
        "e": int,
        "w": int,
        "r": list,
        "h": list,
        "v": str,
        "a": int | float | None,
        "l": int | float,
    }
    said = {name: value for name, value in said.items() if name in kinds and isinstance(value, kinds[name])}
    if len(said.get("h", (0, 0))) != 2 or not all(
        isinstance(each, int | float) for each in (*said.get("h", ()), *said.get("r", ()))
    ):
        said.pop("h", None)
        said.pop("r", None)
    return said


def this_process() -> str:
    """Return where this process runs, as "host:pid"."""
    return f"{socket.gethostname()}:{os.getpid()}"
