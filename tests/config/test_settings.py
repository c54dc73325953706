"""Settings are checked when they are made, and an error names the field."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import attrs
import cachetools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercast.config import (
    DEFAULT,
    Alert,
    CacheConfig,
    CoherenceConfig,
    DistributedCacheConfig,
    LocalCacheConfig,
    MonitoringConfig,
    RegionConfig,
    ScopeConfig,
    ScopeLevel,
    load_object,
    nearest,
)
from tiercast.errors import ConfigError

CLASSES = [LocalCacheConfig, DistributedCacheConfig, CoherenceConfig, MonitoringConfig, RegionConfig, CacheConfig]


def test_importing_the_settings_imports_no_backend() -> None:
    """`import tiercast.config` costs neither redis nor diskcache nor cattrs nor asyncio."""
    check = (
        "import sys, tiercast.config; print(sorted({'redis', 'diskcache', 'cattrs', 'cachetools'} & set(sys.modules)))"
    )
    source = str(Path(load_object("tiercast.config:__file__")).parents[2])
    environ = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, env=environ)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("cls", CLASSES)
def test_an_unknown_option_names_the_nearest(cls: type) -> None:
    """A misspelt option is a ConfigError with a suggestion, never a TypeError."""
    known = [field.name for field in attrs.fields(cls) if field.init]
    for name in known:
        if name + "x" not in known:
            with pytest.raises(ConfigError, match=f"{cls.__name__}.{name}x: unknown option; did you mean '{name}'"):
                cls(**{f"{name}x": 1})
    with pytest.raises(ConfigError, match=r"unknown option$"):
        cls(qqqqqqq=1)
    with pytest.raises(ConfigError, match="unknown option"):
        cls(self=1)


def test_a_mapping_where_an_object_belongs() -> None:
    """The message names the way that does read mappings."""
    with pytest.raises(ConfigError, match=r"CacheConfig\.local: must be LocalCacheConfig, .*from_dict reads mappings"):
        CacheConfig(local={"ttl": 5})  # type: ignore[arg-type]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_option_is_described(cls: type) -> None:
    """The docstring (or its base's) says what each option means."""
    described = "".join(kind.__doc__ or "" for kind in cls.__mro__)
    assert [] == [field.name for field in attrs.fields(cls) if field.init and field.name not in described]


def fields_of(kind: str) -> list[tuple[type, str]]:
    """The (class, option) pairs whose written type has `kind` in it."""
    return [
        (cls, field.name)
        for cls in CLASSES
        for field in attrs.fields(cls)
        if field.init and kind in {part.strip() for part in str(field.type).split("|")}
    ]


@pytest.mark.parametrize(("cls", "name"), fields_of("float") + fields_of("int"))
@pytest.mark.parametrize("value", [-1, -0.5, math.nan, math.inf, True, "5", [], 10**400, object()])
def test_what_is_no_number_is_refused(cls: type, name: str, value: object) -> None:
    """Negative numbers, NaN, infinity, booleans and text are ConfigErrors that name the option."""
    with pytest.raises(ConfigError, match=rf"{cls.__name__}\.{name}: must be"):
        cls(**{name: value})


@pytest.mark.parametrize(("cls", "name"), fields_of("bool"))
@pytest.mark.parametrize("value", [0, 1, "yes", "", []])
def test_what_is_no_boolean_is_refused(cls: type, name: str, value: object) -> None:
    """True and False are written as such."""
    with pytest.raises(ConfigError, match=rf"{cls.__name__}\.{name}: must be True or False"):
        cls(**{name: value})


@pytest.mark.parametrize(
    ("cls", "name"), [(LocalCacheConfig, "ttl"), (DistributedCacheConfig, "ttl"), (CacheConfig, "ttl")]
)
def test_a_ttl_is_positive_or_none(cls: type, name: str) -> None:
    """None is "until invalidated", 0 is refused; a timedelta becomes seconds."""
    assert cls(ttl=None).ttl is None
    assert 90.0 == cls(ttl=timedelta(minutes=1.5)).ttl
    assert isinstance(cls(ttl=90).ttl, float)
    for value in (0, timedelta(0), timedelta(days=-1)):
        with pytest.raises(ConfigError, match="ttl"):
            cls(ttl=value)


@given(st.floats(min_value=1e-3, max_value=1e6))
def test_durations_are_kept_as_given(length: float) -> None:
    """Seconds stay what they were."""
    assert length == CoherenceConfig(max_staleness=length, heartbeat=length / 2).max_staleness


def test_settings_are_frozen() -> None:
    """Nothing changes after the checks."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        LocalCacheConfig().max_size = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "entries", "size"),
    [({}, 10_000, None), ({"max_size": 5}, 5, None), ({"max_bytes": 7}, 10_000, 7), ({"max_size_mb": 0.5}, 10_000, 524_288),
     ({"type": "file"}, None, 2**30), ({"type": "file", "max_size": 2}, None, 2**21),
     ({"type": "file", "max_bytes": 9}, None, 9)],
)  # fmt: skip
def test_bounds_of_a_local_tier(options: dict[str, object], entries: int | None, size: int | None) -> None:
    """max_size counts entries in memory and MB on disk; max_bytes is bytes for both."""
    settings = LocalCacheConfig(**options)  # type: ignore[arg-type]
    assert (entries, size) == (settings.entry_limit, settings.byte_limit)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"type": "memry"}, "type.*did you mean 'memory'"),
        ({"type": "a.b:"}, "type"),
        ({"type": None}, "type"),
        ({"policy": "lruu"}, "policy.*did you mean 'lru'"),
        ({"serializer": "jsn"}, "serializer.*did you mean 'json'"),
        ({"type": "file", "max_size": 1, "max_bytes": 1}, "max_bytes"),
        ({"max_size_mb": 1, "max_bytes": 1}, "max_size_mb"),
        ({"type": "file", "serializer": "pickle"}, "secret"),
        ({"type": "file", "serializer": "pickle", "secret": "too few"}, "secret"),
        ({"secret": ""}, "secret"),
        ({"copy_on_read": True, "freeze": True}, "freeze"),
        ({"directory": ""}, "directory"),
        ({"directory": "a\0b"}, "directory"),
        ({"directory": 3}, "directory"),
        ({"directory": __file__}, "directory.*not a directory"),
        ({"directory": f"{__file__}/below"}, "directory.*not a directory"),
    ],
)
def test_a_bad_local_tier_is_refused(options: dict[str, object], names: str) -> None:
    """Each mistake is named."""
    with pytest.raises(ConfigError, match=rf"LocalCacheConfig\.{names}"):
        LocalCacheConfig(**options)  # type: ignore[arg-type]


def test_directories_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is still to be made is fine; "~" and relative paths are settled now, not at the first use."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for given_as in (tmp_path / "a/b", "a/b", "~/a/b"):
        assert str(tmp_path / "a/b") == LocalCacheConfig(type="file", directory=given_as).directory


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found when the settings are made, and for a directory that would have to be made too."""
    if os.geteuid() == 0:  # root may write anywhere: ask as the answer would be for anyone else
        monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))
    else:
        tmp_path.chmod(0o500)
    for directory in (tmp_path, tmp_path / "below"):
        with pytest.raises(ConfigError, match=r"LocalCacheConfig\.directory.*cannot be"):
            LocalCacheConfig(type="file", directory=directory)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a Linux file system that takes no files")
