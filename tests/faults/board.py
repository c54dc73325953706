"""What all processes of a fault run share without tiercast: the origin, the oracle, and the counts.

One file of 64-bit words, mapped by every process. A word is written by one process at a time (keys belong to one
worker), survives SIGKILL, and is read whole. Times are `time.monotonic_ns()`, one clock for all processes of a host.
"""

from __future__ import annotations

import mmap
from pathlib import Path

KEYS = 200
WORKERS = 4
VERSIONS = 1024
"""Versions that a key may take; its writer stops before."""

STATS = (
    "lives", "reads", "hits", "writes", "queued", "older", "worst", "broken", "errors", "unproven",
    "loads", "fills_refused", "gaps", "malformed", "epoch_changes", "drops", "beats_failed", "replayed",
    "settled", "audited", "differing",
)  # fmt: skip
"""Per worker. older: reads older than an acknowledged invalidation; worst: by how many ns at most;
broken: reads that broke a promise; differing: keys that differ from the origin in the end."""

RUN, QUIET, AUDIT, END = 1, 2, 3, 4
"""Phases: read and write; write no more and settle; compare with the origin; go."""


class Board:
    """The shared words; `create` once, then open anywhere."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        words = self._map_words = memoryview(self._map).cast("q")
        self.control = words[:8]
        self.committed = words[8 : 8 + KEYS]
        """By key: the version that the origin holds."""
        self.told = words[8 + KEYS : 8 + 2 * KEYS]
        """By key: the last version whose invalidation has returned."""
        self.top = words[8 + 2 * KEYS : 8 + 3 * KEYS]
        """By key: the last version whose invalidation was acknowledged as delivered."""
        at = 8 + 3 * KEYS
        self.acknowledged = words[at : at + KEYS * VERSIONS]
        """By key and version: when that was; 0: never, or not yet."""
        self._stats = words[at + KEYS * VERSIONS :]

    @classmethod
    def create(cls, path: Path) -> Board:
        path.write_bytes(bytes(8 * (8 + 3 * KEYS + KEYS * VERSIONS + WORKERS * len(STATS))))
        return cls(path)

    def close(self) -> None:
        for part in (self.control, self.committed, self.told, self.top, self.acknowledged, self._stats):
            part.release()
        self._map_words.release()
        self._map.close()

    @property
    def phase(self) -> int:
        return self.control[0]

    @phase.setter
    def phase(self, phase: int) -> None:
        self.control[0] = phase

    def stat(self, worker: int, name: str) -> int:
        return self._stats[worker * len(STATS) + STATS.index(name)]

    def put(self, worker: int, name: str, value: int) -> None:
        self._stats[worker * len(STATS) + STATS.index(name)] = value

    def add(self, worker: int, name: str, value: int = 1) -> None:
        self._stats[worker * len(STATS) + STATS.index(name)] += value

    def total(self, name: str) -> int:
        return sum(self.stat(worker, name) for worker in range(WORKERS))

    def acknowledge(self, key: int, version: int, at: int) -> None:
        """Note that the invalidation of all that is older than `version` was acknowledged."""
        self.acknowledged[key * VERSIONS + version] = at
        self.top[key] = version

    def outdated_since(self, key: int, version: int) -> int:
        """When a version was first known by all to be old; 0: it is not known to be."""
        for newer in range(version + 1, self.top[key] + 1):
            at = self.acknowledged[key * VERSIONS + newer]
            if at:
                return at
        return 0
