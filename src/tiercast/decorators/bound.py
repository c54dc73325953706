"""A decorated function at work: bound to a manager, loading through it, and what its attributes do.

Implementation notes.
    Binding happens at the first call and again where the process's manager has changed:
    `unbind` (called when it is set or reset) and a manager that is closed (which proves nothing
    any more, so that every call takes the slow path) both lead to `manager()`.
    `_bind` is the one place that knows what a hit reads of a region; the generated code
    (`wrapper.py`) has the reading itself. A hit is served there only in the default region
    or one named by the decorator; inside a `cache_context`, and in a scope, `Region.hit` does it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..coherence.result import InvalidationResult
from ..config import DEFAULT
from ..errors import ScopeError
from ..keys import encode_part
from ..loading.context import current_load
from ..loading.hits import parts_of, shape_of
from ..monitoring.counter import Counter
from ..plans import Plan, drive, drive_async
from ..region import MISS, Region, Ttl
from .default_key import UnkeyableError
from .figures import FunctionStats
from .keying import NO_TAGS, Key, Tags
from .namespace import Namespace
from .parameters import Parameters
from .requests import Operation
from .returned import declared_type, refuse_once
from .wrapper import USUAL, Source

if TYPE_CHECKING:
    from datetime import timedelta

    from ..manager import CacheManager
    from ..runtime import Runtime

Arguments = tuple[Any, ...]
Keywords = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a decorator was told.

    Attributes:
        ttl, lock_ttl: as in `CacheManager.get_or_set`. scope, region: names; None: the root, the current one.
        key: None where the function has no key of its own.
        manager: None: the process's.
    """

    key: Key | None
    tags: Tags = NO_TAGS
    ttl: Ttl = DEFAULT
    scope: str | None = None
    region: str | None = None
    max_items: int | None = None
    lock_ttl: float | timedelta | None = None
    manager: CacheManager | None = None