def test_a_directory_where_nobody_can_make_files_is_refused() -> None:
    """Root may write anywhere, as `access` has it; in /proc there is nothing to write to all the same."""
    for directory in ("/proc", "/proc/below/it"):
        with pytest.raises(ConfigError, match=r"LocalCacheConfig\.directory.*cannot be"):
            LocalCacheConfig(type="file", directory=directory)
        with pytest.raises(ConfigError, match=r"CoherenceConfig\.outbox_directory.*cannot be"):
            CoherenceConfig(outbox_directory=directory)


def test_own_classes_and_instances_plug_in() -> None:
    """A policy, tier or codec may be text, a class or an instance."""
    for policy in ("cachetools:LRUCache", cachetools.LRUCache, cachetools.LFUCache(10)):
        assert policy is LocalCacheConfig(policy=policy).policy
    assert cachetools.LRUCache is load_object("cachetools:LRUCache")
    for spec in ("nomodule_:X", "cachetools:Nothing", "cachetools"):
        with pytest.raises(ConfigError, match=spec.split(":", maxsplit=1)[0]):
            load_object(spec)


@pytest.mark.parametrize(
    "url",
    ["redis://localhost", "redis://localhost:6379/0", "rediss://user:p%40ss@redis.example:6380/2?ssl_cert_reqs=none",
     "redis://[::1]:6379/1", "redis://:secret@10.0.0.1", "unix:///run/redis.sock", "unix://user:pw@/run/redis.sock?db=1",
     "redis+sentinel://a:26379,b:26379,c/mymaster/0", "redis+sentinel://user:pw@a/mymaster", "redis+cluster://a:7000,b:7001",
     "rediss+cluster://a", "redis+cluster://a:7000/0"],
)  # fmt: skip
def test_connection_strings(url: str) -> None:
    """All ways to reach a Redis are taken, and switch the tier on."""
    assert DistributedCacheConfig(connection_string=url).is_on


