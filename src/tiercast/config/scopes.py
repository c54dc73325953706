"""Scopes: the trees of tenants, and how parameters become a canonical path.

`resolve` is on the path of every keyword-scoped read. For each level one bounded,
typed cache in C maps the ids to their path; everything else (and every error) is
left to the slow way.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

import attrs

from ..errors import ScopeError, UnknownKeyword
from ..keys import ROOT, encode_part, scope_child, split_path
from .checks import FieldError, refuse_unknown, shown, suggestion
from .defaults import OPERATION_PARAMETERS

GLOBAL = "global"
"""The name of the root scope."""
PATHS_REMEMBERED = 4096
"""Paths that each level keeps at hand."""

PathMaker = Callable[[Mapping[str, Any]], str]


def _levels(value: Sequence[ScopeLevel]) -> tuple[ScopeLevel, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else value  # type: ignore[return-value]


def _check_levels(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, tuple) or not all(isinstance(level, ScopeLevel) for level in value):
        raise FieldError((attribute.name,), f"must be a list of ScopeLevel, not {shown(value)}")


def _check_name(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or not value or encode_part(value) != value:
        raise FieldError(
            (attribute.name,), f"must be text without separators, spaces or glob characters, not {shown(value)}"
        )
    if value == GLOBAL:
        raise FieldError((attribute.name,), f"{GLOBAL!r} is the root scope itself")
    if value in OPERATION_PARAMETERS:
        raise FieldError((attribute.name,), f"{value!r} is a parameter of cache operations")


def _check_param(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    _check_name(_, attribute, value)
    if not str(value).isidentifier() or keyword.iskeyword(str(value)):
        raise FieldError((attribute.name,), f"must be usable as a keyword argument, not {shown(value)}")


@refuse_unknown
@attrs.frozen
class ScopeLevel:
    """One level of a tree of scopes.

    Attributes:
        name: what the level is called in `scope=`, for example "user".
        param: the keyword argument that carries its id, for example "user_id".
        children: the levels below it.
    """

    name: str = attrs.field(validator=_check_name)
    param: str = attrs.field(validator=_check_param)
    children: tuple[ScopeLevel, ...] = attrs.field(default=(), converter=_levels, validator=_check_levels)


@attrs.frozen
class _Way:
    """A level with all above it: the names and parameters from the outermost to itself."""

    names: tuple[str, ...]
    params: tuple[str, ...]


@refuse_unknown
@attrs.frozen
class ScopeConfig:
    """The trees of scopes that a service knows; without any, `global` is all there is. Thread-safe.

    Level names, and parameters, are each unique within the configuration.

    Attributes:
        levels: the outermost levels; each begins a tree of its own.
    """

    levels: tuple[ScopeLevel, ...] = attrs.field(default=(), converter=_levels, validator=_check_levels)
    _ways: dict[str, _Way] = attrs.field(init=False, eq=False, repr=False, factory=dict)
    _by_params: dict[frozenset[str], str] = attrs.field(init=False, eq=False, repr=False, factory=dict)
    _makers: dict[str | None, tuple[int, PathMaker]] = attrs.field(init=False, eq=False, repr=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        seen: set[str] = set()
        # An explicit stack: a tree may be deeper than Python's recursion.
        waiting: list[tuple[ScopeLevel, _Way]] = [(level, _Way((), ())) for level in reversed(self.levels)]
        while waiting:
            level, above = waiting.pop()
            if level.name in self._ways:
                raise FieldError(("levels",), f"two levels are named {level.name!r}")
            if level.param in seen:
                raise FieldError(("levels",), f"two levels have the parameter {level.param!r}")
            seen.add(level.param)
            way = _Way((*above.names, level.name), (*above.params, level.param))
            self._ways[level.name] = way
            self._by_params[frozenset(way.params)] = level.name
            self._makers[level.name] = (len(way.params), _path_maker(way))
            waiting.extend((child, way) for child in reversed(level.children))

    def __reduce__(self) -> tuple[type[ScopeConfig], tuple[tuple[ScopeLevel, ...]]]:
        return ScopeConfig, (self.levels,)  # the caches cannot be pickled and need not be

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all levels, each after those above it."""
        return tuple(self._ways)

    def ancestry(self, scope: str) -> tuple[str, ...]:
        """Return the names of a level and those above it, outermost first.

        Raises:
            ScopeError: there is no such level.
        """
        return self._way(scope).names

    def params(self, scope: str | None) -> tuple[str, ...]:
        """Return the parameters that a scope takes, outermost first; the root takes none.

        Raises:
            ScopeError: there is no such level.
        """
        return self._way(scope).params

    def paramset(self, scope: str | None) -> frozenset[str]:
        """Return the parameters that a scope takes, as a set."""
        return frozenset(self.params(scope))

    def is_param(self, name: str) -> bool:
        """Answer whether a keyword is the parameter of some level."""
        return any(name in params for params in self._by_params)

    def level_of(self, names: Iterable[str]) -> str | None:
        """Return the level that takes exactly these parameters; `global` for none, None where no level does."""
        given = frozenset(names)
        return self._by_params.get(given) if given else GLOBAL

    def resolve(self, scope: str | None, params: Mapping[str, Any]) -> str:
        """Return the canonical path of a scope; "" for the root.

        Args:
            scope: a level's name. None: the level that takes exactly the parameters given; the root without any.
            params: the ids (str, int or UUID; 123 and "123" are the same id) of the level and all above it.

        Raises:
            ScopeError: the level is unknown, or a parameter is unknown, missing, surplus, empty or None.
        """
        try:
            if params:
                if scope is None:
                    scope = self._by_params[frozenset(params)]
                size, make = self._makers[scope]
                if len(params) == size:
                    return make(params)
            elif scope is None or scope == GLOBAL:
                return ROOT
        except (KeyError, TypeError, ValueError):
            pass  # explained below
        return self._resolve_slowly(scope, params)

    def check_ancestry(self, names: Sequence[str]) -> None:
        """Check that the names of a path's levels are those of a way from the root.

        Raises:
            ScopeError: they are not; a path of them would match nothing.
        """
        if not names:
            return
        way = self._way(names[-1])
        if tuple(names) != way.names:
            raise ScopeError(f"scope {names[-1]!r} lies at {'/'.join(way.names)}, not at {'/'.join(names)}")

    def check_path(self, path: str) -> str:
        """Return a canonical path, if its levels are those of this configuration.

        Raises:
            ScopeError: they are not, or the path is not canonical.
        """
        try:
            names = [level for level, _ in split_path(path)]
        except ValueError as exc:
            raise ScopeError(str(exc)) from None
        self.check_ancestry(names)
        return path

    def check_known(self, params: Iterable[str]) -> None:
        """Check that keywords are parameters of some scope.

        Raises:
            UnknownKeyword: one is not; the message names the nearest that the operations or the scopes know.
        """
        known = list(dict.fromkeys(param for way in self._ways.values() for param in way.params))
        for name in params:
            if name not in known:
                raise UnknownKeyword(_unknown(name, known))

    def _way(self, scope: str | None) -> _Way:
        if scope is None or scope == GLOBAL:
            return _Way((), ())
        way = self._ways.get(scope) if isinstance(scope, str) else None
        if way is None:
            hint = suggestion(scope, (*self._ways, GLOBAL)) if isinstance(scope, str) else ""
            known = (
                f"the configuration has {', '.join(self._ways)}" if self._ways else "the configuration has no scopes"
            )
            raise ScopeError(f"unknown scope {shown(scope)}{hint or f'; {known}'}")
        return way

    def _resolve_slowly(self, scope: str | None, params: Mapping[str, Any]) -> str:
        if scope is not None:
            self._way(scope)
        self.check_known(params)
        if scope is None:
            scope = self._infer(params)
        way = self._way(scope)
        for name in params:
            if name not in way.params:
                raise ScopeError(f"scope {scope!r} takes no {name!r} (it takes {', '.join(way.params) or 'none'})")
        path = ROOT
        for level, param in zip(way.names, way.params, strict=True):
            if param not in params:
                raise ScopeError(f"scope {scope!r} needs {param!r}, the id of its level {level!r}")
            value = params[param]
            try:
                path = scope_child(path, level, value)
            except (TypeError, ValueError) as exc:
                raise ScopeError(f"scope {scope!r}, level {level!r}: {param}={shown(value)}: {exc}") from None
        return path

    def _infer(self, params: Mapping[str, Any]) -> str:
        """Return the level that takes exactly these (known) parameters, or say what is missing for the deepest one."""
        level = self.level_of(params)
        if level is not None:
            return level
        named = [name for name, way in self._ways.items() if way.params[-1] in params]
        # Taking the deepest at its word makes `_resolve_slowly` name what is missing or surplus.
        return max(named, key=lambda name: len(self._ways[name].params))


def _unknown(name: str, known: Sequence[str]) -> str:
    """Return what to say of a keyword that is no scope parameter."""
    if name in OPERATION_PARAMETERS:
        return f"this operation takes no {name!r}"
    scopes = f"scope parameters are {', '.join(known)}" if known else "no scopes are configured"
    return f"unknown keyword {name!r}{suggestion(name, [*known, *(OPERATION_PARAMETERS - {'self'})]) or f' ({scopes})'}"


def _path_maker(way: _Way) -> PathMaker:
    """Make the quick way from parameters to the path of a level; it raises something wherever there is an error."""

    # typed: 1, True and 1.0 are equal, and only the first is an id.
    @lru_cache(maxsize=PATHS_REMEMBERED, typed=True)
    def path_of(*values: Any) -> str:
        path = ROOT
        for name, value in zip(way.names, values, strict=True):
            path = scope_child(path, name, value)
        return path

    if len(way.params) == 1:
        param = way.params[0]
        return lambda params: path_of(params[param])
    pick = itemgetter(*way.params)
    return lambda params: path_of(*pick(params))
