"""CacheConfig: everything a cache is told."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import attrs

from ..errors import ScopeError
from ..keys import encode_part, validate_region
from . import checks
from .checks import FieldError, optional_seconds, refuse_unknown, shown
from .defaults import DEFAULT, DEFAULT_REGION, PRESETS, Default
from .regions import RegionConfig, RegionDefaults, resolve_region
from .scopes import ScopeConfig
from .settings import CoherenceConfig, DistributedCacheConfig, LocalCacheConfig, MonitoringConfig
from .strategies import EntityRule, EventRule, Strategy, TimeRule


def _ttl(value: float | timedelta | Default | None) -> float | Default | None:
    return value if isinstance(value, Default) else optional_seconds(value)


def _check_ttl(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and value is not DEFAULT:
        checks.positive(_, attribute, value)


def _check_name(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    checks.text(_, attribute, value)
    if len(encode_part(str(value)).encode()) > 100:
        raise FieldError((attribute.name,), f"must not have more than 100 bytes (percent-encoded), not {shown(value)}")


def _regions(value: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Copy the mappings, so that changing them later changes nothing here."""
    if not isinstance(value, Mapping):
        return value  # refused below
    return {name: dict(region) if isinstance(region, Mapping) else region for name, region in value.items()}


def _check_regions(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, dict):
        raise FieldError((attribute.name,), f"must map names to mappings, not {shown(value)}")
    for name, region in value.items():
        try:
            validate_region(name)
        except (TypeError, ValueError) as exc:
            raise FieldError((attribute.name,), str(exc)) from None
        if not isinstance(region, dict):
            raise FieldError((attribute.name, name), f'must be a mapping such as {{"ttl": 60}}, not {shown(region)}')