@pytest.mark.parametrize(
    "url",
    ["", "localhost:6379", "redis:localhost", "http://localhost", "reddis://localhost", "redis://", "redis:///0",
     "redis://host:port", "redis://host:0", "redis://host:70000", "redis://host:", "redis://host/db", "redis://host/-1",
     "redis://host/1/2", "redis://h ost", "redis://host\n", "redis://[::1", "unix://", "unix:///",
     "redis+sentinel://a:26379", "redis+sentinel://a,,b/master", "redis+cluster://a/1", "redis+cluster://a,b:x", 5, b"redis://h"],
)  # fmt: skip
def test_malformed_connection_strings_are_refused(url: object) -> None:
    """Found when the settings are made, not at the first read."""
    with pytest.raises(ConfigError, match=r"DistributedCacheConfig\.connection_string"):
        DistributedCacheConfig(connection_string=url)  # type: ignore[arg-type]


@given(st.text())
def test_no_connection_string_breaks_the_check(url: str) -> None:
    """Any text is either taken or a ConfigError."""
    for text in (url, f"redis://{url}", f"redis+sentinel://{url}"):
        try:
            DistributedCacheConfig(connection_string=text)
        except ConfigError:
            pass


@pytest.mark.parametrize("url", ["redis://user:hunter2@host", "redis://:hunter2@host", "redis://host?password=hunter2",
                                 "rediss+sentinel://u:hunter2@a,b/m"])  # fmt: skip
def test_passwords_are_not_shown(url: str) -> None:
    """Neither the repr nor an error gives a password or secret away."""
    assert "hunter2" not in repr(DistributedCacheConfig(connection_string=url, secret="hunter2"))
    with pytest.raises(ConfigError) as caught:
        DistributedCacheConfig(connection_string=f"x{url}")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        DistributedCacheConfig(client=url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("password", ["hunter2#x", "x#hunter2", "hunter2/x", "12/hunter2", "hunter2?x", "12?hunter2", "hunter2@x/hunter2",
                                      "[hunter2", "x/hunter2"])  # fmt: skip
@pytest.mark.parametrize("url", ["redis://user:{}@host/0", "rediss+sentinel://u:{}@a,b/m", "redis+cluster://:{}@a"])
def test_a_password_that_is_not_encoded(url: str, password: str) -> None:
    """What ends the host before its time is named, and no part of the password."""
    with pytest.raises(ConfigError, match="percent-encoded") as caught:
        DistributedCacheConfig(connection_string=url.format(password))
    assert "hunter2" not in str(caught.value)


def test_an_odd_option_is_no_password() -> None:
    """An @ in an option is nothing to complain of."""
    assert DistributedCacheConfig(connection_string="redis://u:p%23@h:1/0?client_name=a@b").is_on


@pytest.mark.parametrize(
    ("options", "on"),
    [({}, False), ({"client": object()}, True), ({"enabled": False, "connection_string": "redis://h"}, False),
     ({"type": "a.b:Tier"}, True), ({"type": "a:Tier", "enabled": False}, False), ({"client": (object(), object())}, True)],
)  # fmt: skip
def test_when_the_remote_tier_is_on(options: dict[str, object], on: bool) -> None:
    """enabled=None: on where a connection or a tier of one's own is given."""
    assert on == DistributedCacheConfig(**options).is_on  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "names"),
    [({"enabled": True}, "connection_string"), ({"connection_string": "redis://h", "client": object()}, "client"),
     ({"client": "redis://h"}, "client"), ({"client": ()}, "client"), ({"client": (None, 1)}, "client"),
     ({"serializer": "pickle"}, "secret"), ({"prefix": ""}, "prefix"), ({"max_connections": 0}, "max_connections")],
)  # fmt: skip
def test_a_bad_remote_tier_is_refused(options: dict[str, object], names: str) -> None:
    """Each mistake is named."""
    with pytest.raises(ConfigError, match=rf"DistributedCacheConfig\.{names}"):
        DistributedCacheConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "names"),
    [({"bus": "kafka"}, "bus"), ({"on_outage": "lod"}, "on_outage.*did you mean 'load'"), ({"failover": 1}, "failover"),
     ({"heartbeat": 5.0}, "heartbeat"), ({"max_staleness": 0}, "max_staleness"), ({"key_ring": 0}, "key_ring")],
)  # fmt: skip
def test_bad_coherence_is_refused(options: dict[str, object], names: str) -> None:
    """Each mistake is named; a heartbeat slower than the bound could never prove anything."""
    with pytest.raises(ConfigError, match=rf"CoherenceConfig\.{names}"):
        CoherenceConfig(**options)  # type: ignore[arg-type]


