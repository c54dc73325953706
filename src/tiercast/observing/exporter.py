"""The Prometheus exporter of one manager: its port, its registration, and how the workers of a host are seen as one.

Implementation notes.
    prometheus_client's own multiprocess mode knows no custom collectors. So where
    PROMETHEUS_MULTIPROC_DIR is set, every process writes its figures there once a second, as
    one JSON file of its own (`tiercast_{pid}_{nonce}.json`, which prometheus_client passes
    over), and whoever is scraped, by its own port or through the application's registry, adds
    them all up: counters also of processes that ended, gauges only of those that live. As
    prometheus_client asks, the application empties the directory when it starts.
    The port is served by whichever process gets it; the others go on trying, so that another
    takes over. Without the variable each process serves itself, on the next free port.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ..monitoring.figures import Counts
from ..monitoring.histogram import Distribution
from .gather import coherence_figures, sizes_of

if TYPE_CHECKING:
    from ..monitoring.prometheus import CacheCollector, Snapshot
    from ..runtime import Runtime

logger = logging.getLogger("tiercast.monitoring")

PORTS = 100
"""Ports that are tried, from the configured one on, where each process serves itself."""
EVERY = 1.0
"""Seconds between two writes of the file that other processes read."""


def shared_directory() -> Path | None:
    """Return where the processes of a host meet, as prometheus_client says it; None where each stands alone."""
    named = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(named) if named else None


class Exporter:
    """One manager's figures for Prometheus. Thread-safe; survives forks.

    Args:
        runtime: whose figures.
        serves: whether it serves them on the configured port, too.
    """

    def __init__(self, runtime: Runtime, *, serves: bool) -> None:
        from ..monitoring.prometheus import CacheCollector

        self._runtime = runtime
        self._serves = serves
        self._server: Any = None
        self._warned = False
        self._published = float("-inf")
        self._nonce = secrets.token_hex(4)
        self.collector: CacheCollector = CacheCollector(runtime.config.name, self._snapshots)
        atexit.register(_publish_last, weakref.ref(self))

    @property
    def port(self) -> int | None:
        """The port that this process serves; None where it serves none."""
        return None if self._server is None else int(self._server.server_port)

    def start(self) -> None:
        """Serve, where that is asked for and not done yet; what cannot be done is logged once."""
        if not self._serves or self._server is not None:
            return
        from ..monitoring.prometheus import serve

        settings = self._runtime.config.monitoring
        alone = shared_directory() is None and settings.export_port
        for port in range(settings.export_port, settings.export_port + (PORTS if alone else 1)):
            if port > 65_535:
                break
            try:
                self._server = serve(self.collector, port, settings.export_host)
            except (OSError, RuntimeError) as exc:  # the port is taken; no thread can be had
                reason: Exception = exc
                continue
            level = logging.INFO if port == settings.export_port or not settings.export_port else logging.WARNING
            logger.log(level, "metrics are served on port %d", self.port, extra={"port": self.port})
            return
        if shared_directory() is None and not self._warned:  # with it, another process serves for all
            self._warned = True
            logger.warning("metrics are not served on any port from %d on: %s", settings.export_port, reason)

    def publish(self) -> None:
        """Write down, where several processes are seen as one, what this one has to say; and take over a free port."""
        directory = shared_directory()
        if directory is None or time.monotonic() - self._published < EVERY:
            return
        self._published = time.monotonic()
        self.start()
        self._write(directory)

    def _write(self, directory: Path) -> None:
        file = directory / f"tiercast_{os.getpid()}_{self._nonce}.json"
        part = file.with_suffix(".part")
        try:
            directory.mkdir(parents=True, exist_ok=True)
            part.write_bytes(orjson.dumps(written(self._runtime.config.name, snapshot_of(self._runtime))))
            part.replace(file)
        except OSError as exc:
            if not self._warned:
                self._warned = True
                logger.warning("figures cannot be written to %s: %s", directory, exc, extra={"path": str(directory)})

    def _snapshots(self) -> Iterator[tuple[Snapshot, bool]]:
        yield snapshot_of(self._runtime), not self._runtime.closed
        directory = shared_directory()
        if directory is None:
            return
        mine = f"tiercast_{os.getpid()}_{self._nonce}.json"
        for file in sorted(directory.glob("tiercast_*_*.json")):
            if file.name == mine:
                continue
            try:
                snapshot = read(orjson.loads(file.read_bytes()), self._runtime.config.name)
                pid = int(file.name.split("_")[1])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # just removed, or not ours
            if snapshot is not None:
                yield snapshot, lives(pid)

    def close(self) -> None:
        """Write down the last state and give the port back."""
        directory = shared_directory()
        if directory is not None:
            self._write(directory)
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def forked(self) -> None:
        """Forget the parent's server and name, in a forked child; the first use serves anew."""
        server, self._server = self._server, None
        if server is not None:
            server.socket.close()
        self._nonce = secrets.token_hex(4)
        self._published = float("-inf")


