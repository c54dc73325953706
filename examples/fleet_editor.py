"""The editor of the demo: changes airports in the origin, says so to the cache, and notes when that was acknowledged."""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import count

from fleet_board import zipf
from fleet_worker import Settings, number_of

from tiercast import CacheManager, InvalidationResult

CANARY_EVERY = 0.08
CANARY_PATIENCE = 1.0
"""Seconds that a canary waits for a worker that does not look, because it was stopped, say."""


def edit(settings: Settings, member: int) -> None:
    """Edit until the board says stop; to be called by `fleet_worker.run`."""
    with CacheManager(settings.config(member)) as cache:
        cache.coherence.start(20)
        editor = Editor(cache, settings)
        while not editor.board["go"] and not editor.over():
            time.sleep(0.01)
        editor.loop()
        editor.hand_in_late()


class Editor:
    """Edits by key, by tag and by pattern; releases canaries."""

    def __init__(self, cache: CacheManager, settings: Settings) -> None:
        self.cache = cache
        self.settings = settings
        self.board = settings.board()
        self.origin = settings.origin()
        self.random = random.Random(settings.seed)
        self.places = self.origin.places()
        self.weights = zipf(len(self.places), 0.8)
        self.countries: defaultdict[str, list[int]] = defaultdict(list)
        self.areas: defaultdict[str, list[int]] = defaultdict(list)
        """Airports without an IATA code by the beginning of their ICAO code: one pattern reaches all their keys."""
        for number, (icao, iata, country) in enumerate(self.places):
            self.countries[country].append(number)
            if not iata:
                self.areas[icao[:3]].append(number)
        self.waiting: list[tuple[int, int]] = []
        """Edits whose invalidation waits in the outbox: not acknowledged yet."""
        self.rounds = count(1)
        self.sent: list[tuple[int, int]] = []

    def over(self) -> bool:
        """Whether the run is over, or the parent is gone."""
        return bool(self.board["stop"]) or os.getppid() != self.settings.parent

    def loop(self) -> None:
        interval = 1.0 / self.settings.edits
        due = canary_due = time.monotonic()
        while not self.over():
            self.edit_something()
            if time.monotonic() >= canary_due:
                self.release_canary()
                canary_due = time.monotonic() + CANARY_EVERY
            due = max(due + interval, time.monotonic() - 0.5)
            time.sleep(max(0.0, due - time.monotonic()))

    def edit_something(self) -> None:
        """Commit first, then invalidate: who loads in between loads what is new."""
        one = self.random.choices(range(len(self.places)), cum_weights=self.weights)[0]
        icao, iata, country = self.places[one]
        kind = self.random.random()
        cache = self.cache
        invalidate: Callable[[], InvalidationResult]
        if kind < 0.1:
            changed = self.origin.edit(self.some_of(self.countries[country]))
            invalidate = partial(cache.invalidate_tags, [f"country:{country}"])
        elif kind < 0.2 and not iata:
            changed = self.origin.edit(self.some_of(self.areas[icao[:3]]))
            invalidate = partial(cache.invalidate_pattern, f"icao:{icao[:3]}*")
        else:
            changed = self.origin.edit([one])
            invalidate = partial(cache.invalidate_keys, [f"icao:{icao}", *([f"iata:{iata}"] if iata else [])])
        self.acknowledge(changed, InvalidationResult(0, delivered=True) if self.settings.mute else invalidate())

    def some_of(self, airports: list[int]) -> list[int]:
        return self.random.sample(airports, min(5, len(airports)))

    def acknowledge(self, changed: list[tuple[int, int]], result: InvalidationResult) -> None:
        """Note the edits as told to everyone, unless the bus is away and the record waits in the outbox."""
        board = self.board
        board["edits"] += len(changed)
        self.waiting += changed
        if result.delivered:
            # An append goes out behind what waits, so nothing waits any more.
            status = self.cache.coherence.status()
            for airport, version in self.waiting:
                board.acknowledge(airport, version, time.monotonic_ns(), result.position or 0, number_of(status.epoch))
            self.waiting.clear()
        else:
            board["queued"] += len(changed)
        board["now_queued"] = len(self.waiting)

    def release_canary(self) -> None:
        """Have every worker hold one entry, invalidate it, and leave the time of that where the report finds it."""
        board = self.board
        number = next(self.rounds)
        board["round"] = number
        seen = [board.place("seen_round", worker) for worker in range(board.workers)]
        deadline = time.monotonic() + CANARY_PATIENCE
        while not all(board.words[place] == number for place in seen):
            if time.monotonic() > deadline or self.over():
                return
            time.sleep(0.0005)
        sent = time.monotonic_ns()
        if self.cache.invalidate_keys([f"canary:{number}"]).delivered:
            self.sent.append((number, sent))
            board["canaries"] += 1

    def hand_in_late(self) -> None:
        """Write down when each canary was sent."""
        text = "".join(f"{number} {sent}\n" for number, sent in self.sent)
        (self.settings.directory / "canaries").write_text(text)
