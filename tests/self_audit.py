"""The project's audit of itself: no manager of a test process ever serves what an invalidation has killed.

When a manager closes, or a test leaves it open, all that its memory would serve at this moment is held against the
log's own records, and the library's self-audit must have counted nothing. The check shares no code with the ledger.

In the tests' own process the fixture `self_audit` of conftest.py looks after every test. A worker process calls
`install()` before it makes its manager, and `close` raises there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from typing import Any

from tiercast.coherence.causes import matching
from tiercast.coherence.log import LogUnavailable
from tiercast.plans import drive
from tiercast.runtime import Runtime, _runtimes

MOST = 500
"""Entries of a region that are looked at, those used last."""


def dead_but_served(runtime: Runtime) -> list[str]:
    """Return a line for each entry that a manager's memory would serve although it is dead."""
    found = [f"the self-audit counted {count}" for count in (runtime.monitor.audit.stale.value,) if count]
    suspects = [
        suspect
        for region in runtime.regions()
        if region.memory is not None
        for suspect in runtime.monitor.audit._serving(region, MOST)
    ]
    if not suspects:
        return found
    try:
        tail = drive(runtime.log.read((suspects[0].epoch, min(suspect.entry.born for suspect in suspects))))
    except LogUnavailable:
        return found
    for suspect in suspects:
        entry, place = suspect.entry, suspect.address
        if entry.epoch != suspect.epoch:
            found.append(f"{place} is of the epoch {entry.epoch!r}, not {suspect.epoch!r}")
        if tail.records is None or tail.head.epoch != suspect.epoch:
            continue  # the log reaches back no more, or has begun anew since
        known = (record for record in tail.records if entry.born < record.position <= suspect.applied)
        record = matching(known, *place, entry.tags)
        if record is not None:
            found.append(f"{place}, born at {entry.born}, died by {record}; applied: {suspect.applied}")
    return found


def install(report: Callable[[list[str]], None] | None = None) -> None:
    """Have every manager of this process looked at as it closes.

    Args:
        report: is told what was found; None, and in forked children: `close` raises.
    """
    close, process = Runtime.close, os.getpid()

    def audited(self: Runtime) -> Generator[Any, Any, None]:
        found = [] if self.closed else dead_but_served(self)
        yield from close(self)
        if found and report is not None and os.getpid() == process:
            report(found)
        elif found:
            raise AssertionError("\n".join(found))

    Runtime.close = audited  # type: ignore[method-assign]


def living() -> set[Runtime]:
    """Return the managers' runtimes that are open now."""
    return {runtime for runtime in _runtimes if not runtime.closed}
