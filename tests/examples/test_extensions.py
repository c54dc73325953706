"""The examples of extensions keep the contracts of what they extend."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tiercast import CacheConfig, CacheManager, DistributedCacheConfig, LocalCacheConfig, SerializationError
from tiercast.testing import FakeClock, TierContract
from tiercast.tiers.adapter import SyncTier
from tiercast.tiers.base import Tier

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestOwnTier(TierContract):
    """The SQLite store keeps the contract of tiers, but for `scan`, which needs `keys`."""

    scans = False

    def make_tier(self, tmp_path: Path, clock: FakeClock) -> Tier:
        module = load("own_tier")
        module.time = FakeTime(clock)
        return SyncTier(module.SqliteStore(tmp_path / "kept.sqlite3"), clock=clock)


class FakeTime:
    def __init__(self, clock: FakeClock) -> None:
        self.time = clock.wall


def test_a_tier_that_raises_is_a_miss() -> None:
    """What a store of one's own raises never reaches a reader."""

    class Broken(load("own_tier").SqliteStore):  # type: ignore[misc]
        def get(self, key: str) -> bytes | None:
            raise OSError("gone")

    with CacheManager(CacheConfig(local=None, distributed=DistributedCacheConfig(type=Broken(":memory:")))) as cache:
        cache.set("k", 1)
        assert cache.get("k", "nothing") == "nothing"
        assert cache.get_or_set("k", lambda: 2) == 2


@pytest.mark.parametrize("value", [[], [[]], [[""]], [["a", 'b"\r\n,'], ["é", "\x00"]], [["1"], [], ["2", "3"]]])
def test_the_codec_gives_back_what_it_took(value: Any) -> None:
    """Tables of text come back equal."""
    codec = load("own_codec").CsvCodec()
    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize("value", [1, "text", [[1]], [("a", "b")], {"a": ["b"]}, None])
def test_the_codec_refuses_the_rest(value: Any, tmp_path: Path) -> None:
    """What is no table of text is refused at `set`, and nothing is stored."""
    disk = LocalCacheConfig(type="file", directory=tmp_path, serializer=load("own_codec").CsvCodec())
    with CacheManager(CacheConfig(disk=disk, distributed=None)) as cache:
        with pytest.raises(SerializationError):
            cache.set("k", value)
        assert cache.contains("k") is False


def test_the_policy_chooses_who_leaves() -> None:
    """When memory is full the longest goes, whatever came last."""
    memory = LocalCacheConfig(max_size=3, policy=load("own_policy").LongestFirst)
    with CacheManager(CacheConfig(local=memory, distributed=None)) as cache:
        for key, size in {"a": 5, "b": 50, "c": 7, "d": 500, "e": 6}.items():
            cache.set(key, "x" * size)
        assert {"a", "c", "e"} == cache.multi_get(list("abcde")).keys()
        cache.current_region().memory.check()