class Site:
    """One decorated function. Thread-safe and loop-safe.

    Args:
        function: the function itself. parameters: its own.
        recipe: what the decorator was told. is_async: whether it is a coroutine function.
    """

    def __init__(self, function: Callable[..., Any], parameters: Parameters, recipe: Recipe, *, is_async: bool) -> None:
        self.function = function
        self.parameters = parameters
        self.recipe = recipe
        self.is_async = is_async
        self.inner: Site | None = getattr(function, "_tiercast_site", None)
        self.hits = Counter()
        self.misses = Counter()
        self.loads = Counter()
        self.namespace: Namespace[tuple[str, Hashable]] | None = None
        if recipe.max_items is not None:
            self.namespace = Namespace(recipe.max_items)
        self._generated: Any = None
        self._source: Source | None = None
        self._shape = USUAL
        self._make_key: Callable[..., str] | None = None
        if recipe.key is not None:
            self._make_key = parameters.function_of(recipe.key.expression, dict(recipe.key.namespace))
        self._normal = parameters.function_of(f"({parameters.arguments})", {})
        self._own_tags: tuple[str, ...] = ()
        if recipe.key is not None and (recipe.key.glob is None or recipe.scope is not None):
            # No one pattern reaches every entry of the function: they carry a tag that `clear` invalidates.
            self._own_tags = (f"function:{encode_part(parameters.function)}",)
        self._manager: CacheManager | None = None
        self._scope_params: tuple[str, ...] = ()
        self._as_type: Any = None
        _sites.add(self)

    # -- binding ----------------------------------------------------------------------------

    def manager(self) -> CacheManager:
        """Return the manager, binding to it where it is not the one that this is bound to."""
        manager = self.recipe.manager
        if manager is None:
            from ..manager import CacheManager

            manager = CacheManager._instance or CacheManager.get_instance()
        if manager is not self._manager:
            self._bind(manager)
        return manager

    def _bind(self, manager: CacheManager) -> None:
        scope = self.recipe.scope
        if scope is not None:
            wanted = manager.config.scopes.params(scope)
            missing = [name for name in wanted if name not in self.parameters.names]
            if missing and self.parameters.keywords is None:
                message = f"scope {scope!r} needs {missing[0]!r}, which is no parameter of {self.parameters.function}"
                raise ScopeError(message)
            self._scope_params = wanted
        if self._manager is None:
            self._as_type = declared_type(self.function)
        self._manager = manager
        if scope is None and self._source is not None:
            self._bind_hits(manager, self._source)

    def serve_hits(self, function: Any, source: Source) -> None:
        """Take charge of the generated function, whose globals binding fills in."""
        self._generated, self._source = function, source

    def _bind_hits(self, manager: CacheManager, source: Source) -> None:
        """Tell the generated function where to look for hits: the one place that knows what a hit reads."""
        region = manager._runtime.region(self.recipe.region) if self.recipe.region else manager._runtime.default
        shape = shape_of(region)
        if region.watch.listeners.hit:
            shape = shape._replace(touch="told")
        if shape != self._shape:
            self._generated.__code__ = source.function(shape).__code__
            self._shape = shape
        parts = {f"_tc_{name}": part for name, part in parts_of(region).items()}
        lookup = parts.pop("_tc_lookup")
        source.namespace.update(parts, _tc_used=manager._current.used, _tc_current=manager._current.current.get)
        source.namespace["_tc_lookup"] = lookup  # last: until then nothing is found

    def unbind(self) -> None:
        """Serve no hit any more before the next call has asked which manager is the process's."""
        if self.recipe.manager is None:
            if self._source is not None:
                self._source.namespace.update(UNBOUND)
            self._manager = None

    def place(self, args: Arguments, kwargs: Keywords) -> dict[str, Any]:
        """Return the region and scope of a call, as keywords of a manager's operations."""
        place: dict[str, Any] = {}
        if self.recipe.region is not None:
            place["region"] = self.recipe.region
        if self.recipe.scope is not None:
            place["scope"] = self.recipe.scope
            values = self.parameters.values(args, kwargs)
            values.update(values.get(self.parameters.keywords or "", {}))
            place.update((name, values[name]) for name in self._scope_params if name in values)
        return place

    # -- keys and tags ------------------------------------------------------------------------

    def key_of(self, args: Arguments, kwargs: Keywords) -> str:
        """Return the key of a call, given its arguments as the caller writes them.

        Raises:
            TypeError: they do not fit the function, or have no text; or the function has no key of its own.
        """
        make = self._make_key
        if make is None:
            message = f"{self.parameters.function} has no key of its own: its callbacks make their keys"
            raise TypeError(message)
        try:
            return make(*args, **kwargs)
        except UnkeyableError as exc:
            raise self.explained(exc, *self._normal(*args, **kwargs)) from None

    def explained(self, error: UnkeyableError, args: Arguments, kwargs: Keywords) -> TypeError:
        """Return the error that names the parameter which cannot be part of the key."""
        key = self.recipe.key
        return error if key is None else key.explained(self.parameters, error, args, kwargs)

    def tags_of(self, args: Arguments, kwargs: Keywords) -> tuple[str, ...]:
        """Return the tags that follow from the arguments."""
        make = self.recipe.tags.of_arguments
        return self._own_tags if make is None else (*make(*args, **kwargs), *self._own_tags)

    # -- loading --------------------------------------------------------------------------------

    def load(self, key: str, args: Arguments, kwargs: Keywords, *, refresh: bool = False) -> Any:
        """Return what a call answers where the generated code found no hit."""
        manager, value = self._found(key, args, kwargs)
        if value is not MISS and not refresh:
            return value
        run = Run(self, key, args, kwargs)
        try:
            value = manager.get_or_set(key, run.load, **self._wants(args, kwargs))
        except BaseException:
            self.misses.add()
            raise
        self._settle(manager, key, args, kwargs, run)
        return value

    async def load_async(self, key: str, args: Arguments, kwargs: Keywords, *, refresh: bool = False) -> Any:
        """As `load`, for an async function."""
        manager, value = self._found(key, args, kwargs)
        if value is not MISS and not refresh:
            return value
        run = Run(self, key, args, kwargs)
        try:
            value = await manager.get_or_set_async(key, run.load_async, **self._wants(args, kwargs))
        except BaseException:
            self.misses.add()
            raise
        self._settle(manager, key, args, kwargs, run)
        return value

    def _wants(self, args: Arguments, kwargs: Keywords) -> dict[str, Any]:
        recipe = self.recipe
        return {
            "ttl": recipe.ttl,
            "tags": self.tags_of(args, kwargs),
            "as_type": self._as_type,
            "lock_ttl": recipe.lock_ttl,
            **self.place(args, kwargs),
        }

    def _found(self, key: str, args: Arguments, kwargs: Keywords) -> tuple[CacheManager, Any]:
        """Return the manager, and a hit where the generated code does not look: in a scope, or in a context's region."""
        manager = self.manager()
        if self._source is not None:
            self._source.forget_keys()
        if self.recipe.scope is None and (self.recipe.region is not None or manager._current.get() is None):
            return manager, MISS
        region, local_key = self._where(manager, key, args, kwargs)
        value = region.hit(local_key)
        if value is not MISS:
            self.hits.add()
            if self.namespace is not None:
                self.namespace.touch((region.name, local_key))
        return manager, value

    def _where(self, manager: CacheManager, key: str, args: Arguments, kwargs: Keywords) -> tuple[Region, Hashable]:
        """Return the region of a call, and the name under which its memory holds the key."""
        place = self.place(args, kwargs)
        region, path = manager._locate(place.pop("region", None), place.pop("scope", None), place)
        return region, (path, key) if path else key

    def _settle(self, manager: CacheManager, key: str, args: Arguments, kwargs: Keywords, run: Run) -> None:
        """Count a call, and let go of what `max_items` has no room for."""
        (self.misses if run.ran else self.hits).add()
        if self.namespace is None:
            return
        region, local_key = self._where(manager, key, args, kwargs)
        for name, old in self.namespace.admit((region.name, local_key)):
            _evict(manager.current_region(name), old)

    def innermost(self, key: str, args: Arguments, kwargs: Keywords) -> Callable[..., Any]:
        """Return the function to run for a key: past decorated ones that would ask for the very entry being loaded."""
        function, site = self.function, self.inner
        while site is not None and site.recipe.key is not None:
            same_place = (site.recipe.region, site.recipe.scope) == (self.recipe.region, self.recipe.scope)
            if not same_place or site.key_of(args, kwargs) != key:
                break
            function, site = site.function, site.inner
        return function

    # -- what the attributes do -------------------------------------------------------------------

    def touched(self, key: str) -> None:
        """Count a hit of a function that has `max_items`."""
        self.hits.add()
        manager = self._manager
        if manager is not None and self.namespace is not None:
            self.namespace.touch((self.recipe.region or manager._runtime.default.name, key))

    def invalidation(self, args: Arguments, kwargs: Keywords) -> Plan[InvalidationResult]:
        """Invalidate the entry of these arguments, and of a decorated function right below before it."""
        key = self.key_of(args, kwargs)
        args, kwargs = self._normal(*args, **kwargs)
        if self.inner is not None and self.inner.recipe.key is not None:
            yield from self.inner.invalidation(args, kwargs)
        manager = self.manager()
        return cast(
            "InvalidationResult", (yield Operation(manager, "invalidate_keys", (key,), **self.place(args, kwargs)))
        )

    def clearing(self) -> Plan[InvalidationResult]:
        """Invalidate every entry of the function, and of a decorated function right below before it."""
        recipe, manager = self.recipe, self.manager()
        if recipe.key is None:
            self.key_of((), {})
        if self.inner is not None and self.inner.recipe.key is not None:
            yield from self.inner.clearing()
        if self.namespace is not None:
            self.namespace.clear()
        region = {} if recipe.region is None else {"region": recipe.region}
        if self._own_tags:
            return cast("InvalidationResult", (yield Operation(manager, "invalidate_tags", self._own_tags, **region)))
        glob = recipe.key.glob if recipe.key is not None else ""
        return cast("InvalidationResult", (yield Operation(manager, "invalidate_pattern", glob, **region)))

    def refresh(self, args: Arguments, kwargs: Keywords) -> Any:
        """Invalidate the entry of these arguments and load it anew: no process serves the old value any more."""
        drive(self.invalidation(args, kwargs))
        return self.load(self.key_of(args, kwargs), *self._normal(*args, **kwargs), refresh=True)

    async def refresh_async(self, args: Arguments, kwargs: Keywords) -> Any:
        """As `refresh`."""
        await drive_async(self.invalidation(args, kwargs))
        return await self.load_async(self.key_of(args, kwargs), *self._normal(*args, **kwargs), refresh=True)

    def stats(self) -> FunctionStats:
        """Return the function's own figures."""
        return FunctionStats(self.hits.value, self.misses.value, self.loads.value)


