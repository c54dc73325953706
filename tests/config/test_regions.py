"""What a region inherits, overrides and replaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiercast.config import CacheConfig, CoherenceConfig, DistributedCacheConfig, LocalCacheConfig
from tiercast.errors import ConfigError

URL = "redis://localhost:6379/0"
REMOTE = DistributedCacheConfig(connection_string=URL)


def test_unknown_regions_inherit_everything() -> None:
    """A region that is not configured is the default one under another name; each is resolved once."""
    config = CacheConfig(ttl=7, grace=3)
    region = config.region("anything")
    assert ("anything", 7.0, 3.0) == (region.name, region.ttl, region.grace)
    assert region is config.region("anything")
    assert config.region() is config.region("default")


def test_a_mapping_overrides_fields() -> None:
    """Also inside a tier; what it does not name stays."""
    config = CacheConfig(
        local=LocalCacheConfig(max_size=5, policy="lfu"), ttl=100, regions={"r": {"grace": 9, "local": {"max_size": 8}}}
    )
    region = config.region("r")
    assert (100.0, 9.0) == (region.ttl, region.grace)
    assert LocalCacheConfig(max_size=8, policy="lfu") == region.local


def test_an_object_replaces_the_tier_whole() -> None:
    """Nothing of the inherited tier remains."""
    config = CacheConfig(local=LocalCacheConfig(max_size=5), regions={"r": {"local": LocalCacheConfig(policy="lfu")}})
    assert LocalCacheConfig(policy="lfu") == config.region("r").local


def test_none_switches_a_tier_off() -> None:
    """And so does enabled=False, for the remote one."""
    config = CacheConfig(distributed=REMOTE, regions={"r": {"local": None}, "s": {"distributed": {"enabled": False}}})
    assert (None, REMOTE) == (config.region("r").local, config.region("r").distributed)
    assert config.region("s").distributed is None
    assert config.region().distributed is not None


def test_what_default_sets_holds_for_all() -> None:
    """regions["default"] is inherited; a region's own setting goes before it."""
    config = CacheConfig(regions={"default": {"ttl": 10, "grace": 1}, "r": {"ttl": 20}})
    assert [10.0, 20.0, 10.0] == [config.region(name).ttl for name in (None, "r", "other")]
    assert 1.0 == config.region("r").grace


@pytest.mark.parametrize(
    ("options", "region", "ttl"),
    [
        ({}, {}, 300.0),
        ({"distributed": REMOTE}, {}, 3600.0),
        ({"local": LocalCacheConfig(ttl=50)}, {}, 50.0),
        ({"ttl": None}, {}, None),
        ({"ttl": 100, "distributed": REMOTE}, {"local": {"ttl": 5}}, 5.0),
        ({"distributed": REMOTE}, {"local": LocalCacheConfig(ttl=5)}, 5.0),
        ({}, {"ttl": 60, "local": {"ttl": 5}}, 60.0),
        ({"distributed": REMOTE}, {"local": {"ttl": 5}, "distributed": {"ttl": 50}}, 50.0),
        ({"ttl": 60}, {"distributed": REMOTE}, 60.0),
        ({"ttl": 60}, {"distributed": {"connection_string": URL, "ttl": 90}}, 90.0),
        ({"ttl": 60}, {"local": {"max_size": 5}}, 60.0),
        ({"ttl": 60}, {"ttl": None}, None),
    ],
)
def test_the_ttl_of_entries(options: dict[str, object], region: dict[str, object], ttl: float | None) -> None:
    """The region's, else what it names for its tiers, else the configuration's, else the longest cap, else 300 s."""
    config = CacheConfig(**options, regions={"r": region})  # type: ignore[arg-type]
    assert ttl == config.region("r").ttl


def test_a_local_file_is_a_disk_tier_without_memory(tmp_path: Path) -> None:
    """In the configuration and in a region, where it takes the inherited disk tier's place."""
    disk = LocalCacheConfig(type="file", directory=tmp_path / "a")
    own = LocalCacheConfig(type="file", directory=tmp_path / "b")
    assert (None, disk) == (CacheConfig(local=disk).region().local, CacheConfig(local=disk).region().disk)
    region = CacheConfig(disk=disk, regions={"persistent": {"local": own}}).region("persistent")
    assert (None, own) == (region.local, region.disk)
    region = CacheConfig(local=disk, regions={"r": {"disk": own}}).region("r")
    assert (None, own) == (region.local, region.disk)
    with pytest.raises(ConfigError, match=r"regions\.r\.disk"):
        CacheConfig(regions={"r": {"local": own, "disk": disk}})