def _strategies(value: Sequence[Strategy]) -> tuple[Strategy, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else value  # type: ignore[return-value]


def _check_strategies(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, tuple):
        raise FieldError((attribute.name,), f"must be a list of strategies, not {shown(value)}")
    for at, strategy in enumerate(value):
        if isinstance(strategy, type) or not isinstance(strategy, (TimeRule, EventRule, EntityRule)):
            problem = "must be a strategy (with default_ttl, handle_event or invalidate_entity)"
            raise FieldError((attribute.name, str(at)), f"{problem}, not {shown(strategy)}")
    if sum(isinstance(strategy, TimeRule) for strategy in value) > 1:
        raise FieldError((attribute.name,), "must not hold two strategies that say how long entries live")


@refuse_unknown
@attrs.frozen(kw_only=True)
class CacheConfig(RegionDefaults):
    """Everything a cache is told: frozen, and checked when it is made. Thread-safe.

    The options of `RegionDefaults` hold for every region that does not say otherwise.

    Attributes:
        name: the fleet's name; processes of one name on one Redis (or disk) share entries and invalidations.
        use_multi_level: False keeps only the first tier that is configured.
        local: the memory tier (L1); of type "file" it is a disk tier without memory. None: none.
        disk: the disk tier (L2), a LocalCacheConfig of type "file". None: none.
        distributed: the remote tier (L3), on where it is given a connection. None: none.
        coherence: how invalidations travel.
        scopes: the trees of tenants.
        regions: by name, a mapping of what the region sets itself (see `regions.RegionConfig`); in it a tier is a
            mapping that overrides fields, or settings that replace the tier's whole, or None. What "default" sets
            holds for all. Regions that are not named here inherit everything.
        invalidation: strategies.
        monitoring: what is measured.
        ttl: seconds that an entry lives; None: until invalidated. DEFAULT: what a TimeBasedInvalidation says, else the
            longest `ttl` of the tiers, else 300.
        ttl_jitter, sliding: None: what a TimeBasedInvalidation says, else 0 and False.
        background_workers: threads of one process in which sync callers have values refreshed that nobody waits for.
    """

    name: str = attrs.field(default="tiercast", validator=_check_name)
    use_multi_level: bool = attrs.field(default=True, validator=checks.flag)
    local: LocalCacheConfig | None = attrs.field(
        factory=LocalCacheConfig, validator=checks.optional(checks.instance_of(LocalCacheConfig))
    )
    disk: LocalCacheConfig | None = attrs.field(
        default=None, validator=checks.optional(checks.instance_of(LocalCacheConfig))
    )
    distributed: DistributedCacheConfig | None = attrs.field(
        factory=DistributedCacheConfig, validator=checks.optional(checks.instance_of(DistributedCacheConfig))
    )
    coherence: CoherenceConfig = attrs.field(factory=CoherenceConfig, validator=checks.instance_of(CoherenceConfig))
    scopes: ScopeConfig = attrs.field(factory=ScopeConfig, validator=checks.instance_of(ScopeConfig))
    regions: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, converter=_regions, validator=_check_regions)
    invalidation: tuple[Strategy, ...] = attrs.field(default=(), converter=_strategies, validator=_check_strategies)
    monitoring: MonitoringConfig = attrs.field(factory=MonitoringConfig, validator=checks.instance_of(MonitoringConfig))
    ttl: float | Default | None = attrs.field(default=DEFAULT, converter=_ttl, validator=_check_ttl)
    ttl_jitter: float | None = attrs.field(default=None, validator=checks.optional(checks.jitter))
    sliding: bool | None = attrs.field(default=None, validator=checks.optional(checks.flag))
    background_workers: int = attrs.field(default=8, validator=checks.count())
    _resolved: dict[str, RegionConfig] = attrs.field(init=False, factory=dict, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        RegionDefaults.__attrs_post_init__(self)
        regions = [self.region(name) for name in (DEFAULT_REGION, *self.regions)]
        if self.coherence.bus == "redis" and self.remote is None:
            raise FieldError(("coherence", "bus"), '"redis" needs the tier `distributed` with a connection')
        if self.coherence.bus == "disk" and all(region.disk is None for region in regions):
            raise FieldError(("coherence", "bus"), '"disk" needs the tier `disk`')
        self._check_one_server(regions)
        self._check_scopes_of_strategies()

    def _check_one_server(self, regions: Sequence[RegionConfig]) -> None:
        """Refuse regions on different servers: one log orders their invalidations together with their values."""
        first = self.remote
        for region in regions:
            remote = region.distributed
            if remote is None or first is None:
                continue
            for field in ("type", "connection_string", "client", "prefix"):
                if getattr(remote, field) != getattr(first, field):
                    problem = (
                        "is another than the other regions have: one cache has one server; make another CacheManager"
                    )
                    raise FieldError(("regions", region.name, "distributed", field), problem)

    def _check_scopes_of_strategies(self) -> None:
        for at, strategy in enumerate(self.invalidation):
            for names in getattr(strategy, "scope_levels", ()):
                try:
                    self.scopes.check_ancestry(names)
                except ScopeError as exc:
                    raise FieldError(("invalidation", str(at)), str(exc)) from None

    def region(self, name: str | None = None) -> RegionConfig:
        """Return a region's settings, all inheritance resolved; the same object each time.

        Args:
            name: any region; None: the default one. Names that `regions` does not hold inherit everything.

        Raises:
            TypeError, ValueError: the name is no str, empty or too long.
            ConfigError: what the region says cannot be.
        """
        name = DEFAULT_REGION if name is None else name
        found = self._resolved.get(name)
        if found is None:
            # Two threads may both resolve it; both get the one that was first in.
            found = self._resolved.setdefault(name, resolve_region(self, validate_region(name)))
        return found

    @property
    def remote(self) -> DistributedCacheConfig | None:
        """The remote tier of the default region, or of the first one that has one: all are on its server."""
        found = (self.region(name).distributed for name in (DEFAULT_REGION, *self.regions))
        return next((remote for remote in found if remote is not None), None)

    @classmethod
    def development_defaults(cls) -> CacheConfig:
        """Return a configuration of memory alone."""
        return cls.from_dict(PRESETS["development"])

    @classmethod
    def production_defaults(
        cls, connection_string: str = "redis://localhost:6379/0", directory: str | os.PathLike[str] | None = None
    ) -> CacheConfig:
        """Return a configuration of memory, Redis and, where a directory is given, this host's disk.

        Raises:
            ConfigError: the connection string is malformed, or the directory cannot be written.
        """
        tiers = {"distributed": connection_string, "disk": directory}
        return cls.from_dict({**PRESETS["production"], **tiers})

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> CacheConfig:
        """Read a mapping, nested as the classes are; a tier may be text, as in `regions`.

        `scopes` is a list of {"name", "param", "children"}, `invalidation` a list of strategies or of mappings
        {"type": "time" | "event" | "pattern" | "package.module:Class", …their options}.

        Raises:
            ConfigError: naming the place, and the nearest name of what is unknown.
        """
        from .sources import read_mapping  # only where mappings are read

        return read_mapping(mapping)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> CacheConfig:
        """Read a .toml (whole, or its table [tiercast] or [tool.tiercast]) or .json file.

        Raises:
            ConfigError: the file cannot be read, or what it says cannot be.
        """
        from .sources import read_file

        return read_file(path)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> CacheConfig:
        """Read TIERCAST_* variables; without any, memory alone.

        Nested options are joined by two underscores: TIERCAST_COHERENCE__MAX_STALENESS=2,
        TIERCAST_REGIONS__SHORT_LIVED__TTL=60. TIERCAST_CONFIG names a file that the others are laid over.
        CACHE_BACKEND (redis or memory), REDIS_URL and CACHE_DEFAULT_TTL are read where no TIERCAST_ variable says
        the same. An empty variable counts as not set.

        Raises:
            ConfigError: naming the variable.
        """
        from .environment import read_environment

        return read_environment(os.environ if environ is None else environ)

    def to_dict(self) -> dict[str, Any]:
        """Return what differs from the defaults as a mapping that `from_dict` reads (secrets and passwords included)."""
        from .sources import write_mapping

        return write_mapping(self)
