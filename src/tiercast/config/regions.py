"""Regions: what one may set, what it inherits, and the settings that come out. Pure, but for looking at directories."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from ..keys import encode_part
from . import checks
from .checks import FieldError, option_names, optional_seconds, refuse_unknown, seconds, shown, suggestion
from .defaults import DAY, DEFAULT, DEFAULT_REGION, MEBIBYTE, REGIONS, TTL, Default
from .settings import DistributedCacheConfig, LocalCacheConfig
from .strategies import TimeRule

if TYPE_CHECKING:
    from .cache import CacheConfig

S = TypeVar("S", LocalCacheConfig, DistributedCacheConfig)


def _backoff(value: tuple[float | timedelta, float | timedelta]) -> tuple[float, float]:
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return seconds(value[0]), seconds(value[1])
    return value  # refused by _check_backoff


def _check_backoff(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, tuple):
        raise FieldError((attribute.name,), f"must be a pair (first, longest) of seconds, not {shown(value)}")
    for part in value:
        checks.positive(_, attribute, part)
    if value[0] > value[1]:
        raise FieldError((attribute.name,), f"must begin with the shorter pause, not {shown(value)}")


def _version(value: str | int) -> str:
    return value if isinstance(value, (str, bool)) or not isinstance(value, int) else str(value)  # type: ignore[return-value]


@attrs.frozen(kw_only=True)
class RegionDefaults:
    """What a configuration sets for all its regions, and each region may set for itself.

    Attributes:
        grace: seconds that an entry may still be served after its deadline, while loading is slow or fails.
        soft_timeout: seconds after which a reader is served the stale value and the load goes on; 0: at once
            (stale-while-revalidate); None: never.
        hard_timeout: seconds after which a load raises LoadTimeout; None: never.
        early_refresh: XFetch's beta: how eagerly entries are refreshed before their deadline; 1.0 is the paper's
            optimum, 0 is off.
        none_ttl: seconds that a loaded None lives; None: as long as any other value.
        max_lifetime: seconds; the longest that any entry lives, counted from the beginning of its load.
        max_concurrent_loads: loads of the region that reach the origin at one time from one process; None: any number.
        lock_ttl: seconds after which a process that loads loses its lease to another.
        retry_backoff: (first, longest) pause in seconds between tries of a loader that fails.
        strict_values: a memory-only region refuses values that the tiers of production would refuse.
        max_value_bytes: larger encoded values are refused; None: what the remote tier says, 64 MiB without one.
        version: separates the entries of releases whose values differ.
    """

    grace: float = attrs.field(default=0.0, converter=seconds, validator=checks.not_negative)
    soft_timeout: float | None = attrs.field(
        default=None, converter=optional_seconds, validator=checks.optional(checks.not_negative)
    )
    hard_timeout: float | None = attrs.field(
        default=None, converter=optional_seconds, validator=checks.optional(checks.positive)
    )
    early_refresh: float = attrs.field(default=0.0, validator=checks.not_negative)
    none_ttl: float | None = attrs.field(
        default=None, converter=optional_seconds, validator=checks.optional(checks.positive)
    )
    max_lifetime: float = attrs.field(default=30 * DAY, converter=seconds, validator=checks.positive)
    max_concurrent_loads: int | None = attrs.field(default=64, validator=checks.optional(checks.count()))
    lock_ttl: float = attrs.field(default=60.0, converter=seconds, validator=checks.positive)
    retry_backoff: tuple[float, float] = attrs.field(default=(1.0, 30.0), converter=_backoff, validator=_check_backoff)
    strict_values: bool = attrs.field(default=False, validator=checks.flag)
    max_value_bytes: int | None = attrs.field(default=None, validator=checks.optional(checks.count()))
    version: str = attrs.field(default="", converter=_version, validator=checks.instance_of(str))

    def __attrs_post_init__(self) -> None:
        if self.soft_timeout is not None and self.hard_timeout is not None and self.soft_timeout > self.hard_timeout:
            raise FieldError(("soft_timeout",), f"must not exceed hard_timeout ({self.hard_timeout:g} s)")


@refuse_unknown
@attrs.frozen(kw_only=True)
class RegionConfig(RegionDefaults):
    """A region's settings as `CacheConfig.region` resolves them: nothing is inherited any more.

    Attributes:
        name: the region's name.
        local: the memory tier (L1), or None.
        disk: the disk tier (L2), its directory known, or None.
        distributed: the remote tier (L3), switched on, or None.
        ttl: seconds that an entry lives; None: until invalidated.
        ttl_jitter: the part of the TTL by which it varies, either way.
        sliding: whether a read renews the TTL.
    """

    name: str = attrs.field(default=DEFAULT_REGION, validator=checks.text)
    local: LocalCacheConfig | None = None
    disk: LocalCacheConfig | None = None
    distributed: DistributedCacheConfig | None = None
    ttl: float | None = attrs.field(default=TTL, converter=optional_seconds, validator=checks.optional(checks.positive))
    ttl_jitter: float = attrs.field(default=0.0, validator=checks.jitter)
    sliding: bool = attrs.field(default=False, validator=checks.flag)

    def __attrs_post_init__(self) -> None:
        RegionDefaults.__attrs_post_init__(self)
        if self.ttl is not None and self.ttl > self.max_lifetime:
            raise FieldError(("ttl",), f"must not exceed max_lifetime ({self.max_lifetime:g} s), not {self.ttl:g} s")
        if self.local is None and self.disk is None and self.distributed is None:
            raise FieldError(("local",), "or another tier is needed: none is configured")

    @property
    def value_limit(self) -> int:
        """The most bytes that an encoded value may have."""
        if self.max_value_bytes is not None:
            return self.max_value_bytes
        return self.distributed.max_value_bytes if self.distributed else 64 * MEBIBYTE


TIERS = ("local", "disk", "distributed")
REGION_OPTIONS = tuple(name for name in option_names(RegionConfig) if name != "name")
"""What a region's mapping may hold."""


