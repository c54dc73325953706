"""`CacheManager`: the one object that a service holds."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self, overload

from .config import CacheConfig
from .decorators import DecoratorMethods
from .decorators.bound import unbind
from .errors import ConfigError
from .events import H
from .invalidations import Invalidations
from .loading.hits import Contexts, bind_gets
from .monitoring.listeners import Listening
from .observing.fleet import Process, fleet_of
from .operations import Operations
from .plans import Plan, drive, drive_async
from .runtime import Runtime
from .status import CoherenceView
from .views import Aio, ScopedView

if TYPE_CHECKING:
    from .clock import Clock
    from .region import Region


class CacheManager(Invalidations, DecoratorMethods):
    """One cache of up to three tiers that stays true across processes.

    Thread-safe, loop-safe and fork-safe; sync and async callers may be mixed freely. The
    constructor does no I/O and starts no thread: both come with the first use.

    Args:
        config: the settings; without them what the environment says (`CacheConfig.from_env`),
            which is memory alone where it says nothing.
        clock: where the time comes from; for tests.
    """

    _instance: ClassVar[CacheManager | None] = None
    _instance_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, config: CacheConfig | None = None, *, clock: Clock | None = None) -> None:
        self.config = CacheConfig.from_env() if config is None else config
        if not isinstance(self.config, CacheConfig):
            message = f"config must be a CacheConfig, not {config!r}; CacheConfig.from_dict reads a mapping"
            raise ConfigError(message)
        self._runtime = Runtime(self.config, clock)
        self._current = Contexts()
        bind_gets(self, Operations, self._runtime.default, "", self._current)
        self.coherence = CoherenceView(self._runtime)
        self.monitor = self._runtime.monitor
        self.events = self._runtime.events

    # -- the process's one manager ------------------------------------------------------------

    @classmethod
    def get_instance(cls, config: CacheConfig | None = None) -> CacheManager:
        """Return the process's one manager, made on the first call.

        Raises:
            ConfigError: a different configuration than the first call's is given.
        """
        with CacheManager._instance_lock:
            instance = CacheManager._instance
            if instance is None:
                instance = CacheManager._instance = cls(config)
            elif config is not None and config != instance.config:
                message = (
                    "the process's manager was made with a different configuration; "
                    "configure it once, at start, or reset_instance() first"
                )
                raise ConfigError(message)
            return instance

    @classmethod
    def set_instance(cls, manager: CacheManager | None) -> None:
        """Make `manager` the process's one; the one before it is left as it is. None: there is none.

        Raises:
            TypeError: it is no CacheManager (a configuration, say, which `get_instance` takes).
        """
        if manager is not None and not isinstance(manager, CacheManager):
            raise TypeError(f"the process's manager must be a CacheManager, not {manager!r}")
        with CacheManager._instance_lock:
            CacheManager._instance = manager
        unbind()

    @classmethod
    def reset_instance(cls) -> None:
        """Close the process's manager and forget it; the next `get_instance` makes another."""
        with CacheManager._instance_lock:
            instance, CacheManager._instance = CacheManager._instance, None
        unbind()
        if instance is not None:
            instance.close()

    # -- regions and scopes -------------------------------------------------------------------

    def current_region(self, name: str | None = None) -> Region:
        """Return the region named, or the one of the surrounding `cache_context`, or the default."""
        if name is not None:
            return self._runtime.region(name)
        return self._current.get() or self._runtime.default

    def _locate(self, region: str | None, scope: str | None, params: Mapping[str, Any]) -> tuple[Region, str]:
        found = (self._current.get() or self._runtime.default) if region is None else self._runtime.region(region)
        if scope is None and not params:
            return found, ""
        path = self.config.scopes.resolve(scope, params)
        if region is None:
            self._current.remember({"scope": scope, **params} if scope is not None else params, path)
        return found, path

    @contextmanager
    def cache_context(self, region: str) -> Iterator[CacheManager]:
        """Make `region` the current one for what this thread or task does inside the block."""
        token = self._current.set(self._runtime.region(region))
        try:
            yield self
        finally:
            try:
                self._current.reset(token)
            except ValueError:
                # Left in another context than it was entered in (a generator dependency that a
                # framework finalises elsewhere): that context never had the region.
                pass

    @asynccontextmanager
    async def cache_context_async(self, region: str) -> AsyncIterator[CacheManager]:
        """As `cache_context`."""
        with self.cache_context(region):
            yield self

    def scoped(self, scope: str | None = None, **scope_params: Any) -> ScopedView:
        """Return the same operations confined to one scope: ``cache.scoped("user", org_id="o1", user_id="u1")``.

        Raises:
            ScopeError: a parameter is missing, surplus, empty or None.
        """
        return ScopedView(self, self.config.scopes.resolve(scope, scope_params))

    @property
    def aio(self) -> Aio:
        """The same operations under their plain names as coroutines: ``await cache.aio.get(key)``."""
        return Aio(self)

    # -- events ---------------------------------------------------------------------------------

    @overload
    def on(self, event_glob: str) -> Callable[[H], H]: ...
    @overload
    def on(self, event_glob: str, handler: H) -> H: ...
    def on(self, event_glob: str, handler: Any = None) -> Any:
        """Have a handler called with the events that this process handles, or another process broadcasts.

        As a decorator, ``@cache.on("user.updated")``, or called with the handler; either way it
        answers the handler. It is called as ``handler(event, payload)``, after the invalidation. Sync
        or async; an async one is not waited for in a sync call. What it raises is counted
        (`cache.events.failed`) and logged, and goes no further. `cache.events.off(handler)` ends it.

        Args:
            event_glob: a name, or a glob over names: ``"user.*"``.
            handler: takes the event's name and its payload.

        Raises:
            TypeError, ValueError: no name, or no callable.
        """
        return self.events.on(event_glob, handler) if handler is not None else self.events.on(event_glob)

    # -- looking inside ---------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Return a flat dict of what this process's cache did: hits, misses, evictions, current_size, hit_rate, …"""
        return self._runtime.stats()

    async def stats_async(self) -> dict[str, Any]:
        """As `stats`."""
        return self._runtime.stats()

    def fleet(self) -> list[Process]:
        """Return the processes of the fleet, as each described itself with its last heartbeat."""
        self._runtime.ready()
        return drive(fleet_of(self._runtime))

    async def fleet_async(self) -> list[Process]:
        """As `fleet`."""
        self._runtime.ready()
        return await drive_async(fleet_of(self._runtime))

    def listen(
        self,
        *,
        on_hit: Listening | None = None,
        on_miss: Listening | None = None,
        on_fill: Listening | None = None,
        on_evict: Listening | None = None,
        on_invalidate: Listening | None = None,
        on_error: Listening | None = None,
    ) -> Callable[[], None]:
        """Have callables told, each with one `CacheEvent`, what the cache of this process does.

        They are called where it happens, but `on_evict` and `on_invalidate` in a background
        thread; they should be quick. What they raise is counted and logged. Hits cost more
        while somebody listens to them, and nothing else does.

        Returns:
            What ends it, when called.
        """
        return self.monitor.listeners.add(
            hit=on_hit, miss=on_miss, fill=on_fill, evict=on_evict, invalidate=on_invalidate, error=on_error
        )

    # -- ending -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Finish background loads, stop the threads, and give back files and connections. Use after it raises."""
        try:
            self._runtime.workers.drain(self.config.coherence.drain_timeout)
        finally:
            drive(self._close())

    async def close_async(self) -> None:
        """As `close`."""
        try:
            await self._runtime.workers.drain_async(self.config.coherence.drain_timeout)
        finally:  # whoever closes may be cancelled: nobody else would close the rest
            await drive_async(self._close())

    def _close(self) -> Plan[None]:
        try:
            yield from self._runtime.close()
        finally:
            with CacheManager._instance_lock:
                if CacheManager._instance is self:
                    CacheManager._instance = None

    def __enter__(self) -> Self:
        self._runtime.refuse_closed()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        await self.close_async()

    def __repr__(self) -> str:
        region = self.config.region()
        tiers = [name for name in ("local", "disk", "distributed") if getattr(region, name) is not None]
        return f"<CacheManager {self.config.name!r}: {', '.join(tiers)}>"


def _after_fork() -> None:
    """Let a child make its own manager, though another thread of the parent was just making one."""
    CacheManager._instance_lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)
