"""Rules of the design, each broken on purpose: the simulator has to find every one of them.

A mutant is an edit of the source of one function of the library (or one switch of the models). An edit whose
place is no longer there raises, so that a mutant cannot quietly become the real thing.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from simulation.log_server import LogServer
from simulation.settings import FOR_EVER, LATE, NAMES
from simulation.sim_tiers import SimRemote
from simulation.value_server import ValueServer
from tiercast.coherence import coherence, judging, ledger
from tiercast.config import CoherenceConfig
from tiercast.loading import finding, leases, reading, stale, storing, writing
from tiercast.parts import Parts
from tiercast.region import Region
from tiercast.runtime import Runtime
from tiercast.tiers.lives import ServerLives

Coherence = coherence.Coherence


@dataclass(frozen=True)
class Edit:
    """A change of one function: `old` becomes `new` in its source."""

    owner: Any
    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Switch:
    """A change of one attribute."""

    owner: Any
    name: str
    value: Any


@dataclass(frozen=True)
class Mutant:
    """A broken rule.

    Attributes:
        rule: what is broken.
        changes: how.
        world: settings in which it does harm soon.
    """

    rule: str
    changes: tuple[Edit | Switch, ...]
    world: dict[str, Any] = field(default_factory=dict)


@contextmanager
def broken(mutant: Mutant) -> Iterator[None]:
    """Break the rule for a while."""
    with ExitStack() as stack:
        for change in mutant.changes:
            before = inspect.getattr_static(change.owner, change.name)
            after = change.value if isinstance(change, Switch) else edited(change)
            for owner in owners(change.owner, change.name, before):
                stack.callback(setattr, owner, change.name, before)
                setattr(owner, change.name, after)
        yield


def owners(owner: Any, name: str, value: Any) -> list[Any]:
    """Return whoever has it under its name: a function of a module may have been imported by others."""
    if not inspect.ismodule(owner):
        return [owner]
    modules = [module for at, module in list(sys.modules.items()) if at.startswith("tiercast.")]
    return [module for module in modules if vars(module).get(name) is value]


def edited(edit: Edit) -> Any:
    """Return the function with its source changed.

    Raises:
        LookupError: the source does not hold what is to be changed, once.
    """
    function = inspect.getattr_static(edit.owner, edit.name)
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(edit.old) != 1:
        raise LookupError(f"{function.__qualname__} does not hold {edit.old!r} once: bring the mutant up to date")
    module = sys.modules[function.__module__]
    # Names of the module are looked up where the real function looks them up.
    namespace: dict[str, Any] = {}
    exec(
        compile(source.replace(edit.old, edit.new), f"<mutant of {function.__qualname__}>", "exec"),
        vars(module),
        namespace,
    )
    return namespace[edit.name]


CALM = {
    "flaky": 0.0, "messages": {}, "faults_every": 100_000_000, "skew": 0.0, "key_ring": 1_000, "stamps": 1_000,
    "log_stamps": 1_000, "log_length": 1_000, "memory": 100, "on_outage": "load", "origin_lag": 0.0, "think": 0.05,
    "slow_loads": 0.3, "split": 0.5, "ticks": 0.01, "pace": 0.002, "outbox": 10_000, "policy": "lru", "steps": 3_000,
    "grace": 0.0, "failing_loads": 0.02, "soft_timeout": None, "hard_timeout": None, "early_refresh": 0.0,
    "loads_at_once": 64, "derived": 0.0, "late": 0.0, "regions": 10_000, "names": NAMES[:3], "lock_ttl": 3.0,
}  # fmt: skip
REDIS = {**CALM, "log": "redis", "remote": True, "disk": False, "hosts": ("h1", "h2"), "threads": 2}
DISK = {**REDIS, "disk": True, "hosts": ("h1", "h1", "h2")}
CLUSTER = {**REDIS, "log": "cluster"}
STORMY = {"faults_every": 40, "flaky": 0.01, "durable_outbox": True}


def faults(**weights: float) -> dict[str, Any]:
    """Return settings in which only these faults happen, often."""
    return {"faults": weights, "faults_every": 60}


SOFT = {"operations": {"load": 8.0, "look": 6.0, "soft": 4.0, "delete": 1.0, "refresh": 1.0}}
GRACE = {"grace": 20.0, "failing_loads": 0.6}
SOFT_KEYS = {**SOFT, "names": NAMES[:2], "softly": ("key",), "key_ring": 1}
LATER = {"names": NAMES[:1] + LATE, "late": 0.5}
LOSSY = {**STORMY, **faults(lose_part=1.0), "flaky": 0.35}
CUT = {**faults(cut=3.0, pause=1.0), "barriers": 0.0}

MUTANTS = (
    Mutant(
        "a fill enters memory under the ledger's check",
        (
            Edit(
                Region,
                "insert",
                "if verdict is DEAD or verdict is UNKNOWN:",
                "if local is None and (verdict is DEAD or verdict is UNKNOWN):",
            ),
        ),
        REDIS,
    ),
    Mutant(
        "what is promoted from below is judged",
        (
            Edit(Region, "take_in", "if verdict is DEAD or verdict is UNKNOWN:", "if False:"),
            Edit(Region, "insert", "if verdict is DEAD or verdict is UNKNOWN:", "if False:"),
        ),
        REDIS,
    ),
    Mutant(
        "catching up takes out of memory what it applies",
        (
            Edit(
                Coherence,
                "_apply",
                "self._remove(ledger.apply(record))",
                "(list if __import__('sys')._getframe(1).f_code.co_name == '_follow' else self._remove)(ledger.apply(record))",
            ),
        ),
        {**REDIS, "messages": {"lost": 0.3}},
    ),
    Mutant(
        "an epoch is one life of one server",
        (Switch(LogServer, "binds_run", False),),
        {**REDIS, **faults(backup=3.0, fail_over=2.0)},
    ),
    Mutant(
        "below the ring's floor nothing is known",
        (
            Edit(
                judging.RegionLedger,
                "judge",
                "if born < ledger.floor and vouched < ledger.floor:",
                "if born > ledger.floor and vouched > ledger.applied:",
            ),
        ),
        {**DISK, "key_ring": 1, **faults(crash=2.0, cut_bus=1.0)},
    ),
    Mutant(
        "a server of L3 vouches only since the fleet first saw its present life",
        (Edit(ServerLives, "since", "if first is None:", "if (first := first and 0) is None:"),),
        {**CLUSTER, "key_ring": 1, **faults(crash=3.0, backup=3.0, values_fail_over=2.0)},
    ),
    Mutant(
        "a server of L3 vouches for nothing where the log knows no such life in the reader's epoch",
        (Edit(ServerLives, "since", "return math.inf", "return 0"),),
        {
            **REDIS,
            "names": NAMES[:2],
            "key_ring": 1,
            "threads": 4,
            "pace": 0.0005,
            "operations": {"look": 10.0, "load": 10.0, "keys": 3.0, "foreign": 2.0},
            **faults(backup=3.0, restart_older=2.0, crash=2.0),
            "faults_every": 12,
        },
    ),
    Mutant(
        "L3 vouches as far as was carried, not as far as was applied",
        (Edit(finding, "vouched_by", "return carried", "return 1 << 60"),),
        {**CLUSTER, "key_ring": 1, **faults(crash=3.0, cut=1.0)},
    ),
    Mutant(
        "who joins a flight judges what it brought",
        (Edit(reading, "_counts", "if not isinstance(outcome, Landed):", "if True:"),),
        {**REDIS, "threads": 3},
    ),
    Mutant(
        "a fence stands as long as a load may take",
        (Switch(CoherenceConfig, "fence", property(lambda self: 0.01)),),
        {
            **REDIS,
            "key_ring": 1,
            "slow_loads": 0.8,
            "slow": 6.0,
            "heartbeat": 3.9,
            "think": 0.5,
            "operations": {"load": 10.0, "delete": 4.0, "look": 2.0},
            "messages": {"lost": 0.9},
        },
    ),
    Mutant(
        "loads are judged by the server's clock",
        (
            Switch(
                ValueServer,
                "put",
                lambda self, name, envelope, ttl, fence, begun, _put=ValueServer.put: _put(
                    self, name, envelope, ttl, fence, None
                ),
            ),
        ),
        {
            **REDIS,
            "key_ring": 1,
            "slow_loads": 0.8,
            "slow": 1.0,
            "max_load_time": 0.3,
            "max_staleness": 1.2,
            "heartbeat": 0.2,
            "think": 1.5,
            "operations": {"load": 5.0, "foreign": 1.0, "delete": 2.0},
            **faults(pause=6.0),
            "faults_every": 20,
        },
    ),
    Mutant(
        "a record that waits in the outbox kills here all but what is loaded after it",
        (
            Edit(
                ledger.Ledger,
                "mark_pending",
                "sequence = self._last_mark = self.local_sequence",
                "return self.local_sequence",
            ),
        ),
        {**REDIS, **CUT},
    ),
    Mutant(
        "nothing is proven while a record waits in the outbox",
        (Edit(Coherence, "beat", "clear = not self.outbox.waiting()", "clear = True"),),
        {
            **REDIS,
            "names": NAMES[:2],
            "hosts": ("h1", "h1"),
            "durable_outbox": True,
            **STORMY,
            **faults(cut=3.0, crash=1.0, cancel=3.0),
        },
    ),
    Mutant(
        "the outbox is replayed",
        (
            Edit(
                Coherence,
                "replay",
                "appended = yield from self.log.append(",
                "self.outbox.done(batch)\n            continue\n            appended = yield from self.log.append(",
            ),
        ),
        {**REDIS, **CUT},
    ),
    Mutant(
        "a barrier waits for those whose lease has lapsed",
        (
            Edit(
                Coherence,
                "_not_applied",
                "member.lapsed < 0 or (member.lapsed < limit and waited < limit)",
                "member.lapsed < 0",
            ),
            Edit(Coherence, "_register", "2 * self.settings.max_staleness", "0.1"),
        ),
        {**REDIS, **CUT, "barriers": 0.9},
    ),
    Mutant(
        "the epoch is part of a key's name in L3",
        (Switch(SimRemote, "names_epoch", False), Switch(LogServer, "names_epoch", False)),
        {**REDIS, **faults(flush=1.0, lose_part=3.0)},
    ),
    Mutant(
        "who is behind the disk's position writes nothing to it",
        (Edit(storing, "put_disk", "or ledger.applied < pair[1]:", "or False:"),),
        {
            **DISK,
            "remote": False,
            "hosts": ("h1", "h1"),
            "key_ring": 1,
            "slow_loads": 0.5,
            "slow": 3.0,
            "heartbeat": 3.0,
            **faults(cut_bus=3.0, crash=2.0),
        },
    ),
    Mutant(
        "what was left for later is judged when it is written",
        (Edit(storing, "put_disk", "put_later(address, envelope, guard)", "put_later(address, envelope, Guard())"),),
        {**DISK, "key_ring": 1, "memory": 2, "operations": {"load": 6.0, "look": 6.0, "delete": 3.0}},
    ),
    Mutant(
        "the disk's position moves in the transaction that removes",
        (Edit(Coherence, "follow_stores", "keys_of(records)", "[]"),),
        {**DISK, "key_ring": 1, **faults(crash=3.0)},
    ),
    Mutant(
        "one's own append jumps over no gap",
        (
            Edit(
                Coherence,
                "append",
                "yield from self._follow(appended.tail)",
                "ledger = self.ledger\n        if ledger.epoch == appended.tail.head.epoch:\n            ledger.applied = max(ledger.applied, appended.position)",
            ),
        ),
        REDIS,
    ),
    Mutant(
        "proof is as of the asking",
        (Edit(Coherence, "beat", "asked + self.span", "self.clock.monotonic() + self.span"),),
        {**REDIS, "heartbeat": 3.9, "split": 0.9, "faults_every": 25, "faults": {"cut_bus": 2.0, "pause": 6.0}},
    ),
    Mutant(
        "proof ends",
        (Edit(Coherence, "beat", "asked + self.span", "math.inf"),),
        {**REDIS, **faults(cut=3.0)},
    ),
    Mutant(
        "a tag's record moves the checkpoint",
        (Edit(ledger.Ledger, "_move_checkpoints", "view = self.regions.get(region)", "return"),),
        REDIS,
    ),
    Mutant(
        "what came between a value and its own record counts",
        (Edit(judging.RegionLedger, "matches_between", "ledger = self.ledger\n", "return False\n"),),
        REDIS,
    ),
    Mutant(
        "the carrier buries",
        (Edit(Coherence, "carry", "if todo and not (yield from bury(todo)):", "if False:"),),
        {**REDIS, "key_ring": 1, "operations": {"load": 6.0, "look": 6.0, "foreign": 3.0}, **faults(crash=3.0)},
    ),
    Mutant(
        "what a message says was carried is no more than was",
        (Edit(Coherence, "_apply", "min(carried, ledger.applied)", "ledger.applied"),),
        {**REDIS, "key_ring": 1, "operations": {"load": 6.0, "look": 6.0, "foreign": 3.0}, **faults(crash=3.0)},
    ),
    Mutant(
        "a message after a gap is not passed over where the log is away",
        (Edit(Coherence, "hear", "ledger.proven_until = -math.inf", "return"),),
        {**REDIS, "messages": {"lost": 0.2}, **faults(cut=3.0)},
    ),
    Mutant(
        "born is of the epoch that the entry names",
        (Edit(writing, "_put_some", "born = begin.born if begin.epoch == delivery.epoch else 0", "born = begin.born"),),
        {**REDIS, **LOSSY, "flaky": 0.25, "operations": {"set": 6.0, "look": 6.0, "foreign": 3.0, "load": 2.0}},
    ),
    Mutant(
        "an unproven spare is served only where grace is set",
        (
            Edit(
                stale,
                "servable",
                "if not spare.proven and (not region.settings.grace or region.coherence.behind()):",
                "if False:",
            ),
        ),
        {**REDIS, **faults(cut=3.0), "failing_loads": 0.6, "operations": {"load": 8.0, "delete": 1.0, "tag": 1.0}},
    ),
    Mutant(
        "who cannot apply its own record yet marks it",
        (Edit(Coherence, "append", "self._mark(drafts)", "pass"),),
        {**REDIS, **LOSSY, "operations": {"delete": 3.0, "tag": 3.0, "load": 6.0, "look": 2.0}},
    ),
    Mutant(
        "who sees that it is behind serves nothing by the outage rule",
        (Edit(Coherence, "outlives_outage", "and not self.behind()", ""),),
        {**DISK, "log": "disk", "remote": False, "hosts": ("h1", "h1"), **faults(cut=1.0, server_stalls=3.0)},
    ),
    Mutant(
        "grace serves nothing that a hard record killed",
        (
            Edit(
                stale,
                "servable",
                "return region.judge(address, spare.entry, spare.vouched, spare.local) not in (Verdict.DEAD, Verdict.UNKNOWN)",
                "return True",
            ),
        ),
        {**REDIS, **GRACE, "slow_loads": 0.8},
    ),
    Mutant(
        "grace ends",
        (
            Edit(stale, "servable", "region.clock.monotonic() >= spare.entry.keep", "False"),
            Edit(Region, "look", "now >= entry.keep", "False"),
        ),
        {**REDIS, **GRACE, "grace": 0.5},
    ),
    Mutant(
        "grace serves what is not proven only where nothing can be loaded",
        (Edit(stale, "soft_limit", "spare is None or not spare.proven", "spare is None"),),
        {**REDIS, **GRACE, **faults(cut=3.0), "failing_loads": 0.0, "soft_timeout": 0.0},
    ),
    Mutant(
        "what is stale is served only where loading is slow, fails, or goes on behind",
        (Edit(reading, "_left_alone", "backing_off(region, local_key)", "True"),),
        {**REDIS, **GRACE},
    ),
    Mutant(
        "grace serves nothing where the disk log is known to have moved",
        (Edit(stale, "servable", " or region.coherence.behind()", ""),),
        {**DISK, **GRACE, "log": "disk", "remote": False, "hosts": ("h1", "h1"), **faults(server_stalls=3.0)},
    ),
    Mutant(
        "a soft key record marks what memory holds",
        (Edit(Region, "drop_key", "entry.stale = True", "pass"),),
        {**REDIS, **SOFT},
    ),
    Mutant(
        "a soft stamp marks what is read past it",
        (Edit(Region, "_alive", "entry.stale = True", "pass"),),
        {**REDIS, **SOFT},
    ),
    Mutant(
        "what was loaded before a soft record enters memory as stale",
        (Edit(Region, "insert", "entry.stale = True", "pass"),),
        {**REDIS, **SOFT, "remote": False, "disk": True, "slow_loads": 0.8},
    ),
    Mutant(
        "what is promoted keeps the mark that a tier below gave it",
        (Edit(Region, "_arrival", "entry.stale = True", "pass"),),
        {**DISK, **SOFT, "key_ring": 1, **faults(crash=3.0)},
    ),
    Mutant(
        "the disk keeps the mark of a soft record when a copy is written behind it",
        (
            Edit(
                storing,
                "put_disk",
                "verdict is Verdict.ALIVE or (verdict is Verdict.STALE and bool(envelope.flags & STALE))",
                "verdict in (Verdict.ALIVE, Verdict.STALE)",
            ),
        ),
        {
            **DISK,
            **SOFT_KEYS,
            "operations": {"load": 6.0, "look": 6.0, "soft": 4.0, "refresh": 3.0, "keys": 0.5},
            "hosts": ("h1", "h2"),
            "threads": 3,
            "think": 0.02,
            "slow_loads": 0.1,
            "split": 0.9,
        },
    ),
    Mutant(
        "a fill whose load began before a soft record is stored as stale",
        (Edit(storing, "store", "if verdict is Verdict.STALE:", "if False:"),),
        {
            **REDIS,
            **SOFT,
            "softly": ("key",),
            "hosts": ("h1", "h2", "h3", "h4"),
            "threads": 1,
            "names": NAMES[:1],
            "key_ring": 1,
            "lock_ttl": 1.0,
            "slow_loads": 0.8,
            "slow": 6.0,
            "think": 0.3,
            **faults(crash=3.0),
            "faults_every": 30,
        },
    ),
    Mutant(
        "a value that is put into L3 after a soft record is put there as stale",
        (Edit(writing, "place", "is not Verdict.ALIVE", "is None"),),
        {
            **CLUSTER,
            **SOFT_KEYS,
            "operations": {"set": 6.0, "look": 6.0, "soft": 2.0, "keys": 1.0},
            "disk": True,
            "hosts": ("h1", "h1", "h2"),
            "threads": 3,
            "think": 0.5,
            "split": 0.9,
        },
    ),
    Mutant(
        "the carrier marks in L3 what soft records made stale",
        (Edit(Runtime, "_carry", "for _ in range(MARKS):", "for _ in ():"),),
        {**REDIS, **SOFT, "key_ring": 1, **faults(crash=3.0)},
    ),
    Mutant(
        "who joins a flight judges what it brought by soft records, too",
        (Edit(reading, "_counts", "if verdict is Verdict.STALE:", "if False:"),),
        {**CLUSTER, **SOFT, "threads": 3, "slow_loads": 0.8, "slow": 6.0, "lock_ttl": 1.0},
    ),
    Mutant(
        "what a flight brings is not past its time when a read comes that joins it",
        (Edit(reading, "_counts", "began >= entry.keep", "False"),),
        {
            **REDIS,
            "threads": 3,
            "operations": {"load": 1.0},
            "names": NAMES[:1],
            "split": 0.9,
            "pace": 0.05,
            "think": 0.3,
        },
    ),
    Mutant(
        "what was computed from a stale input is stale",
        (Edit(reading, "_load", "entry.stale = context.stale", "pass"),),
        {**REDIS, **GRACE, "derived": 0.6, "names": NAMES[:2]},
    ),
    Mutant(
        "a load is told that its input is stale",
        (Edit(stale, "served", "load.stale = True", "pass"),),
        {**REDIS, **SOFT},
    ),
    Mutant(
        "an entry that is looked at closely is no fresher for it",
        (Edit(Region, "schedule_look", "if entry.stale:", "if False:"),),
        {**REDIS, **SOFT, "early_refresh": 1.0},
    ),
    Mutant(
        "a region's ledger is made under the ledger's lock",
        (Edit(Region, "__init__", "with self.ledger.lock:", "if True:"),),
        {**REDIS, **LATER},
    ),
    Mutant(
        "a region knows the records that had named it before it was made",
        (
            Edit(
                Region,
                "__init__",
                "self.view = self.ledger.region(name)",
                "self.ledger.regions.pop(name, None)\n        self.view = self.ledger.region(name)",
            ),
        ),
        {**REDIS, **LATER, "key_ring": 1},
    ),
    Mutant(
        "a region hears the records that name it from when it is made",
        (
            Edit(
                Region,
                "__init__",
                "self.view = self.ledger.region(name)",
                "self.view = type(self.ledger.region('default'))(name, self.ledger)",
            ),
        ),
        {**REDIS, **LATER},
    ),
    Mutant(
        "a snapshot's stamps of a region are kept for when it is made",
        (
            Edit(
                ledger.Ledger,
                "_set_stamps",
                "for name in draft.targets:",
                "for name in set(self.regions) & set(draft.targets) if not waiting else draft.targets:",
            ),
        ),
        {**REDIS, **LATER, "operations": {"load": 8.0, "look": 6.0, "region": 2.0}, **faults(crash=3.0, cut_bus=2.0)},
    ),
    Mutant(
        "beyond so many regions, a record that names a further one counts for all",
        (
            Edit(
                ledger.Ledger,
                "_reach",
                "return self.waiting_everywhere if waiting else self.everywhere",
                "return Stamps(9)",
            ),
        ),
        {**REDIS, **LATER, "regions": 1},
    ),
    Mutant(
        "a region that is made on demand is reached by what key records remove",
        (Edit(Parts, "region", "self._regions = {**self._regions, name: found}", "self._regions = {**self._regions}"),),
        {**REDIS, **LATER},
    ),
    Mutant(
        "the log keeps what has not been carried",
        (Switch(LogServer, "keeps_uncarried", False),),
        {**CLUSTER, **faults(trim=5.0)},
    ),
    Mutant(
        "a lease that could not be given back is given back later",
        (Edit(leases.Fills, "owe", "if len(self._owed) < OWED:", "if False:"),),
        {**REDIS, **faults(cut=3.0, cancel=6.0), "flaky": 0.02, "lock_ttl": FOR_EVER},
    ),
    Mutant(
        "whoever waits takes over the lease of a process that is no more",
        (Edit(leases.Fills, "orphaned", "return bool(member)", "return False and bool(member)"),),
        {**REDIS, **faults(crash=3.0), "lock_ttl": FOR_EVER},
    ),
)