def resolve_region(config: CacheConfig, name: str) -> RegionConfig:
    """Work out the settings of one region.

    Raises:
        FieldError: what the region says cannot be.
    """
    options = {field.name: getattr(config, field.name) for field in attrs.fields(RegionDefaults)}
    options |= {tier: getattr(config, tier) for tier in TIERS}
    options |= _time_options(config)
    for layer in dict.fromkeys((DEFAULT_REGION, name)):
        overrides = config.regions.get(layer, REGIONS.get(layer))
        if overrides is not None:
            options = _overridden(options, overrides, ("regions", layer))
    where = ("regions", name) if name in config.regions else ()
    try:
        options |= _placed(options, config)
        if options["ttl"] is DEFAULT:
            options["ttl"] = max((tier.ttl for tier in _on(options) if tier.ttl), default=TTL)
        return RegionConfig(name=name, **options)
    except FieldError as exc:
        raise exc.at(*where) from None


def _time_options(config: CacheConfig) -> dict[str, Any]:
    """Return TTL, jitter and sliding: what the configuration says itself goes before what its strategies say."""
    rule = next((strategy for strategy in config.invalidation if isinstance(strategy, TimeRule)), None)
    ttl: float | Default | None = config.ttl
    if ttl is DEFAULT and rule is not None:
        ttl = rule.default_ttl
    jitter = config.ttl_jitter if config.ttl_jitter is not None else rule.ttl_jitter if rule else 0.0
    sliding = config.sliding if config.sliding is not None else rule.sliding if rule else False
    return {"ttl": ttl, "ttl_jitter": jitter, "sliding": sliding}


def _overridden(options: dict[str, Any], overrides: Mapping[str, Any], where: tuple[str, ...]) -> dict[str, Any]:
    """Lay a region's own settings over those it inherits."""
    merged = dict(options)
    for name, value in overrides.items():
        if name not in REGION_OPTIONS:
            hint = suggestion(name, REGION_OPTIONS) if isinstance(name, str) else ""
            raise FieldError((*where, str(name)), f"unknown option{hint}")
        merged[name] = tier_settings(name, value, options[name], (*where, name)) if name in TIERS else value
    local, disk = merged["local"], merged["disk"]
    if "local" in overrides and local is not None and not local.is_memory and "disk" not in overrides:
        merged["disk"] = None  # the region's own disk tier takes the place of the inherited one
    elif "disk" in overrides and disk is not None and "local" not in overrides and local and not local.is_memory:
        merged["local"] = None
    if "ttl" not in overrides:
        named = list(_named_ttls(overrides, merged))
        if named:
            merged["ttl"] = max(named)
    return merged


