"""What the processes of the demo share beside the cache: a board of numbers in mapped memory, and the origin.

The board says which edits have been acknowledged, so that every read can be checked against them. It is written by
one process for each word (a worker its own, the editor the edits), and a word of 64 bits is read and written whole.
`time.monotonic_ns` is the same clock in every process of a host.
"""

from __future__ import annotations

import mmap
import random
import sqlite3
import time
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

ORIGIN_SECONDS = 0.005
"""What a look-up takes on its way back from the origin; the row is read before, so that loads and edits race."""
COLUMNS = ("icao", "iata", "name", "city", "subd", "country", "elevation", "lat", "lon", "tz", "lid")
QUERIES = {
    "icao": "SELECT * FROM airport WHERE icao = ?",
    "iata": "SELECT * FROM airport WHERE iata = ?",
}
DEPTH = 16
"""Edits of one airport whose times are remembered."""
HEADER = ("stop", "go", "round", "round_sent", "edits", "queued", "canaries", "now_queued")
PER_WORKER = ("ready", "seen_round", "memory", "disk", "remote", "waited", "origin", "older", "broken")


class Board:
    """Numbers that all processes of the demo see, in a mapped file.

    Args:
        path: the file; made where it is missing.
        airports, workers: how many there are.
    """

    def __init__(self, path: Path, airports: int, workers: int) -> None:
        self.airports = airports
        self.workers = workers
        sizes = [len(HEADER), workers * len(PER_WORKER), airports, *[airports * DEPTH] * 3]
        *starts, end = accumulate(sizes, initial=0)
        if not path.exists():
            path.write_bytes(bytes(8 * end))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8 * end)
        self.words = memoryview(self._map).cast("q")
        self._head, self._worker, self._acked, self._times, self._positions, self._epochs = starts
        self.acked = self.words[self._acked : self._acked + airports]
        """By airport: the version whose invalidation was acknowledged last."""

    def __getitem__(self, name: str) -> int:
        return self.words[self._head + HEADER.index(name)]

    def __setitem__(self, name: str, value: int) -> None:
        self.words[self._head + HEADER.index(name)] = value

    def place(self, name: str, worker: int | None = None) -> int:
        """Where in `words` a number stands, for those who look often."""
        if worker is None:
            return self._head + HEADER.index(name)
        return self._worker + worker * len(PER_WORKER) + PER_WORKER.index(name)

    def total(self, name: str) -> int:
        """The sum over all workers."""
        return sum(self.words[self.place(name, worker)] for worker in range(self.workers))

    def acknowledge(self, airport: int, version: int, now: int, position: int, epoch: int) -> None:
        """Note that every process has been told that versions below `version` are no longer true."""
        at = airport * DEPTH + version % DEPTH
        self.words[self._times + at] = now
        self.words[self._positions + at] = position
        self.words[self._epochs + at] = epoch
        self.acked[airport] = version

    def outdated(self, airport: int, version: int) -> tuple[int, int, int]:
        """When a version's successor was acknowledged: (monotonic nanoseconds, position, epoch)."""
        at = airport * DEPTH + max(version + 1, self.acked[airport] - DEPTH + 2) % DEPTH
        return self.words[self._times + at], self.words[self._positions + at], self.words[self._epochs + at]

    def close(self) -> None:
        self.acked.release()
        self.words.release()
        self._map.close()


class Origin:
    """The airports in SQLite, each with a version that an edit raises. One object for each process."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, timeout=20, isolation_level=None)
        self._database.row_factory = sqlite3.Row
        self._database.execute("PRAGMA synchronous=OFF")  # it need not survive the demo

    @classmethod
    def build(cls, path: Path, airports: Mapping[str, Mapping[str, Any]]) -> Origin:
        """Fill a new file with the airports; the order is that of the law by which they are read."""
        origin = cls(path)
        rows = list(airports.values())
        random.Random(28_298).shuffle(rows)
        database = origin._database
        database.execute("PRAGMA journal_mode=WAL")
        columns = ", ".join(COLUMNS)
        database.execute(f"CREATE TABLE airport (number INTEGER PRIMARY KEY, {columns}, version INTEGER NOT NULL)")
        database.execute("BEGIN")
        numbered = ((number, *(row[column] for column in COLUMNS)) for number, row in enumerate(rows))
        database.executemany("INSERT INTO airport VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)", numbered)
        database.execute("COMMIT")
        for column in ("icao", "iata"):
            database.execute(f"CREATE INDEX by_{column} ON airport ({column})")
        return origin

    def places(self) -> list[tuple[str, str, str]]:
        """By airport: its ICAO code, its IATA code ("" for most) and its country."""
        rows = self._database.execute("SELECT icao, iata, country FROM airport ORDER BY number")
        return [(row["icao"], row["iata"], row["country"]) for row in rows]

    def look_up(self, column: str, code: str) -> dict[str, Any]:
        """Return an airport by its "icao" or "iata" code; takes about 5 ms."""
        row = self._database.execute(QUERIES[column], (code,)).fetchone()
        time.sleep(ORIGIN_SECONDS)
        return dict(row)

    def edit(self, airports: list[int]) -> list[tuple[int, int]]:
        """Change airports in one transaction; returns (airport, new version) for each."""
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        change = (
            "UPDATE airport SET version = version + 1, elevation = elevation + 1 WHERE number = ? RETURNING version"
        )
        changed = [(number, database.execute(change, (number,)).fetchone()[0]) for number in airports]
        database.execute("COMMIT")
        return changed

    def close(self) -> None:
        self._database.close()


def zipf(count: int, exponent: float = 1.1) -> list[float]:
    """Cumulative weights of the law that the n-th of `count` things is asked for in proportion to 1 / n ** exponent."""
    return list(accumulate(1.0 / rank**exponent for rank in range(1, count + 1)))
