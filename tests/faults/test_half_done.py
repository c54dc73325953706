"""Killed between two steps: afterwards nobody serves the old value."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from faults.puppet import Puppet
from servers import RedisCluster, wait_until
from tiercast import CacheConfig, CacheManager
from tiercast.plans import drive
from tiercast.tiers.entry import Address

pytestmark = pytest.mark.fault

COHERENCE = {"max_staleness": 1.5, "heartbeat": 0.3}

SET = ("set", ["key", "new"])
DELETE = ("delete", ["key"])
INVALIDATE = ("invalidate_keys", [["key"]])

CASES = {
    "set, between append and value": (SET, ("die_before", "remote", "put_if_newer")),
    "delete, between append and bury": (DELETE, ("die_before", "remote", "bury")),
    "invalidate, between append and bury": (INVALIDATE, ("die_before", "remote", "bury")),
    "set, after the append, which it never learned of": (SET, ("die_after", "log", "append")),
    "delete, after the append, which it never learned of": (DELETE, ("die_after", "log", "append")),
    "set, after the value": (SET, ("die_after", "remote", "put_if_newer")),
    "delete, after the bury": (DELETE, ("die_after", "remote", "bury")),
}
ON_ONE_SERVER = [case for case in CASES if "after the append" in case]


@pytest.fixture
def make() -> Iterator[Callable[[str], CacheManager]]:
    managers = []

    def make(url: str) -> CacheManager:
        managers.append(CacheManager(CacheConfig.from_dict(config(url))))
        managers[-1].coherence.start(20)
        return managers[-1]

    yield make
    for manager in managers:
        manager.close()


def config(url: str) -> dict[str, Any]:
    remote = {"connection_string": url, "read_timeout": 1.0, "write_timeout": 2.0}
    return {"name": "half-done", "distributed": remote, "coherence": COHERENCE, "lock_ttl": 1.0}


def scenario(url: str, make: Callable[[str], CacheManager], case: str) -> None:
    """The old value is in memory and in L3, and being loaded once more, when a writer dies in the middle of its work."""
    (operation, args), (how, what, method) = CASES[case]
    witness, loading = make(url), make(url)
    witness.get_or_set("key", lambda: "old")
    began, finish = threading.Event(), threading.Event()

    def load_slowly() -> str:
        began.set()
        finish.wait(20)
        return "old"

    thread = threading.Thread(target=lambda: loading.get_or_set("key", load_slowly, refresh=True))
    thread.start()
    assert began.wait(20)
    with Puppet(**config(url)) as puppet:
        puppet.do("start")
        before = puppet.do("status")["position"]
        puppet.do(how, what, method)
        with pytest.raises(EOFError):
            puppet.do(operation, *args)
    finish.set()
    thread.join(20)
    allowed = {None, "new"} if operation == "set" else {None}
    witness.coherence.settle()
    loading.coherence.settle()
    assert witness.coherence.status().position > before
    fresh = make(url)
    assert {each.get("key") for each in (fresh, witness, loading)} <= allowed
    # Also once the fleet has carried the record to L3, and for who starts after that.
    wait_until(lambda: carried(witness), 10, "a fleet that has carried")
    assert {each.get("key") for each in (make(url), fresh, witness, loading)} <= allowed
    assert fresh.get_or_set("key", lambda: "newest") in {"new", "newest"}


def carried(cache: CacheManager) -> bool:
    cache.coherence.settle()
    status = cache.coherence.status()
    return status.carried >= status.position


@pytest.mark.parametrize("case", CASES)
def test_in_a_cluster(redis_cluster_url: str, make: Callable[[str], CacheManager], case: str) -> None:
    """Append and value are two steps in a Cluster: the record decides, and the fleet carries it to L3."""
    scenario(redis_cluster_url, make, case)


@pytest.mark.parametrize("case", ON_ONE_SERVER)
def test_on_one_server(redis_url: str, make: Callable[[str], CacheManager], case: str) -> None:
    """There they are one step, of which the dead writer may not have heard."""
    scenario(redis_url, make, case)


@pytest.mark.parametrize("data", ["none", "older"])
def test_a_master_that_restarts_brings_nothing_back(
    own_cluster: RedisCluster, make: Callable[[str], CacheManager], data: str
) -> None:
    """Each master in turn, the log's and the values', empty or as it was a moment ago: what is read afterwards is true."""
    url = own_cluster.url
    first, second = make(url), make(url)
    keys = [f"key-{number}" for number in range(30)]
    for version, master in enumerate(own_cluster.masters):
        for key in keys:
            first.set(key, version)
        if data == "older":
            master.execute("SAVE")
        results = [first.invalidate_keys([key]) for key in keys]
        assert all(result.delivered for result in results)
        wait_until(lambda: carried(first), 10, "a fleet that has carried")
        master.kill()
        master.start()
        own_cluster.wait_ok()
        wait_until(lambda: proven(first) and proven(second), 20, "proof")
        for cache in (first, second, make(url)):
            cache.coherence.settle()
            assert {cache.get(key) for key in keys} == {None}


def test_who_starts_in_a_cluster_finds_what_was_there(
    redis_cluster_url: str, make: Callable[[str], CacheManager]
) -> None:
    """Its ring reaches back to nothing, but each server's life is known since the epoch began."""
    first = make(redis_cluster_url)
    keys = [f"key-{number}" for number in range(30)]
    first.multi_set(dict.fromkeys(keys, "value"))
    first.get_or_set("loaded", lambda: "value")
    first.invalidate_keys(keys[:3])
    wait_until(lambda: carried(first), 10, "a fleet that has carried")
    assert make(redis_cluster_url).multi_get([*keys, "loaded"]) == dict.fromkeys([*keys[3:], "loaded"], "value")


def test_a_promoted_replica_brings_nothing_back(make: Callable[[str], CacheManager]) -> None:
    """It was cut off when a value was buried, and becomes a master: who starts afterwards does not find that value there."""
    with RedisCluster(replicas=1, options={"cluster-replica-validity-factor": "0"}) as cluster:
        first = make(cluster.url)
        log = cluster.master_of("tiercast:{half-done}:log")
        remote: Any = first._runtime.remote
        epoch = first.coherence.status().epoch or ""

        def stored(key: str) -> str:
            return remote.key_of(Address("default", "", key), epoch)

        keys = [f"key-{number}" for number in range(60)]
        keys = [key for key in keys if cluster.master_of(stored(key)) is not log]
        master = cluster.master_of(stored(keys[0]))
        keys = [key for key in keys if cluster.master_of(stored(key)) is master]
        replica = cluster.replicas[cluster.masters.index(master)]
        first.multi_set(dict.fromkeys(keys, "old"))
        wait_until(lambda: replica.execute("DBSIZE") >= len(keys), 10, "a replica that has them")
        for name in ("masteruser", "masterauth"):
            replica.execute("CONFIG", "SET", name, "nobody")
        master.execute("CLIENT", "KILL", "TYPE", "replica")
        first.invalidate_keys(keys[1:])
        wait_until(lambda: carried(first), 10, "a fleet that has carried")
        master.kill()
        wait_until(lambda: replica.execute("INFO", "replication")["role"] == "master", 30, "a promoted replica")
        addresses = [Address("default", "", key) for key in keys]
        wait_until(
            lambda: drive(remote.get_many(addresses, epoch)).found.keys() == set(addresses), 30, "the old values"
        )
        assert make(cluster.url).multi_get(keys) == {}
        assert first.multi_get(keys[1:]) == {}


def proven(cache: CacheManager) -> bool:
    cache.get("probe")
    return cache.coherence.status().proven