def _named_ttls(overrides: Mapping[str, Any], merged: dict[str, Any]) -> Iterable[float]:
    """Return the TTLs that a region gives its tiers: naming only those, it means its entries'."""
    remote_default = attrs.fields(DistributedCacheConfig).ttl.default
    for tier in TIERS:
        value, settings = overrides.get(tier), merged[tier]
        if settings is None or settings.ttl is None:
            continue
        if "ttl" in value if isinstance(value, Mapping) else isinstance(value, type(settings)):
            if isinstance(value, DistributedCacheConfig) and value.ttl == remote_default:
                continue  # nobody said it
            yield settings.ttl


def tier_settings(tier: str, value: Any, base: Any, where: tuple[str, ...]) -> Any:
    """Return a tier's settings from what a mapping says of it.

    Args:
        tier: "local", "disk" or "distributed".
        value: None (off), settings (taken whole), a mapping (over `base`), or text: a type for "local", a
            directory for "disk", a connection string for "distributed".
        base: the settings that are inherited, or None.
        where: the path to name in an error.
    """
    cls: type[Any] = DistributedCacheConfig if tier == "distributed" else LocalCacheConfig
    if value is None or isinstance(value, cls):
        return value
    value = tier_mapping(tier, value)
    if not isinstance(value, Mapping):
        raise FieldError(where, f"must be {cls.__name__}, a mapping, text or None, not {shown(value)}")
    if not all(isinstance(name, str) for name in value):
        raise FieldError(where, "has an option whose name is not text")
    options = {"type": "file"} if tier == "disk" else {}
    if base is not None and value.get("type", base.type) == base.type:
        options = {name: getattr(base, name) for name in option_names(cls)}
        for group in _alternatives(cls, base):
            if group & set(value):
                options = {name: kept for name, kept in options.items() if name not in group}
    try:
        return cls(**{**options, **value})
    except FieldError as exc:
        raise exc.at(*where) from None


def tier_mapping(tier: str, value: Any) -> Any:
    """Write out the text that may stand for a tier's mapping; anything else is returned as it is."""
    if isinstance(value, (str, os.PathLike)):
        return {{"local": "type", "disk": "directory", "distributed": "connection_string"}[tier]: value}
    return value


def _alternatives(cls: type[Any], base: Any) -> Iterable[frozenset[str]]:
    """Return the options of which only one may be given: naming one lets the inherited other go."""
    if cls is DistributedCacheConfig:
        yield frozenset({"connection_string", "client"})
    else:
        bounds = {"max_bytes", "max_size_mb"}
        yield frozenset(bounds if base.is_memory else bounds | {"max_size"})


def _on(tiers: Mapping[str, Any]) -> list[Any]:
    return [tiers[name] for name in TIERS if tiers[name] is not None]


def _placed(options: Mapping[str, Any], config: CacheConfig) -> dict[str, Any]:
    """Put each tier where it belongs: a disk tier named `local` below memory, what is switched off nowhere."""
    local, disk, remote = (options[tier] for tier in TIERS)
    if remote is not None and not remote.is_on:
        remote = None
    if disk is not None and disk.is_memory:
        raise FieldError(("", "disk", "type"), 'must be "file", or a tier of your own, not "memory"')
    if local is not None and not local.is_memory:
        if disk is not None:
            raise FieldError(("", "disk"), "is given, and local is a disk tier too: give one of them")
        local, disk = None, local
    if not config.use_multi_level:
        if local is not None:
            disk = remote = None
        elif disk is not None:
            remote = None
    if disk is not None and disk.directory is None:
        disk = attrs.evolve(disk, directory=default_directory(config.name))
    return {"local": local, "disk": disk, "distributed": remote}


def default_directory(name: str) -> str:
    """Return the directory of a disk tier for which none is given: the user's cache directory / tiercast / name."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    if not os.path.isabs(root):  # noqa: PTH117
        raise FieldError(("", "disk", "directory"), "must be given: this user has no home directory")
    return os.path.join(root, "tiercast", encode_part(name).replace(".", "%2E"))  # noqa: PTH118
