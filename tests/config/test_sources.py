"""Where a configuration comes from: mappings, files, the environment, presets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiercast.config import CacheConfig, CoherenceConfig, LocalCacheConfig, ScopeConfig, ScopeLevel
from tiercast.config.settings import DistributedCacheConfig, MonitoringConfig
from tiercast.errors import ConfigError
from tiercast.invalidation import EventBasedInvalidation, PatternBasedInvalidation, TimeBasedInvalidation

EVERYTHING: dict[str, Any] = {
    "name": "shop",
    "ttl": 60,
    "local": {"max_size": 5, "policy": "s3fifo"},
    "distributed": {"connection_string": "redis://h:1/2", "read_timeout": 0.1},
    "coherence": {"max_staleness": 2, "heartbeat": 0.5},
    "monitoring": {
        "sample_rate": 0.5,
        "alerts": [{"metric": "hit_rate.overall", "below": 0.5, "call": "builtins:print"}],
    },
    "scopes": [{"name": "organization", "param": "org_id", "children": [{"name": "user", "param": "user_id"}]}],
    "regions": {"short": {"ttl": 5, "local": {"max_size": 3}}},
    "invalidation": [
        {"type": "time", "ttl_jitter": 0.2},
        {"type": "event", "targets": {"user.updated": ["user:{id}", "scope:organization:{org_id}"]}},
        {"type": "pattern", "patterns": {"user": "user:{id}"}},
    ],
}


def check_everything(config: CacheConfig) -> None:
    """All of EVERYTHING arrived."""
    assert ("shop", 60.0, 0.2) == (config.name, config.ttl, config.region().ttl_jitter)
    assert LocalCacheConfig(max_size=5, policy="s3fifo") == config.local
    assert DistributedCacheConfig(connection_string="redis://h:1/2", read_timeout=0.1) == config.distributed
    assert CoherenceConfig(max_staleness=2, heartbeat=0.5) == config.coherence
    assert print is config.monitoring.alerts[0].call
    assert ScopeConfig([ScopeLevel("organization", "org_id", [ScopeLevel("user", "user_id")])]) == config.scopes
    assert 5.0 == config.region("short").ttl
    assert LocalCacheConfig(max_size=3, policy="s3fifo") == config.region("short").local
    kinds = [TimeBasedInvalidation, EventBasedInvalidation, PatternBasedInvalidation]
    assert kinds == [type(strategy) for strategy in config.invalidation]


def test_a_mapping_says_everything() -> None:
    """Nested as the classes are; objects are taken as they are."""
    check_everything(CacheConfig.from_dict(EVERYTHING))
    rule = TimeBasedInvalidation(ttl_jitter=0.2)
    config = CacheConfig.from_dict(
        {"invalidation": [rule], "coherence": CoherenceConfig(), "local": None, "disk": "/tmp/x"}
    )
    assert (rule,) == config.invalidation
    assert config.region().local is None


def test_a_file_says_everything(tmp_path: Path) -> None:
    """JSON and TOML; TOML also in the table of a shared file."""
    (tmp_path / "c.json").write_text(json.dumps(EVERYTHING))
    check_everything(CacheConfig.from_file(tmp_path / "c.json"))
    toml = """
        [{0}]
        name = "shop"
        ttl = 60
        local = {{ max_size = 5, policy = "s3fifo" }}
        distributed = {{ connection_string = "redis://h:1/2", read_timeout = 0.1 }}
        coherence = {{ max_staleness = 2, heartbeat = 0.5 }}
        regions.short = {{ ttl = 5, local = {{ max_size = 3 }} }}
        scopes = [{{ name = "organization", param = "org_id", children = [{{ name = "user", param = "user_id" }}] }}]
        invalidation = [
            {{ type = "time", ttl_jitter = 0.2 }},
            {{ type = "event", targets = {{ "user.updated" = ["user:{{id}}", "scope:organization:{{org_id}}"] }} }},
            {{ type = "pattern", patterns = {{ user = "user:{{id}}" }} }},
        ]
        [{0}.monitoring]
        sample_rate = 0.5
        [[{0}.monitoring.alerts]]
        metric = "hit_rate.overall"
        below = 0.5
        call = "builtins:print"
    """
    for table in ("tiercast", "tool.tiercast"):
        (tmp_path / "c.toml").write_text(toml.format(table))
        check_everything(CacheConfig.from_file(str(tmp_path / "c.toml")))
    (tmp_path / "c.toml").write_text("ttl = 5")
    assert 5.0 == CacheConfig.from_file(tmp_path / "c.toml").ttl


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [("c.toml", "ttl = ", "c.toml"), ("c.toml", "tll = 5", "c.toml: tll: unknown option; did you mean 'ttl'"),
     ("c.json", "[]", "must hold a mapping"), ("c.json", "{", "c.json"), ("c.json", "[" * 100_000, "c.json"),
     ("c.yaml", "ttl: 5", r"\.toml or \.json"), ("c.toml", b"\xff", "c.toml"), ("c.toml", "tiercast = 3", "must be a mapping"),
     ("c.toml", None, "cannot be read")],
)  # fmt: skip
def test_a_bad_file_is_a_config_error(tmp_path: Path, name: str, content: str | bytes | None, says: str) -> None:
    """The file is named, whatever is wrong with it."""
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=says):
        CacheConfig.from_file(tmp_path / name)


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"coherance": {}}, "^coherance: unknown option; did you mean 'coherence'"),
        ({"coherence": {"max_stalenes": 1}}, r"^coherence\.max_stalenes: unknown option; did you mean 'max_staleness'"),
        ({"coherence": 5}, "^coherence: must be a mapping"),
        ({"local": {"max_size": "5"}}, r"^local\.max_size"),
        ({"disk": {"directory": 5}}, r"^disk\.directory"),
        ({"distributed": "localhost"}, r"^distributed\.connection_string"),
        ({"regions": {"a": {"ttl": 0}}}, r"^regions\.a\.ttl"),
        ({"scopes": {}}, "^scopes: must be a list"),
        ({"scopes": [{"name": "a"}]}, r"^scopes\.0: .*param"),
        (
            {"scopes": [{"name": "a", "param": "x", "children": [{"name": "b", "parm": "y"}]}]},
            r"^scopes\.0\.children\.0\.parm: .*'param'",
        ),
        ({"scopes": [{"name": "a", "param": "x"}, {"name": "a", "param": "y"}]}, "^scopes: two levels"),
        ({"invalidation": [{"type": "tme"}]}, r"^invalidation\.0\.type: .*did you mean 'time'"),
        ({"invalidation": [{}]}, r"^invalidation\.0\.type"),
        ({"invalidation": [{"type": "time", "jitter": 1}]}, r"^invalidation\.0\.jitter: .*'ttl_jitter'"),
        ({"invalidation": [{"type": "event", "targets": {"e": ["{id"]}}]}, r"^invalidation\.0: .*'e'"),
        ({"invalidation": [{"type": "event"}]}, r"^invalidation\.0: .*targets"),
        ({"invalidation": [{"type": "no.module_:X"}]}, r"^invalidation\.0\.type: .*cannot be imported"),
        ({"monitoring": {"alerts": [{"metric": "x"}]}}, r"^monitoring\.alerts\.0: .*call"),
        (
            {"monitoring": {"alerts": [{"metric": "x", "above": 1, "call": "os:nothing"}]}},
            r"^monitoring\.alerts\.0\.call",
        ),
        ({"soft_timeout": 2, "hard_timeout": 1}, "^soft_timeout"),
        ({3: 4}, "not text"),
        ([], "must be a mapping"),
        (None, "must be a mapping"),
    ],
)
def test_a_bad_mapping_says_where(mapping: Any, says: str) -> None:
    """The whole way to the mistake, without the name of any class."""
    with pytest.raises(ConfigError, match=says):
        CacheConfig.from_dict(mapping)


names = st.sampled_from(
    ["name", "ttl", "local", "disk", "distributed", "coherence", "scopes", "regions", "invalidation", "monitoring", "grace",
     "type", "max_size", "directory", "connection_string", "client", "bus", "alerts", "param", "children", "targets", "default",
     "use_multi_level", "retry_backoff", "version", "self"]
)  # fmt: skip
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["time", "event", "file"])
)
garbage = st.recursive(
    scalars | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(names | st.text(max_size=3) | st.integers(), inner, max_size=4)
    ),
    max_leaves=15,
)


@given(st.dictionaries(names | st.text(max_size=3), garbage, max_size=5))
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_garbage_raises_nothing_but_config_errors(mapping: dict[Any, Any]) -> None:
    """Any mapping is either a configuration or a ConfigError."""
    try:
        assert isinstance(CacheConfig.from_dict(mapping), CacheConfig)
    except ConfigError:
        pass


def test_a_mapping_that_nests_without_end_is_refused() -> None:
    """Not a RecursionError."""
    scopes: list[Any] = []
    scopes.append({"name": "a", "param": "b", "children": scopes})
    with pytest.raises(ConfigError, match="nests too deeply"):
        CacheConfig.from_dict({"scopes": scopes})


durations = st.floats(min_value=0.01, max_value=1e5)
memory = st.builds(
    LocalCacheConfig,
    max_size=st.none() | st.integers(1, 10**6),
    max_bytes=st.none() | st.integers(1, 10**9),
    ttl=st.none() | durations,
    policy=st.sampled_from(["lru", "sieve"]),
    freeze=st.booleans(),
)
remote = st.builds(
    DistributedCacheConfig, connection_string=st.none() | st.just("redis://h"), ttl=st.none() | durations
)
regions = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=5),
    st.fixed_dictionaries({}, optional={"ttl": st.none() | durations, "local": memory | st.none(), "grace": durations}),
    max_size=2,
)
configurations = st.builds(
    CacheConfig,
    ttl=st.none() | durations,
    grace=durations,
    local=memory,
    disk=st.none() | st.just(LocalCacheConfig(type="file", directory="/tmp/d")),
    distributed=st.none() | remote,
    coherence=st.builds(CoherenceConfig, origin_lag=durations, bus=st.sampled_from(["auto", "memory"])),
    monitoring=st.builds(MonitoringConfig, sample_rate=st.floats(0, 1)),
    scopes=st.just(ScopeConfig([ScopeLevel("a", "x", [ScopeLevel("b", "y")])])) | st.just(ScopeConfig()),
    invalidation=st.lists(st.builds(TimeBasedInvalidation, default_ttl=durations), max_size=1),
    version=st.text(max_size=3),
)


@given(configurations, regions)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_configuration_can_be_written_and_read(config: CacheConfig, named: dict[str, Any]) -> None:
    """from_dict(to_dict()) is the identity."""
    assert config == CacheConfig.from_dict(config.to_dict())
    try:
        config = CacheConfig.from_dict({**config.to_dict(), "regions": named})
    except ConfigError:
        return  # a region without any tier
    assert config == CacheConfig.from_dict(config.to_dict())


def test_the_defaults_are_written_as_nothing() -> None:
    """to_dict() holds what differs from the defaults."""
    assert {} == CacheConfig().to_dict()
    assert {"disk": {"type": "file"}} == CacheConfig(disk=LocalCacheConfig(type="file")).to_dict()


# Presets


def test_development_is_memory_alone() -> None:
    """No server, no disk."""
    region = CacheConfig.development_defaults().region()
    assert (True, None, None) == (region.local is not None, region.disk, region.distributed)


def test_production_has_all_tiers(tmp_path: Path) -> None:
    """The disk where a directory is given."""
    region = CacheConfig.production_defaults().region()
    assert region.distributed is not None
    assert ("redis://localhost:6379/0", None) == (region.distributed.connection_string, region.disk)
    region = CacheConfig.production_defaults("rediss://h", directory=tmp_path).region()
    assert region.disk is not None
    assert (str(tmp_path), 3600.0) == (region.disk.directory, region.ttl)
    with pytest.raises(ConfigError, match=r"distributed\.connection_string"):
        CacheConfig.production_defaults("nowhere")


# The environment


def test_nothing_set_is_memory_alone() -> None:
    """An empty environment is the plain configuration; an empty variable counts as not set."""
    assert CacheConfig() == CacheConfig.from_env({})
    assert CacheConfig() == CacheConfig.from_env({"TIERCAST_TTL": "", "REDIS_URL": "", "PATH": "/bin"})


def test_variables_say_everything(tmp_path: Path) -> None:
    """Nested options by two underscores; lists and mappings as JSON; text stays text."""
    config = CacheConfig.from_env(
        {
            "TIERCAST_NAME": "123",
            "TIERCAST_TTL": "60",
            "TIERCAST_SLIDING": "yes",
            "TIERCAST_USE_MULTI_LEVEL": "true",
            "TIERCAST_LOCAL__MAX_SIZE": "5",
            "TIERCAST_LOCAL__TTL": "none",
            "TIERCAST_DISK": str(tmp_path),
            "TIERCAST_DISK__MAX_SIZE": "7",
            "TIERCAST_DISTRIBUTED__CONNECTION_STRING": "redis://h",
            "TIERCAST_DISTRIBUTED__SECRET": "hush",
            "TIERCAST_COHERENCE__MAX_STALENESS": "2.5",
            "TIERCAST_REGIONS__SHORT_LIVED__TTL": "9",
            "TIERCAST_REGIONS__SHORT_LIVED__LOCAL__MAX_SIZE": "3",
            "TIERCAST_RETRY_BACKOFF": "[2, 3]",
            "TIERCAST_SCOPES": '[{"name": "tenant", "param": "tenant_id"}]',
        }
    )
    assert ("123", 60.0, True, (2.0, 3.0)) == (config.name, config.ttl, config.sliding, config.retry_backoff)
    assert LocalCacheConfig(max_size=5) == config.local
    assert LocalCacheConfig(type="file", directory=tmp_path, max_size=7) == config.disk
    assert DistributedCacheConfig(connection_string="redis://h", secret=b"hush") == config.distributed
    assert 2.5 == config.coherence.max_staleness
    short = config.region("short_lived")
    assert (9.0, LocalCacheConfig(max_size=3)) == (short.ttl, short.local)
    assert ("tenant",) == config.scopes.names


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"REDIS_URL": "redis://a"}, "redis://a"),
        ({"CACHE_BACKEND": "redis"}, "redis://localhost:6379/0"),
        ({"CACHE_BACKEND": "Redis", "REDIS_URL": "redis://a"}, "redis://a"),
        ({"CACHE_BACKEND": "memory", "REDIS_URL": "redis://a"}, None),
        ({"TIERCAST_DISTRIBUTED": "redis://b", "CACHE_BACKEND": "memory", "REDIS_URL": "redis://a"}, "redis://b"),
        ({"TIERCAST_DISTRIBUTED": "none", "REDIS_URL": "redis://a"}, None),
        ({"TIERCAST_DISTRIBUTED__ENABLED": "false", "REDIS_URL": "redis://a"}, None),
        ({"TIERCAST_DISTRIBUTED__READ_TIMEOUT": "1", "REDIS_URL": "redis://a"}, "redis://a"),
    ],
)
def test_the_variables_that_services_have_anyway(environ: dict[str, str], url: str | None) -> None:
    """CACHE_BACKEND and REDIS_URL count where no TIERCAST_ variable says the same."""
    remote = CacheConfig.from_env(environ).region().distributed
    assert url == (remote and remote.connection_string)


def test_the_default_ttl_of_the_environment() -> None:
    """CACHE_DEFAULT_TTL, unless TIERCAST_TTL is set."""
    assert 5.0 == CacheConfig.from_env({"CACHE_DEFAULT_TTL": "5"}).region().ttl
    assert 6.0 == CacheConfig.from_env({"CACHE_DEFAULT_TTL": "5", "TIERCAST_TTL": "6"}).region().ttl


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"TIERCAST_TLL": "5"}, "^TIERCAST_TLL: unknown variable; did you mean 'TIERCAST_TTL'"),
        ({"TIERCAST_COHERENCE__MAX_STALENES": "5"}, "did you mean 'TIERCAST_COHERENCE__MAX_STALENESS'"),
        ({"TIERCAST_REGIONS__A__TLL": "5"}, "did you mean 'TIERCAST_REGIONS__A__TTL'"),
        ({"TIERCAST_FOO": "5"}, "^TIERCAST_FOO: unknown variable$"),
        ({"TIERCAST_COHERENCE__MAX_STALENESS": "soon"}, "^TIERCAST_COHERENCE__MAX_STALENESS: must be"),
        ({"TIERCAST_TTL": "nan"}, "^TIERCAST_TTL: must be"),
        ({"TIERCAST_SLIDING": "perhaps"}, "^TIERCAST_SLIDING: must be True or False"),
        ({"TIERCAST_SCOPES": "tenant"}, "^TIERCAST_SCOPES: must be JSON"),
        ({"TIERCAST_REGIONS__A__LOCAL__MAX_SIZE": "-5"}, "^TIERCAST_REGIONS__A__LOCAL__MAX_SIZE: must be"),
        ({"REDIS_URL": "localhost"}, "^REDIS_URL: must begin"),
        ({"CACHE_BACKEND": "memcached"}, "^CACHE_BACKEND: must be redis or memory"),
        ({"CACHE_DEFAULT_TTL": "-1"}, "^CACHE_DEFAULT_TTL: must be"),
        ({"TIERCAST_": "5"}, "^TIERCAST_: unknown"),
        ({"TIERCAST_TTL__X": "5"}, "^TIERCAST_TTL__X: unknown"),
        ({"TIERCAST_REGIONS__A": "5"}, "^TIERCAST_REGIONS__A: unknown"),
        ({"TIERCAST_REGIONS": '{"a": 5}'}, "^TIERCAST_REGIONS: must be a mapping"),
        ({"TIERCAST_CONFIG": "/nowhere.toml"}, "nowhere.toml: cannot be read"),
    ],
)
def test_a_bad_variable_is_named(environ: dict[str, str], says: str) -> None:
    """The error begins with the variable, as whoever set it knows it."""
    with pytest.raises(ConfigError, match=says):
        CacheConfig.from_env(environ)


def test_variables_are_laid_over_a_file(tmp_path: Path) -> None:
    """TIERCAST_CONFIG names the file; text for a tier in it is unfolded where a variable sets more."""
    file = tmp_path / "c.toml"
    file.write_text('ttl = 5\ngrace = 6\ndistributed = "redis://a"\n')
    environ = {
        "TIERCAST_CONFIG": str(file),
        "TIERCAST_TTL": "7",
        "TIERCAST_DISTRIBUTED__TTL": "8",
        "REDIS_URL": "redis://b",
    }
    config = CacheConfig.from_env(environ)
    assert (7.0, 6.0) == (config.ttl, config.grace)
    assert DistributedCacheConfig(connection_string="redis://a", ttl=8) == config.distributed
    file.write_text("gracee = 6")
    with pytest.raises(ConfigError, match=r"c\.toml: gracee: unknown option; did you mean 'grace'"):
        CacheConfig.from_env(environ)


def test_an_own_process_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument, os.environ."""
    monkeypatch.setenv("TIERCAST_TTL", "11")
    assert 11.0 == CacheConfig.from_env().ttl


@given(st.dictionaries(st.text("ABCDEGILNORSTU_", max_size=12).map("TIERCAST_".__add__) | st.sampled_from(
    ["TIERCAST_REGIONS__A__TTL", "TIERCAST_REGIONS", "TIERCAST_LOCAL", "TIERCAST_LOCAL__TYPE", "TIERCAST_ALERTS",
     "TIERCAST_INVALIDATION", "TIERCAST_DISTRIBUTED", "TIERCAST_REGIONS____TTL", "CACHE_BACKEND", "REDIS_URL"]
), st.text(max_size=5) | st.sampled_from(["{}", "[]", "5", "none", "[{}]", '{"a": {}}']), max_size=4))  # fmt: skip
def test_no_environment_raises_anything_else(environ: dict[str, str]) -> None:
    """Any environment is a configuration or a ConfigError."""
    try:
        CacheConfig.from_env(environ)
    except ConfigError:
        pass