def test_the_fence_outlives_the_longest_load() -> None:
    """A tombstone stands for max_load_time plus max_staleness."""
    assert 605.0 == CoherenceConfig().fence


@pytest.mark.parametrize(
    ("options", "names"),
    [({"metric": "x"}, "call"), ({"metric": "x", "call": print}, "above"), ({"metric": "", "call": print, "above": 1}, "metric"),
     ({"metric": "x", "call": 3, "above": 1}, "call"), ({"metric": "x", "call": print, "above": 1, "below": 1}, "above")],
)  # fmt: skip
def test_a_bad_alert_is_refused(options: dict[str, object], names: str) -> None:
    """A threshold needs a figure, one bound and someone to call."""
    with pytest.raises((ConfigError, TypeError), match=names):
        Alert(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="alerts"):
        MonitoringConfig(alerts=[options])  # type: ignore[list-item]


def test_a_port_is_a_port() -> None:
    """70000 is a number and no port."""
    with pytest.raises(ConfigError, match="export_port"):
        MonitoringConfig(export_port=70_000)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"local": {"ttl": 5}}, "local"),
        ({"local": None}, "local"),
        ({"local": LocalCacheConfig(type="file"), "disk": LocalCacheConfig(type="file")}, "disk"),
        ({"disk": LocalCacheConfig()}, "disk.type"),
        ({"coherence": CoherenceConfig(bus="redis")}, "coherence.bus"),
        ({"coherence": CoherenceConfig(bus="disk")}, "coherence.bus"),
        ({"invalidation": ["x"]}, "invalidation.0"),
        ({"invalidation": None}, "invalidation"),
        ({"regions": [1]}, "regions"),
        ({"regions": {"a": 60}}, "regions.a"),
        ({"regions": {"": {}}}, "regions"),
        ({"regions": {3: {}}}, "regions"),
        ({"soft_timeout": 3, "hard_timeout": 2}, "soft_timeout"),
        ({"retry_backoff": (5, 1)}, "retry_backoff"),
        ({"retry_backoff": 5}, "retry_backoff"),
        ({"ttl": 60 * 86_400}, "ttl"),
        ({"version": True}, "version"),
    ],
)
def test_a_bad_configuration_is_refused(options: dict[str, object], names: str) -> None:
    """Each mistake is named."""
    with pytest.raises(ConfigError, match=rf"CacheConfig\.{names}"):
        CacheConfig(**options)  # type: ignore[arg-type]


def test_equal_configurations_are_equal_and_pickle() -> None:
    """get_instance compares them; multiprocessing's spawn pickles them."""
    scopes = ScopeConfig([ScopeLevel("user", "user_id")])
    config = CacheConfig(ttl=60, scopes=scopes, regions={"a": {"ttl": 5}}, retry_backoff=(timedelta(seconds=1), 2))
    again = pickle.loads(pickle.dumps(config))
    assert config == again
    assert config != attrs.evolve(config, ttl=61)
    assert config.region("a") == again.region("a")
    assert "user:%2A" == again.scopes.resolve("user", {"user_id": "*"})
    assert (1.0, 2.0) == config.retry_backoff
    assert DEFAULT is pickle.loads(pickle.dumps(DEFAULT))


@pytest.mark.parametrize(
    ("name", "expected"), [("ttl_seconds", "ttl"), ("maxsize", "max_size"), ("TTL", "ttl"), ("zzz", None), ("", None)]
)
def test_the_nearest_name(name: str, expected: str | None) -> None:
    """Misspelling, case and a shared word are recognised; what is far from everything is not."""
    assert expected == nearest(name, ["ttl", "max_size", "scope"])
