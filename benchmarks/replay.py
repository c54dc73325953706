"""Replay a trace of keys through the cache and report what it found where.

    python benchmarks/replay.py --trace FILE [--policy lru s3fifo …] [--size 250 500 | 0.1% 1% 10%] [--directory DIR]
        [--redis URL] [--limit N] [--policy-only] [--json]

A trace is a text file, gzipped or not, with one key a line. Every miss is filled. The replay goes through a real
manager: each request is a `get`, each miss a `get_or_set`, through memory and whatever tiers below are asked for.
`--policy-only` gives the requests to the real memory tier alone, which is ten times as fast and has the same hit
ratio in memory, since the tier is the simulator.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from tiercast import CacheConfig, CacheManager, DistributedCacheConfig, LocalCacheConfig
from tiercast.tiers.entry import MeteredEntry
from tiercast.tiers.memory import MemoryTier

POLICIES = ("lru", "s3fifo", "sieve", "lfu", "fifo", "random")


class Replay(NamedTuple):
    """What became of a trace: requests, hits by tier, and requests a second."""

    policy: str
    size: int
    requests: int
    local: int
    disk: int
    remote: int
    rate: float

    @property
    def ratio(self) -> float:
        """The hit ratio of memory in percent."""
        return 100 * self.local / self.requests


def read_trace(path: Path, limit: int | None = None) -> list[str]:
    """Read a trace, each distinct key as one object."""
    known: dict[str, str] = {}
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        keys = [known.setdefault(key, key) for line in lines if (key := line.strip())]
    return keys[:limit] if limit else keys


def replay_tier(keys: Sequence[str], policy: str, size: int) -> Replay:
    """Give a trace to the memory tier alone."""
    tier = MemoryTier(size, None, policy)
    locked = tier.touch_kind == "locked"
    get, touch, insert = tier.get, tier.touch, tier.insert
    hits = 0
    began = perf_counter()
    for key in keys:
        entry = get(key)
        if entry is None:
            # An entry of its own each time: policies count visits in it.
            insert(key, MeteredEntry(None, epoch="", born=0, begun=0.0, expires=0.0, keep=0.0, ttl=0.0))
        else:
            hits += 1
            if not locked:
                touch(key, entry)
    return Replay(policy, size, len(keys), hits, 0, 0, len(keys) / (perf_counter() - began))


def replay_manager(
    keys: Sequence[str], policy: str, size: int, directory: Path | None = None, redis_url: str | None = None
) -> Replay:
    """Give a trace to a manager."""
    config = CacheConfig(
        name="replay",
        ttl=None,
        local=LocalCacheConfig(max_size=size, policy=policy),
        disk=LocalCacheConfig(type="file", directory=directory) if directory else None,
        distributed=DistributedCacheConfig(connection_string=redis_url, ttl=None) if redis_url else None,
    )
    missing = object()
    with CacheManager(config) as cache:
        get, get_or_set = cache.get, cache.get_or_set
        began = perf_counter()
        for key in keys:
            if get(key, missing) is missing:
                get_or_set(key, lambda: 1)
        taken = perf_counter() - began
        figures = cache.stats()
    return Replay(
        policy, size, len(keys), figures["local_hits"], figures["disk_hits"], figures["remote_hits"], len(keys) / taken
    )


def size_of(text: str, unique: int) -> int:
    """Read a size: a number of entries, or a part of the distinct keys such as 1%."""
    return max(1, round(unique * float(text[:-1]) / 100)) if text.endswith("%") else int(text)


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, required=True, help="one key a line; .gz or plain")
    parser.add_argument("--policy", nargs="+", default=["lru"], help=f"{', '.join(POLICIES)}, or package.module:Class")
    parser.add_argument("--size", nargs="+", default=["1%"], help="entries, or a part of the distinct keys (1%%)")
    parser.add_argument("--limit", type=int, help="only so many requests")
    parser.add_argument("--directory", type=Path, help="a disk tier there (it should be empty)")
    parser.add_argument("--redis", help="a remote tier at this URL (it should be empty)")
    parser.add_argument("--policy-only", action="store_true", help="the memory tier without a manager")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(given)
    keys = read_trace(options.trace, options.limit)
    unique = len(set(keys))
    if not options.json:
        print(f"{options.trace.name}: {len(keys):,} requests of {unique:,} keys")
        print(f"{'policy':10} {'size':>9} {'memory %':>9} {'disk %':>7} {'Redis %':>8} {'requests/s':>11}")
    for policy in options.policy:
        for text in options.size:
            size = size_of(text, unique)
            if options.policy_only:
                found = replay_tier(keys, policy, size)
            else:
                directory = options.directory / f"{policy}-{size}" if options.directory else None
                found = replay_manager(keys, policy, size, directory, options.redis)
            _print(found, as_json=options.json)
    return 0


def _print(found: Replay, *, as_json: bool) -> None:
    if as_json:
        row: dict[str, Any] = {**found._asdict(), "ratio": found.ratio}
        print(json.dumps(row), flush=True)
        return
    part = 100 / found.requests
    print(
        f"{found.policy:10} {found.size:9,} {found.ratio:9.2f} {found.disk * part:7.2f} {found.remote * part:8.2f}"
        f" {found.rate:11,.0f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