def _publish_last(exporter: weakref.ref[Exporter]) -> None:
    found, directory = exporter(), shared_directory()
    if found is not None and directory is not None and not found._runtime.closed:
        found._write(directory)


def lives(pid: int) -> bool:
    """Whether a process of this host lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def snapshot_of(runtime: Runtime) -> Snapshot:
    """Return what this process has to say now."""
    from ..monitoring.prometheus import COHERENCE_COUNTERS, Snapshot

    figures = coherence_figures(runtime)
    gauges: dict[str, float] = {
        "proven": int(figures["proven"]),
        "position": figures["position"],
        "outbox_waiting": int(figures["outbox"]["waiting"]),
        "members": figures["members"],
        "breaker_open": int(runtime.connections is not None and runtime.connections.breaker.state != "closed"),
    }
    if figures["proven_age"] is not None:
        gauges["proven_age_seconds"] = figures["proven_age"]
    if figures["lag"]["records"] is not None:
        gauges["lag_records"] = figures["lag"]["records"]
    return Snapshot(
        regions=runtime.monitor.moment(),
        sizes={region.name: {"local": sizes_of([region])["local"] or 0} for region in runtime.regions()},
        own=runtime.monitor.own(),
        coherence={name: figures[name] for name in COHERENCE_COUNTERS},
        gauges=gauges,
        delays={
            "same_host": runtime.monitor.propagation["same"].read(),
            "other_hosts": runtime.monitor.propagation["other"].read(),
        },
    )


def written(name: str, snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot as plain data."""
    return {
        "cache": name,
        "regions": {
            region: {
                "numbers": dict(counts.numbers),
                "timings": [[*measured, _plain(seen)] for measured, seen in counts.timings.items()],
            }
            for region, counts in snapshot.regions.items()
        },
        "sizes": snapshot.sizes,
        "own": dict(snapshot.own.numbers),
        "coherence": snapshot.coherence,
        "gauges": snapshot.gauges,
        "delays": {clock: _plain(seen) for clock, seen in snapshot.delays.items()},
    }


def read(data: dict[str, Any], name: str) -> Snapshot | None:
    """Return what `written` wrote; None for another cache's."""
    from ..monitoring.prometheus import Snapshot

    if data["cache"] != name:
        return None
    return Snapshot(
        regions={
            region: Counts(
                counts["numbers"],
                {(tier, operation): _seen(buckets) for tier, operation, buckets in counts["timings"]},
            )
            for region, counts in data["regions"].items()
        },
        sizes=data["sizes"],
        own=Counts(data["own"]),
        coherence=data["coherence"],
        gauges=data["gauges"],
        delays={clock: _seen(seen) for clock, seen in data["delays"].items()},
    )


def _plain(seen: Distribution) -> dict[str, int]:
    return {str(bucket): count for bucket, count in seen.buckets.items()}


def _seen(buckets: dict[str, int]) -> Distribution:
    return Distribution({int(bucket): count for bucket, count in buckets.items()})
