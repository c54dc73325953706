"""Where a configuration comes from: a mapping or a file; and back into a mapping. (`environment`: variables.)

Settings classes are built by hand rather than by a converter library: a mapping's
errors name their place and the nearest name, and a region's mapping is laid over
what it inherits, so little would be left for one to do.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ..errors import ConfigError, TiercastError
from .cache import CacheConfig
from .checks import FieldError, option_names, shown, suggestion
from .defaults import STRATEGIES
from .plugins import load_object
from .regions import TIERS, tier_settings
from .scopes import ScopeConfig, ScopeLevel
from .settings import Alert, CoherenceConfig, DistributedCacheConfig, LocalCacheConfig, MonitoringConfig

Place = tuple[str, ...]


def read_mapping(mapping: Mapping[str, Any]) -> CacheConfig:
    """Read a configuration from a mapping. Raises: ConfigError."""
    _check_mapping(mapping, ())
    options: dict[str, Any] = {}
    known = option_names(CacheConfig)
    try:
        for name, value in mapping.items():
            if name not in known:
                raise FieldError((name,), f"unknown option{suggestion(name, known)}")
            options[name] = _option(name, value)
        return CacheConfig(**options)
    except RecursionError:
        raise ConfigError("the configuration nests too deeply") from None
    except FieldError as exc:
        raise (exc.at() if exc.path[:1] == ("CacheConfig",) else exc) from None


def _option(name: str, value: Any) -> Any:
    if name in TIERS:
        base = {"local": LocalCacheConfig(), "disk": None, "distributed": DistributedCacheConfig()}[name]
        return tier_settings(name, value, base, (name,))
    if name == "coherence":
        return _settings(CoherenceConfig, value, (name,))
    if name == "monitoring":
        return _monitoring(value)
    if name == "scopes":
        return _scopes(value)
    if name == "invalidation" and isinstance(value, (list, tuple)):
        return [_strategy(item, (name, str(at))) for at, item in enumerate(value)]
    return value


def _check_mapping(value: Any, where: Place) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise FieldError(where, f"must be a mapping, not {shown(value)}")
    for name in value:
        if not isinstance(name, str):
            raise FieldError(where, f"has an option whose name is not text: {shown(name)}")
    return value


def _settings(cls: type[Any], value: Any, where: Place) -> Any:
    """Build one settings class from a mapping; settings that are ready are taken as they are."""
    if isinstance(value, cls):
        return value
    options = _check_mapping(value, where)
    try:
        return cls(**options)
    except FieldError as exc:
        raise exc.at(*where) from None
    except TypeError as exc:  # an option that has no default is missing
        raise FieldError(where, str(exc)) from None


def _monitoring(value: Any) -> Any:
    if isinstance(value, Mapping) and isinstance(value.get("alerts"), (list, tuple)):
        alerts = [_alert(item, ("monitoring", "alerts", str(at))) for at, item in enumerate(value["alerts"])]
        value = {**value, "alerts": alerts}
    return _settings(MonitoringConfig, value, ("monitoring",))


def _alert(value: Any, where: Place) -> Any:
    if isinstance(value, Mapping) and isinstance(value.get("call"), str):
        value = {**value, "call": _loaded(value["call"], (*where, "call"))}
    return _settings(Alert, value, where)


def _loaded(spec: str, where: Place) -> Any:
    try:
        return load_object(spec)
    except ConfigError as exc:
        raise FieldError(where, str(exc)) from exc


def _scopes(value: Any) -> ScopeConfig:
    if isinstance(value, ScopeConfig):
        return value
    try:
        return ScopeConfig(_scope_levels(value, ("scopes",)))
    except FieldError as exc:
        raise (FieldError(("scopes",), exc.problem) if exc.path[:1] == ("ScopeConfig",) else exc) from None


def _scope_levels(value: Any, where: Place) -> list[ScopeLevel]:
    if not isinstance(value, (list, tuple)):
        raise FieldError(where, f'must be a list of {{"name", "param", "children"}}, not {shown(value)}')
    levels = []
    for at, item in enumerate(value):
        place = (*where, str(at))
        below = {}
        if isinstance(item, Mapping) and "children" in item:
            below = {"children": _scope_levels(item["children"], (*place, "children"))}
        levels.append(_settings(ScopeLevel, {**item, **below} if below else item, place))
    return levels


def _strategy(value: Any, where: Place) -> Any:
    if not isinstance(value, Mapping):
        return value
    options = dict(_check_mapping(value, where))
    kind = options.pop("type", None)
    if not isinstance(kind, str) or not (kind in STRATEGIES or ":" in kind):
        hint = suggestion(kind, STRATEGIES) if isinstance(kind, str) else ""
        known = f'must be one of {", ".join(STRATEGIES)} or "package.module:Class"'
        raise FieldError((*where, "type"), f"{known}, not {shown(kind)}{hint}")
    strategy = _loaded(STRATEGIES.get(kind, kind), (*where, "type"))
    try:
        return strategy(**options)
    except FieldError as exc:
        raise exc.at(*where) from None
    except (TiercastError, TypeError, ValueError) as exc:
        raise FieldError(where, str(exc)) from exc


# Files


def read_file(path: str | os.PathLike[str]) -> CacheConfig:
    """Read a configuration from a file. Raises: ConfigError."""
    try:
        return read_mapping(file_mapping(path))
    except FieldError as exc:
        raise ConfigError(f"{os.fspath(path)}: {exc}") from exc


def file_mapping(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Return the mapping that a .toml or .json file holds. Raises: ConfigError."""
    file = Path(path)
    try:
        content = file.read_text(encoding="utf-8")
        if file.suffix == ".toml":
            found: Any = tomllib.loads(content)
        elif file.suffix == ".json":
            found = json.loads(content)
        else:
            raise ConfigError(f"{file}: must be a .toml or .json file")
    except OSError as exc:
        raise ConfigError(f"{file}: cannot be read: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError) as exc:
        if isinstance(exc, ConfigError):
            raise
        raise ConfigError(f"{file}: {exc}") from exc
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: must hold a mapping, not {shown(found)}")
    tool = found.get("tool")
    if isinstance(tool, dict) and "tiercast" in tool:
        found = tool["tiercast"]
    elif set(found) == {"tiercast"}:
        found = found["tiercast"]
    return _check_mapping(found, ("tiercast",))


def write_mapping(settings: Any) -> dict[str, Any]:
    """Return what differs from the defaults in a settings class, as a mapping that `read_mapping` reads."""
    written: dict[str, Any] = {}
    for field in attrs.fields(type(settings)):
        if not field.init:
            continue
        value = getattr(settings, field.name)
        default = field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = default.factory()
        if value == default and type(value) is type(default):
            continue
        written[field.name] = _plain(value)
    return written


def _plain(value: Any) -> Any:
    if isinstance(value, ScopeConfig):
        return [write_mapping(level) for level in value.levels]
    if isinstance(value, (LocalCacheConfig, DistributedCacheConfig, CoherenceConfig, MonitoringConfig)):
        return write_mapping(value)
    if isinstance(value, tuple) and value and all(isinstance(item, ScopeLevel) for item in value):
        return [write_mapping(item) for item in value]
    if isinstance(value, dict):
        return {name: dict(item) for name, item in value.items()}
    return value
