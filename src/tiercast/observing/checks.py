"""Health: whether each part of the cache works now."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..monitoring.figures import Figures
from ..monitoring.health import Health, overall
from ..plans import Pause, Plan

if TYPE_CHECKING:
    from ..runtime import Runtime

LEAST_FREE = 64 * 1024 * 1024
"""Bytes that a file system must have free; SQLite begins to fail before the last one is gone."""
PATIENCE = 1.0
"""Seconds that a listener which has just been started is given to hear itself."""


def check(runtime: Runtime, statvfs: Callable[[str], Any] | None = None) -> Plan[Figures]:
    """Look at every part; asks Redis once and proves memory where it is not proven."""
    if runtime.closed:
        return overall(Figures(manager=Health(False, "it was closed")))
    runtime.ready()
    parts = Figures()
    proven = yield from runtime.coherence.prove()
    if any(region.memory is not None for region in runtime.regions()):
        parts["local"] = Health(True)
    if runtime.disks():
        parts["disk"] = yield from _disk(runtime)
    if runtime.connections is not None:
        parts["remote"] = yield from _remote(runtime)
        parts["breaker"] = _breaker(runtime)
    parts["bus"] = yield from _bus(runtime)
    failure = runtime.coherence.failure
    parts["proof"] = Health(proven, "" if proven else f"memory cannot be proven: {failure or 'the log has moved on'}")
    outbox = runtime.coherence.outbox
    waiting = outbox.waiting()
    reason = outbox.trouble or "invalidations wait for the log to come back"
    parts["outbox"] = Health(not waiting, reason if waiting else "")
    directories = directories_of(runtime)
    if directories:
        parts["disk_space"] = disk_space(directories, statvfs or os.statvfs)
    stale = runtime.monitor.audit.stale.value
    parts["audit"] = Health(not stale, f"{stale} entries were served after they had died; see the log" if stale else "")
    return overall(parts)


def _disk(runtime: Runtime) -> Plan[Health]:
    for disk in runtime.disks():
        if not (yield from disk.prepare()):
            return Health(False, f"the disk cache in {disk.store.directory} failed; it is tried again")
    return Health(True)


def _remote(runtime: Runtime) -> Plan[Health]:
    from ..connections import Unavailable

    connections = runtime.connections
    assert connections is not None
    try:
        (reply,) = yield connections.commands(("PING",))
    except Unavailable as exc:
        return Health(False, str(exc))
    return Health(not isinstance(reply, Exception), str(reply) if isinstance(reply, Exception) else "")


def _breaker(runtime: Runtime) -> Health:
    assert runtime.connections is not None
    breaker = runtime.connections.breaker
    if breaker.state == "closed":
        return Health(True)
    return Health(False, f"{breaker.state}: {breaker.name} does not answer and is asked only now and then")


def _bus(runtime: Runtime) -> Plan[Health]:
    coherence, listener = runtime.coherence, runtime.listener
    if coherence.listen is None:
        alive = runtime.log.kind == "memory" or listener.alive()
        return Health(alive, "" if alive else "the heartbeat thread does not run")
    waited = 0.0
    while not listener.connected and not listener.failures.value and listener.alive() and waited < PATIENCE:
        yield Pause(0.02)
        waited += 0.02
    if listener.connected and listener.alive():
        return Health(True)
    return Health(False, f"nothing is heard: {coherence.failure or 'the listener thread does not run'}")


def directories_of(runtime: Runtime) -> list[str]:
    """Return the directories that this process writes to."""
    found = [disk.store.directory for disk in runtime.disks()]
    outbox = runtime.config.coherence.outbox_directory
    return list(dict.fromkeys([*found, *([str(outbox)] if outbox and runtime.log.kind == "redis" else [])]))


def disk_space(directories: list[str], statvfs: Callable[[str], Any]) -> Health:
    """Say whether every directory's file system has room."""
    for directory in directories:
        path = Path(directory)
        try:
            while not path.exists() and path != path.parent:
                path = path.parent
            found = statvfs(str(path))
        except OSError as exc:
            return Health(False, f"{directory}: {exc}")
        free = found.f_bavail * found.f_frsize
        if free < LEAST_FREE:
            return Health(False, f"{directory}: only {free // 1024 // 1024} MB are free")
    return Health(True)
