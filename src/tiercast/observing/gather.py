"""Reading off what every region, and coherence, has counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..monitoring.figures import Counts, Figures, quantiles, tree_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..region import Region
    from ..runtime import Runtime

NAMES = {
    "hits.local": "hits",
    "hits.disk": "disk_hits",
    "hits.remote": "remote_hits",
    "misses": "misses",
    "sets": "sets",
    "fills": "fills",
    "fills_lost": "fills_refused",
    "loads": "loads",
    "load_errors": "load_errors",
    "stale_served": "stale_served",
    "waits.flight": "waits",
    "waits.lease": "lock_waits",
    "corrupt": "corrupt",
}
"""The names of figures, and those of the regions' counters."""


def counts_of(region: Region) -> Counts:
    """Return what a region has counted since it was made."""
    counters, watch = region.counters, region.watch
    numbers: dict[str, float] = {name: getattr(counters, counter).value for name, counter in NAMES.items()}
    causes = {cause: int(seen.value) for cause, seen in list(watch.causes.items())}
    numbers["evictions"] = sum(causes.values())
    numbers |= {f"evicted.{cause}": count for cause, count in causes.items()}
    numbers |= {f"errors.{tier}": seen.value for tier, seen in list(watch.failures.items())}
    numbers |= {f"bytes.{tier}.{operation}": int(seen.value) for (tier, operation), seen in list(watch.payload.items())}
    return Counts(numbers, {measured: seen.read() for measured, seen in list(watch.timings.items())})


def sizes_of(regions: Iterable[Region]) -> dict[str, float | None]:
    """Return what the memory of some regions holds; None for bytes that nobody measures."""
    memories = [region.memory for region in regions if region.memory is not None]
    measured = any(memory.max_bytes for memory in memories)
    return {
        "local": sum(map(len, memories)),
        "local_bytes": sum(memory.bytes for memory in memories) if measured else None,
    }


def coherence_figures(runtime: Runtime) -> Figures:
    """Return where this process stands, and what coherence counted."""
    coherence, ledger = runtime.coherence, runtime.ledger
    epoch, position = coherence.position()
    age = proven_age(runtime)
    counted = {name: getattr(coherence.counters, name).value for name in coherence.counters.__slots__}
    lag = max(0, coherence.head_seen - position) if coherence.proven() else None
    with ledger.lock:
        ledger_sizes = ledger.sizes()
    return Figures(
        log=runtime.log.kind,
        epoch=epoch,
        position=position,
        carried=coherence.carried,
        proven=coherence.proven(),
        proven_age=age,
        listening=runtime.listener.connected or coherence.listen is None,
        lag=Figures(records=lag, seconds=age if lag is None else 0.0),
        outbox=Figures(waiting=coherence.outbox.waiting()),
        members=len(coherence.fleet.live()),
        propagation=Figures(
            same_host=quantiles(runtime.monitor.propagation["same"].read()),
            other_hosts=quantiles(runtime.monitor.propagation["other"].read()),
        ),
        ledger=Figures(ledger_sizes),
        listener_failures=runtime.listener.failures.value,
        housekeeping_failures=runtime.housekeeper.failures.value,
        failure=coherence.failure,
        **counted,
    )


def proven_age(runtime: Runtime) -> float | None:
    """Return the seconds since coherence was last proven; 0 where the log needs no proof, None where it never was."""
    span, until = runtime.coherence.span, runtime.ledger.proven_until
    if until == float("-inf"):
        return None
    return 0.0 if span == float("inf") else max(0.0, runtime.clock.monotonic() - (until - span))


def uncounted_tiers(runtime: Runtime) -> dict[str, Any]:
    """Return what the tiers count for all regions together."""
    found: dict[str, Any] = {}
    for disk in runtime.disks():
        counters = disk.counters
        found["disk"] = Figures(
            failures=disk.store.failures.value,
            corrupt=counters.corrupt.value,
            behind=counters.behind.value,
            too_large=counters.too_large.value,
        )
    if runtime.connections is not None:
        remote = runtime.remote
        found["remote"] = Figures(
            {name: getattr(remote, name).value for name in ("failures", "corrupt", "oversized")},
            breaker=runtime.connections.breaker.state,
            breaker_openings=sum(breaker.openings for breaker in runtime.connections.breakers),
        )
    return found


def region_tree(region: Region, counts: Counts) -> Figures:
    """Return the nested figures of one region."""
    return tree_of(counts, sizes_of([region]))
