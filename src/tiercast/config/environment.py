"""The configuration that environment variables give."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from ..errors import ConfigError
from .cache import CacheConfig
from .checks import FieldError, nearest, shown, suggestion
from .defaults import ENVIRONMENT, REDIS_URL
from .regions import REGION_OPTIONS, TIERS, RegionConfig, tier_mapping
from .settings import CoherenceConfig, DistributedCacheConfig, LocalCacheConfig, MonitoringConfig
from .sources import file_mapping, read_mapping

Place = tuple[str, ...]

FILE = f"{ENVIRONMENT}CONFIG"
NESTED: Mapping[str, type[Any]] = {
    "local": LocalCacheConfig,
    "disk": LocalCacheConfig,
    "distributed": DistributedCacheConfig,
    "coherence": CoherenceConfig,
    "monitoring": MonitoringConfig,
}
WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def read_environment(environ: Mapping[str, str]) -> CacheConfig:
    """Read a configuration from the environment. Raises: ConfigError."""
    sources: dict[Place, str] = {}
    file = environ.get(FILE)
    try:
        found: dict[str, Any] = dict(file_mapping(file)) if file else {}
        for variable in sorted(environ):
            if variable.startswith(ENVIRONMENT) and variable != FILE and environ[variable]:
                place = _place(variable)
                sources[place] = variable
                _put(found, place, _value(_annotation(place), environ[variable], place))
        _put_common(found, environ, sources)
        return read_mapping(found)
    except FieldError as exc:
        where = _variable_of(exc.path, sources) or (
            f"{FILE}={file}: {'.'.join(exc.path)}" if file else ".".join(exc.path)
        )
        raise ConfigError(f"{where}: {exc.problem}") from exc


def _variable_of(place: Place, sources: Mapping[Place, str]) -> str | None:
    """Return the variable that set a place, or what is around it or inside it."""
    for size in range(len(place), 0, -1):
        if place[:size] in sources:
            return sources[place[:size]]
    inside = [variable for source, variable in sources.items() if source[: len(place)] == place]
    return inside[0] if inside and place else None


def _place(variable: str) -> Place:
    """Return the place in the configuration that a variable sets."""
    place = tuple(variable.removeprefix(ENVIRONMENT).lower().split("__"))
    if _annotation(place) is None:
        within, known = ENVIRONMENT, list(_variables())
        if place[:1] == ("regions",) and len(place) > 2:
            within = f"{ENVIRONMENT}REGIONS__{place[1].upper()}__"
            known = [f"{within}{name}" for name in _names_within(RegionConfig, REGION_OPTIONS)]
        # What all names begin with says nothing of which was meant.
        near = nearest(variable.removeprefix(within), (name.removeprefix(within) for name in known))
        raise ConfigError(f"{variable}: unknown variable" + (f"; did you mean {within + near!r}?" if near else ""))
    return place


def _names_within(cls: type[Any], names: tuple[str, ...] | None = None) -> Iterator[str]:
    """Yield the ends of all variables that set something within a class."""
    for field in attrs.fields(cls):
        if field.init and (names is None or field.name in names):
            yield field.name.upper()
            if field.name in NESTED:
                yield from (f"{field.name}__{inner}".upper() for inner in _names_within(NESTED[field.name]))


def _variables() -> Iterator[str]:
    yield FILE
    yield from (f"{ENVIRONMENT}{name}" for name in _names_within(CacheConfig))


def _annotation(place: Place) -> str | None:
    """Return the written type of the option at a place; None where there is none."""
    cls: type[Any] = CacheConfig
    if place[0] == "regions" and len(place) > 2:
        cls, place = RegionConfig, place[2:]
        if place[0] not in REGION_OPTIONS:
            return None
    if len(place) == 2 and place[0] in NESTED:
        cls, place = NESTED[place[0]], place[1:]
    field = {field.name: field for field in attrs.fields(cls) if field.init}.get(place[0])
    return str(field.type) if field is not None and len(place) == 1 else None


def _value(annotation: str | None, text: str, place: Place) -> Any:
    """Read a variable's text as the option's type wants it; what it cannot be is left to the option's own check."""
    kinds = {kind.strip() for kind in (annotation or "").split("|")}
    folded = text.strip().lower()
    if "None" in kinds and folded in {"none", "null"}:
        return None
    if "bool" in kinds:
        return WORDS.get(folded, text)
    if kinds & {"int", "float"}:
        return _number(text)
    if kinds & {"Any", "str", "bytes"} or (place[-1] in TIERS and not folded.startswith("{")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise FieldError(place, f"must be JSON, not {shown(text)} ({exc})") from None


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _put(found: dict[str, Any], place: Place, value: Any) -> None:
    """Set a place in a nested mapping, text that stands for a tier unfolded on the way."""
    target = found
    for name in place[:-1]:
        inner = target.get(name)
        if name in TIERS and inner is not None:
            inner = tier_mapping(name, inner)
        if inner is None:
            inner = {}
        if not isinstance(inner, Mapping):
            raise FieldError(place, f"cannot be set within {shown(inner)}")
        target[name] = dict(inner)
        target = target[name]
    target[place[-1]] = value


def _put_common(found: dict[str, Any], environ: Mapping[str, str], sources: dict[Place, str]) -> None:
    """Add what the variables say that services have anyway, where nothing more particular says the same."""
    ttl = environ.get("CACHE_DEFAULT_TTL")
    if ttl and "ttl" not in found:
        found["ttl"] = _value("float | None", ttl, ("ttl",))
        sources["ttl",] = "CACHE_DEFAULT_TTL"
    backend, url = environ.get("CACHE_BACKEND", "").lower(), environ.get("REDIS_URL", "")
    if backend not in {"", "redis", "memory"}:
        hint = suggestion(backend, ("redis", "memory"))
        raise ConfigError(f"CACHE_BACKEND: must be redis or memory, not {shown(backend)}{hint}")
    remote = found.get("distributed", {})
    remote = tier_mapping("distributed", remote) if remote is not None else None
    if not isinstance(remote, Mapping) or remote.keys() & {"enabled", "connection_string", "client", "type"}:
        return
    if backend == "memory":
        _put(found, ("distributed", "enabled"), False)
        sources["distributed", "enabled"] = "CACHE_BACKEND"
    elif backend == "redis" or url:
        _put(found, ("distributed", "connection_string"), url or REDIS_URL)
        sources["distributed", "connection_string"] = "REDIS_URL" if url else "CACHE_BACKEND"
