"""`cache.fleet()`: what the processes of a fleet say of themselves."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from fleet_worker import working

from stacks import config_of, patient
from tiercast import CacheConfig, CacheManager
from tiercast.coherence.log import Member
from tiercast.monitoring.figures import Counts
from tiercast.observing.fleet import LARGEST, digest_of, library_version, processes_of


def test_every_process_is_listed(environ: dict[str, str], redis_url: str) -> None:
    """Each process of the fleet is listed with where it is, what it runs, how far it is and how well it does."""
    config = CacheConfig(name="fleet", distributed=patient(redis_url))
    with working(environ, 3, redis=redis_url, name="fleet", hits=[10, 20, 30], misses=2) as workers:
        with CacheManager(config) as cache:
            cache.coherence.start()
            cache.invalidate_tags(["t"])
            for worker in (
                *workers,
                *workers,
            ):  # a heartbeat says what was applied before it; the next, what it brought
                worker.beat()
            found = {process.pid: process for process in cache.fleet()}
            assert found.keys() == {os.getpid(), *(worker.process.pid for worker in workers)}
            assert found[os.getpid()].self
            for worker in workers:
                process = found[worker.process.pid]
                assert process.alive
                assert process.version == library_version()
                assert process.position == cache.position().position
                assert process.lag == 0
                assert process.proven_age is not None
                assert 0 <= process.proven_age < 30
                assert process.sizes == {"local": 1}
                assert process.hits == worker.said["stats"]["hits"]
                assert process.misses == worker.said["stats"]["misses"]
                assert 0 < process.hit_rates["overall"] < 1
            assert [each.name for each in asyncio.run(cache.fleet_async())] == [each.name for each in found.values()]


def test_a_digest_is_small(tmp_path: Path, redis_url: str) -> None:
    """What travels with every heartbeat stays below 400 bytes, however much there is to say."""
    with CacheManager(config_of("memory+disk+redis", tmp_path / "a", redis_url)) as cache:
        for number in range(1000):
            cache.get_or_set(f"k{number}", lambda: 1)
        much = Counts(dict.fromkeys(("hits.local", "hits.disk", "misses", "errors.disk"), 10**15 // 3))
        cache.monitor.moment = lambda: {"region": much}  # type: ignore[method-assign]
        assert len(digest_of(cache._runtime)) < LARGEST


def test_who_asks_may_have_other_settings() -> None:
    """A process is heard of as its own lease says, whatever `max_staleness` whoever asks has."""
    members = [
        Member("host:1:a", "e", 5, -3.5, '{"a":0.1,"l":4.0}'),
        Member("host:2:b", "e", 5, -59.0, '{"a":0.1,"l":60}'),
    ]
    found = processes_of(members, "e", 7, 10.0)
    assert [round(each.heard, 1) for each in found] == [0.5, 1.0]
    assert [round(each.proven_age or 0, 1) for each in found] == [0.6, 1.1]


def test_what_cannot_be_read_is_left_out() -> None:
    """A digest of another version, or none, leaves figures out and hides no process."""
    members = [
        Member("host:1:a", "e", 5, -3.0, "not json"),
        Member("host:2:b", "e", 7, 2.0, '{"v":"9.9","r":["x"],"h":[1],"n":"many"}'),
        Member("ipv6::1:3:c", "other", 7, -3.0, ""),
        Member("(whoever ran before this epoch)", "", 0, 1.0, ""),
    ]
    found = processes_of(members, "e", 7, 10.0)
    assert [(each.host, each.pid, each.version, each.alive, each.lag) for each in found] == [
        ("host", 1, "", True, 2),
        ("host", 2, "9.9", False, 0),
        ("ipv6::1", 3, "", True, None),
    ]
    assert [each.hit_rates for each in found] == [{}, {}, {}]
    assert [round(each.heard) for each in found] == [7, 12, 7]
