"""What a world is made of, drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from simulation.oracle import Name

NAMES = (
    Name("", "apple", ("T",)),
    Name("", "bread", ("T", "U")),
    Name("", "cream", ()),
    Name("o:1", "apple", ("U",)),
    Name("o:1/u:2", "dates", ("T",)),
)
LATE = (
    Name("", "apple", ("T",), "late"),
    Name("o:1", "bread", ("U",), "late"),
    Name("", "cream", ("U",), "later"),
)
"""Of regions that nobody configured: each process makes them when it first uses them."""
OPERATIONS = {
    "load": 34.0, "look": 12.0, "many": 4.0, "refresh": 2.0, "set": 7.0, "delete": 6.0, "write_through": 4.0,
    "aside": 3.0, "retag": 3.0, "touch": 1.0, "tag": 6.0, "scope": 2.0, "pattern": 2.0, "region": 0.6,
    "everything": 0.6, "keys": 3.0, "soft": 2.5, "foreign": 2.0,
}  # fmt: skip
FAULTS = {
    "cut": 5.0, "cut_bus": 3.0, "hang_up": 2.0, "overflow": 1.0, "crash": 3.0, "pause": 3.0, "cancel": 6.0, "stop_all": 1.0,
    "restart_empty": 0.4, "restart_with_data": 0.5, "restart_older": 0.5, "fail_over": 0.5, "flush": 0.4,
    "lose_part": 0.4, "values_fail_over": 0.8, "trim": 2.0, "server_stalls": 1.0, "disk_fails": 1.5, "backup": 3.0,
}  # fmt: skip
FOR_EVER = 100_000.0
"""Seconds that nobody can wait."""
MESSAGE_FAULTS = {"lost": 0.03, "doubled": 0.02, "reordered": 0.02, "mangled": 0.01}


@dataclass(frozen=True)
class Settings:
    """One world.

    Attributes:
        hosts: for each process, the host it runs on. log: "redis", "cluster" or "disk".
        disk, remote: whether there is an L2 and an L3. durable_outbox: or one that dies with its process.
        old_values: whether a server that comes back may bring values of L3 that have been overwritten or buried since.
        every_barrier: whether barriers are held to count with processes that were away for three `max_staleness`, and
            with those of an earlier life of the log's server that it says nothing of.
        threads: of the application, per process.
        think: the longest pause between operations. slow: the longest half of a slow load.
        flaky: how often a request, or its answer, is lost, or comes late. faults_every: steps between faults, about.
        skew: how far wall clocks may differ.
        grace, soft_timeout, hard_timeout, early_refresh, loads_at_once: the regions' settings.
        derived: how often a load reads the last key of all, as its input.
        softly: what soft invalidations are of.
        late: the part of a run, at the most, before a process first uses a region that nobody configured.
        regions: how many names of regions a ledger keeps apart.
    """

    seed: int = 0
    steps: int = 5_000
    hosts: tuple[str, ...] = ("h1", "h1", "h2")
    names: tuple[Name, ...] = NAMES
    tags: tuple[str, ...] = ("T", "U")
    log: str = "redis"
    disk: bool = True
    remote: bool = True
    old_values: bool = False
    every_barrier: bool = False
    durable_outbox: bool = True
    outbox: int = 10_000
    threads: int = 2
    memory: int = 100
    key_ring: int = 1_000
    stamps: int = 1_000
    log_length: int = 1_000
    log_stamps: int = 1_000
    max_staleness: float = 4.0
    heartbeat: float = 1.0
    max_load_time: float = 8.0
    lock_ttl: float = 3.0
    on_outage: str = "load"
    origin_lag: float = 0.0
    policy: str = "lru"
    operations: dict[str, float] = field(default_factory=lambda: dict(OPERATIONS))
    faults: dict[str, float] = field(default_factory=lambda: dict(FAULTS))
    messages: dict[str, float] = field(default_factory=lambda: dict(MESSAGE_FAULTS))
    barriers: float = 0.15
    faults_every: int = 60
    flaky: float = 0.01
    think: float = 0.3
    slow: float = 10.0
    slow_loads: float = 0.15
    failing_loads: float = 0.02
    skew: float = 0.0
    grace: float = 0.0
    soft_timeout: float | None = None
    hard_timeout: float | None = None
    early_refresh: float = 0.0
    loads_at_once: int = 64
    derived: float = 0.0
    softly: tuple[str, ...] = ("key", "key", "tag", "scope", "pattern", "region", "everything")
    late: float = 0.5
    regions: int = 10_000
    split: float = 0.5
    pace: float = 0.002
    ticks: float = 0.01


def drawn(seed: int, **fixed: Any) -> Settings:
    """Return the settings of a seed's world; `fixed` ones are not drawn."""
    rng = random.Random(seed * 7919 + 1)
    choice, draw = rng.choice, rng.random
    log = choice(("redis", "redis", "redis", "cluster", "cluster", "disk"))
    remote = log != "disk" and draw() < 0.92
    disk = log == "disk" or not remote or draw() < 0.6
    hosts = choice((("h1", "h2"), ("h1", "h1", "h2"), ("h1", "h1"), ("h1", "h2", "h3"), ("h1", "h1", "h2", "h2")))
    if log == "disk":
        hosts = ("h1",) * len(hosts)
    operations = {name: weight * choice((0.3, 1.0, 1.0, 2.0)) for name, weight in OPERATIONS.items()}
    faults = {name: weight * choice((0.0, 1.0, 1.0, 2.0)) for name, weight in FAULTS.items()}
    calm = draw() < 0.1
    grace = choice((0.0, 0.0, 2.0, 20.0, 20.0))
    settings = Settings(
        seed=seed,
        hosts=hosts,
        names=NAMES[: choice((1, 2, 3, 5))] + LATE[: choice((0, 0, 1, 3))],
        log=log,
        disk=disk,
        remote=remote,
        old_values=True,
        durable_outbox=draw() < 0.7,
        outbox=choice((3, 10_000, 10_000)),
        threads=choice((1, 2, 2, 3)),
        memory=choice((2, 100, 100)),
        key_ring=choice((1, 2, 4, 1_000, 1_000)),
        stamps=choice((1, 2, 4, 1_000, 1_000)),
        log_length=choice((4, 20, 1_000)),
        log_stamps=choice((2, 4, 1_000, 1_000)),
        on_outage="serve" if draw() < 0.06 else "load",
        origin_lag=choice((0.0,) * 7 + (0.5,)),
        policy=choice(("lru", "lru", "sieve", "s3fifo", "fifo")),
        operations=operations,
        faults=faults,
        messages=MESSAGE_FAULTS if not calm else {},
        faults_every=100_000_000 if calm else choice((25, 60, 120)),
        flaky=0.0 if calm else choice((0.0, 0.003, 0.02)),
        think=choice((0.05, 0.3, 1.0)),
        slow_loads=choice((0.02, 0.15, 0.4)),
        failing_loads=choice((0.02, 0.3, 0.7)) if grace else 0.02,
        grace=grace,
        soft_timeout=choice((None, None, 0.0, 0.3)),
        hard_timeout=choice((None, None, None, 2.0)),
        early_refresh=choice((0.0, 0.0, 1.0)),
        loads_at_once=choice((1, 64, 64)),
        derived=choice((0.0, 0.0, 0.3)),
        late=choice((0.0, 0.5)),
        regions=choice((1, 2, 10_000, 10_000)),
        skew=choice((0.0, 0.0, 5.0)),
        split=choice((0.2, 0.5, 0.8)),
        pace=choice((0.0005, 0.002, 0.01)),
        ticks=choice((0.003, 0.01, 0.03)),
        lock_ttl=choice((3.0, FOR_EVER)),
    )
    return replace(settings, **fixed)
