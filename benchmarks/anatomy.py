"""Where the time of a hit goes, in memory and below: its parts, each by itself, in turn."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from itertools import repeat
from statistics import median
from sys import maxsize
from typing import Any

import orjson
from below_rows import value_of
from measure import Settings, calling, in_turn

from tiercast import CacheConfig, CacheManager, LocalCacheConfig
from tiercast.keys import storage_key
from tiercast.tiers.entry import Address
from tiercast.tiers.envelope import pack, unpack

COUNT = 1000
KEYS = [f"user:{number}" for number in range(COUNT)]


def _functions() -> dict[str, Callable[[str], Any]]:
    """The parts as they stand in the text of the hit path (loading/hits.py)."""

    class Slots:
        __slots__ = ("checked", "checkpoint", "fresh_until", "head_word", "proven_until", "value")

    it = Slots()
    it.fresh_until = it.proven_until = 1e18
    it.checked = it.checkpoint = it.head_word = 7
    it.value = None
    ordered: OrderedDict[str, Slots] = OrderedDict.fromkeys(KEYS, it)
    lookup, move, clock = ordered.get, ordered.move_to_end, time.monotonic
    count = repeat(None, maxsize).__next__
    heads = [7]
    now = 1.0

    def empty(key: str) -> Any:
        return None

    def signature(key: str, default: Any = None, **place: Any) -> Any:
        if not place:
            return None
        return key

    def look_up(key: str) -> Any:
        return lookup(key)

    def read_clock(key: str) -> Any:
        return clock()

    def compare(key: str) -> Any:
        if now < it.fresh_until and now < it.proven_until and it.checked is it.checkpoint and heads[0] == it.head_word:
            return it.value
        return None

    def move_to_end(key: str) -> Any:
        try:
            move(key)
        except KeyError:
            pass

    def count_hit(key: str) -> Any:
        count()

    return {
        "an empty function": empty,
        "a signature that takes `default` and scope arguments (`**place` makes a dict)": signature,
        "OrderedDict.get": look_up,
        "time.monotonic": read_clock,
        "expiry, proof, checkpoint and head compared; the value read": compare,
        "OrderedDict.move_to_end (exact LRU)": move_to_end,
        "counting": count_hit,
    }


def hit_parts(settings: Settings) -> dict[str, float]:
    """Nanoseconds of each part, the call of its function taken off."""
    functions = _functions()
    taken = in_turn({name: calling(function, KEYS) for name, function in functions.items()}, settings.rounds(200))
    medians = {name: median(times) * 1e9 for name, times in taken.items()}
    empty = medians["an empty function"]
    return {name: value if name == "an empty function" else value - empty for name, value in medians.items()}


def below_parts(settings: Settings) -> dict[str, float]:
    """Microseconds of each part of a hit below memory that is our own code, for a value of 1 kB."""
    directory = settings.directory / "anatomy"
    manager = CacheManager(
        CacheConfig(local=LocalCacheConfig(max_size=10), disk=LocalCacheConfig(type="file", directory=directory))
    )
    value = value_of(1000, 1)
    for number in range(20):  # memory is full: whatever comes in puts something out
        manager.set(f"user:{number}", value)
    region = manager.current_region()
    address = Address(region.name, "", "user:1")
    begin = region.begin()
    entry = region.entry(value, 300.0, (), begin)
    envelope = region.envelope("disk", entry, begin, address)
    data = pack(envelope)
    ledger = region.ledger
    addresses = [Address(region.name, "", f"user:{number}") for number in range(20)]
    functions: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
        "its name below (`storage_key`)": (lambda each: storage_key(*each), addresses),
        "envelope read: header, checksum, names (`unpack`)": (unpack, [data]),
        "value decoded, entry made (`Region.revive_one`)": (
            lambda each: region.revive_one("disk", each, envelope), addresses,
        ),
        "  of that, orjson.loads": (orjson.loads, [envelope.payload]),
        "  of that, judged by the ledger (`Region.judge`)": (lambda each: region.judge(each, envelope, ledger.applied), addresses),
        "judged, promoted, another evicted (`Region.take_in`)": (
            lambda each: region.take_in([region.revive_one("disk", each, envelope)], ledger.applied), addresses,
        ),
    }  # fmt: skip
    taken = in_turn(
        {name: calling(call, given, 200) for name, (call, given) in functions.items()}, settings.rounds(100)
    )
    manager.close()
    found = {name: median(times) * 1e6 for name, times in taken.items()}
    made = found["value decoded, entry made (`Region.revive_one`)"]
    found["judged, promoted, another evicted (`Region.take_in`)"] -= made  # an entry of its own each time
    return found