def test_a_mapping_of_another_type_starts_afresh() -> None:
    """10,000 entries do not become 10,000 MB."""
    config = CacheConfig(local=LocalCacheConfig(max_size=77), regions={"r": {"local": {"type": "file"}}})
    disk = config.region("r").disk
    assert disk is not None
    assert 2**30 == disk.byte_limit


def test_text_stands_for_a_tier(tmp_path: Path) -> None:
    """A type, a directory, a connection string."""
    region = CacheConfig(regions={"r": {"local": "memory", "disk": str(tmp_path), "distributed": URL}}).region("r")
    assert region.disk is not None
    assert region.distributed is not None
    assert (str(tmp_path), "file", URL) == (
        region.disk.directory,
        region.disk.type,
        region.distributed.connection_string,
    )


def test_alternatives_replace_each_other() -> None:
    """A region that brings its own client does not keep the inherited connection string."""
    client = object()
    region = CacheConfig(distributed=REMOTE, regions={"default": {"distributed": {"client": client}}}).region()
    assert region.distributed is not None
    assert (client, None) == (region.distributed.client, region.distributed.connection_string)


def test_a_single_level_keeps_the_first_tier(tmp_path: Path) -> None:
    """use_multi_level=False: memory, else disk, else remote."""
    disk = LocalCacheConfig(type="file", directory=tmp_path)
    everything = CacheConfig(use_multi_level=False, disk=disk, distributed=REMOTE).region()
    assert (True, None, None) == (everything.local is not None, everything.disk, everything.distributed)
    lower = CacheConfig(use_multi_level=False, local=None, disk=disk, distributed=REMOTE).region()
    assert (None, disk, None) == (lower.local, lower.disk, lower.distributed)


def test_a_disk_tier_has_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's cache directory, and no name of a fleet leads out of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, folder in (("tiercast", "tiercast"), ("..", "%2E%2E"), ("a/b", "a%2Fb")):
        disk = CacheConfig(name=name, disk=LocalCacheConfig(type="file")).region().disk
        assert disk is not None
        assert str(tmp_path / "tiercast" / folder) == disk.directory


@pytest.mark.parametrize(
    ("region", "names"),
    [({"ttll": 5}, r"regions\.r\.ttll: unknown option; did you mean 'ttl'"), ({"name": "x"}, r"regions\.r\.name"),
     ({"ttl": -1}, r"regions\.r\.ttl"), ({"local": {"max_sice": 5}}, r"regions\.r\.local\.max_sice.*'max_size'"),
     ({"local": {3: 5}}, r"regions\.r\.local"), ({3: 5}, r"regions\.r\.3"), ({"local": 5}, r"regions\.r\.local"),
     ({"distributed": "localhost"}, r"regions\.r\.distributed\.connection_string"),
     ({"local": None}, r"regions\.r\.local"), ({"hard_timeout": 1, "soft_timeout": 2}, r"regions\.r\.soft_timeout")],
)  # fmt: skip
def test_a_bad_region_is_refused_when_the_configuration_is_made(region: dict[str, object], names: str) -> None:
    """The whole way to the option is named."""
    with pytest.raises(ConfigError, match=names):
        CacheConfig(regions={"r": region})


def test_changing_the_mapping_later_changes_nothing() -> None:
    """The configuration keeps a copy."""
    regions = {"r": {"ttl": 5}}
    config = CacheConfig(regions=regions)
    regions["r"]["ttl"] = 6
    assert {"ttl": 5} == config.regions["r"]


@pytest.mark.parametrize(("name", "error"), [("", ValueError), ("x" * 101, ValueError), (5, TypeError)])
def test_the_name_of_a_region_is_checked(name: object, error: type[Exception]) -> None:
    """A name that fits no storage key is refused where it is used."""
    with pytest.raises(error, match="region"):
        CacheConfig().region(name)  # type: ignore[arg-type]


def test_one_region_may_have_redis_alone() -> None:
    """The others do without; the log is the one of all of them."""
    config = CacheConfig(regions={"r": {"distributed": REMOTE}}, coherence=CoherenceConfig(bus="redis"))
    assert (None, REMOTE, REMOTE) == (config.region().distributed, config.region("r").distributed, config.remote)


@pytest.mark.parametrize("other", [{"connection_string": "redis://localhost:6379/5"}, {"prefix": "p"}])
def test_regions_share_one_server(other: dict[str, str]) -> None:
    """A second one would hold values that no log orders; its name would be ignored."""
    with pytest.raises(ConfigError, match=rf"regions\.r\.distributed\.{next(iter(other))}: .*one cache has one server"):
        CacheConfig(distributed=REMOTE, regions={"r": {"distributed": other}})