class Run:
    """One call's loader: the decorated function with the call's arguments; notes whether it ran."""

    __slots__ = ("args", "key", "kwargs", "ran", "site")

    def __init__(self, site: Site, key: str, args: Arguments, kwargs: Keywords) -> None:
        self.site = site
        self.key = key
        self.args = args
        self.kwargs = kwargs
        self.ran = False

    def load(self) -> Any:
        return self._tagged(self._function()(*self.args, **self.kwargs))

    async def load_async(self) -> Any:
        return self._tagged(await self._function()(*self.args, **self.kwargs))

    def _function(self) -> Callable[..., Any]:
        self.ran = True
        self.site.loads.add()
        return self.site.innermost(self.key, self.args, self.kwargs) if self.site.inner else self.site.function

    def _tagged(self, value: Any) -> Any:
        """Add the tags that follow from the value."""
        refuse_once(value, self.site.parameters.function)
        make = self.site.recipe.tags.of_value
        if make is not None:
            current_load().tags.extend(make(*self.args, **self.kwargs, result=value))
        return value


_sites: weakref.WeakSet[Site] = weakref.WeakSet()


def unbind() -> None:
    """Make every decorated function ask for the process's manager again; for whoever sets or resets it."""
    for site in list(_sites):
        site.unbind()


def rebind(runtime: Runtime) -> None:
    """Have decorated functions read anew what a hit does in a runtime's regions: somebody began, or ceased, to listen."""
    for site in list(_sites):
        manager = site._manager
        if (
            manager is not None
            and manager._runtime is runtime
            and site._source is not None
            and site.recipe.scope is None
        ):
            site._bind_hits(manager, site._source)


def _nothing(_: Hashable) -> None:
    return None


UNBOUND: dict[str, Any] = {"_tc_used": (), "_tc_current": lambda: None, "_tc_lookup": _nothing}
"""What the generated code looks into as long as no manager is bound: every call takes the slow path."""


def _evict(region: Region, local_key: Hashable) -> None:
    """Take one entry out of this process's memory; the tiers below keep it."""
    memory = region.memory
    if memory is None:
        return
    with region.ledger.lock:
        if memory.pop(local_key) is not None:
            region.counters.evictions.add()
            region.watch.evicted("namespace", local_key)
