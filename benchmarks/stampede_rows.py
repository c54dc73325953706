"""The stampede of a thousand keys that were stored at one moment: what the origin sees, and who waits.

    python benchmarks/stampede_rows.py [--output DIRECTORY]

Eight threads read 1,000 keys through three TTLs, in real time and through a real manager: without jitter, with a jitter
of 0.1, and with XFetch besides. The TTL stands for one of a minute, and all is counted in sixtieths of it, the "seconds"
below. It takes three quarters of a minute, prints the figures of docs/loading.md, and writes its two plots.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import plots
from measure import Row, Settings, Spread

from tiercast import CacheConfig, CacheManager

ROOT = Path(__file__).resolve().parent.parent
NUMBER, THREADS, JITTER, TTLS, SECONDS = 1_000, 8, 0.1, 3, 60
TTL, COST = 5.0, 0.003
"""Real seconds: of a TTL, and of a load. Reading every key once takes less than a load."""
WORKERS = 32
"""Threads that refresh. Three are busy in the mean; more, because a busy machine lets a thread wait."""
BOUND = 2 * NUMBER / (2 * JITTER * SECONDS)
"""Loads that the origin may see in a "second": twice the even rate of the first expiry."""
VARIANTS: dict[str, dict[str, Any]] = {
    "no jitter": {},
    "jitter 0.1": {"ttl_jitter": JITTER},
    "jitter, XFetch": {"ttl_jitter": JITTER, "early_refresh": 1.0},
}


class Course:
    """What happens in one run, by "second".

    Attributes:
        loads: calls of the loader. waits: reads that called it, or waited for a load of their key.
        seldom: those waits whose key had last been read longer ago than a load takes. reads: all reads.
        held_up: those for a load that took over twice its time, because the machine had something else to do.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._config = CacheConfig(ttl=TTL, max_concurrent_loads=None, background_workers=WORKERS, **settings)
        self._ended: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()
        self._began = 0.0
        self.loads: Counter[int] = Counter()
        self.waits: Counter[int] = Counter()
        self.seldom = self.held_up = self.reads = 0

    def run(self) -> Course:
        """Store all keys at one moment and read them through three TTLs."""
        with CacheManager(self._config) as cache:
            asyncio.run(self._store(cache))
            self._began = time.perf_counter()
            threads = [threading.Thread(target=self._read, args=(cache, first)) for first in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return self

    @staticmethod
    async def _store(cache: CacheManager) -> None:
        """Load every key: of what was only set nobody knows what it costs, and XFetch leaves it alone."""

        async def load() -> int:
            await asyncio.sleep(COST)
            return 0

        for start in range(0, NUMBER, 100):  # more at a time, and their cost would be the loop's and not the load's
            await asyncio.gather(*(cache.get_or_set_async(f"k{n}", load) for n in range(start, start + 100)))

    def _second(self, moment: float) -> int:
        return int((moment - self._began) * SECONDS / TTL)

    def _load(self, key: str) -> int:
        began = time.perf_counter()
        time.sleep(COST)
        with self._lock:
            self.loads[self._second(began)] += 1
            self._ended[key] = began, time.perf_counter()
        return 1

    def _read(self, cache: CacheManager, first: int) -> None:
        """Read every eighth key again and again."""
        get_or_set, clock, ended = cache.get_or_set, time.perf_counter, self._ended
        loaders = {key: lambda key=key: self._load(key) for key in (f"k{n}" for n in range(first, NUMBER, THREADS))}
        waits: Counter[int] = Counter()
        last = dict.fromkeys(loaders, clock())
        reads = seldom = held_up = 0
        never = (0.0, 0.0)
        while clock() - self._began < TTLS * TTL:
            for key, load in loaders.items():
                before = clock()
                get_or_set(key, load)
                after = clock()
                began, end = ended.get(key, never)
                if before < end <= after:
                    waits[self._second(before)] += 1
                    if before - last[key] > COST:
                        seldom += 1
                    elif end - began > 2 * COST:
                        held_up += 1
                last[key] = before
            reads += len(loaders)
            time.sleep(COST / 6)
        with self._lock:
            self.waits += waits
            self.reads += reads
            self.seldom += seldom
            self.held_up += held_up

    def line(self, of: Counter[int]) -> list[float]:
        """Return a count of each "second"."""
        return [float(of[second]) for second in range(TTLS * SECONDS)]


def rows(settings: Settings) -> Iterator[Row]:
    """Rows L: what jitter and XFetch do to a stampede. Not part of a quick run, which it would double."""
    if settings.quick:
        return
    gc.collect()
    gc.freeze()  # what other rows left is no garbage: to walk it would hold up every load that is due
    found = settings.figures["stampede"] = {name: Course(each).run() for name, each in VARIANTS.items()}
    gc.unfreeze()
    for name in list(VARIANTS)[1:]:
        most = max(found[name].loads.values())
        yield Row(
            f"L.loads.{'xfetch' if 'XFetch' in name else 'jitter'}",
            f"1,000 keys stored at one moment, {name}: most loads in a sixtieth of a TTL : twice the even rate",
            Spread.exactly(most / BOUND), 1.0, measured=f"{most} : {BOUND:.0f}", gross=False,
        )  # fmt: skip
    course = found["jitter, XFetch"]
    waits = course.waits.total()
    yield Row(
        "L.waits", "the same: reads in a million that waited for a load of a key read more often than it takes to load",
        Spread.exactly((waits - course.seldom - course.held_up) / course.reads * 1e6), 0, unit="reads", gross=False,
        measured=f"{waits} of {course.reads / 1e6:.1f} million",
        note=f"the machine let {course.seldom} keys stand unread for longer, and held up {course.held_up} loads",
    )  # fmt: skip


def draw(found: Mapping[str, Course], directory: Path) -> None:
    """Write the two plots."""
    across = [f"{second / SECONDS:.1f}" for second in range(TTLS * SECONDS)]
    label = "TTLs since all keys were stored"
    loads = {name: course.line(course.loads) for name, course in found.items()}
    loads["twice the even rate"] = [BOUND] * len(across)
    waits = {name: course.line(course.waits) for name, course in found.items()}
    for name, title, values in (
        ("loads", "Loads that the origin sees in a sixtieth of a TTL", loads),
        ("waits", "Reads that wait for a load, in a sixtieth of a TTL", waits),
    ):
        (directory / f"stampede-{name}.svg").write_text(plots.lines(title, across, values, label), encoding="utf-8")


def main() -> int:
    import report

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "img", help="where the plots are written")
    options = parser.parse_args()
    settings = Settings(quick=False, directory=None)
    for row in rows(settings):
        print(report.line(row))
    draw(settings.figures["stampede"], options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
