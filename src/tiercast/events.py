"""`cache.events`: users' own handlers of domain events, of this process's and of those that travel.

Implementation notes.
    `on` hears what this process handles (`handle_event`) and what other processes broadcast;
    `subscribe` hears only what arrives on the bus. Handlers of events that arrive run in one
    thread of their own, in the order of arrival, never in the one that listens. What a
    handler raises is counted and logged, and reaches nobody.
    An async handler belongs to the loop that was running when it was registered, where there
    was one and it still runs; otherwise it gets a loop for the one call.
    Delivery is the bus's, at most once: what is lost is lost. Invalidations travel by the log.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from .errors import InvalidationError
from .invalidation.travelling import RESERVED, DomainEvent, decode_event, encode_event
from .keys import Glob, compile_glob
from .loading.flights import running_loop
from .loading.loads import is_async
from .loading.workers import Pool
from .monitoring.counter import Counter
from .plans import Plan

if TYPE_CHECKING:
    from .runtime import Runtime

logger = logging.getLogger("tiercast.events")

Handler = Callable[[str, Mapping[str, Any]], object]
"""Called with the event's name and its payload; sync or async."""
H = TypeVar("H", bound=Handler)

BACKLOG = 10_000
"""Events that arrived and wait for the handlers' thread; of more, the newest are let go and counted."""
PURGED = f"{RESERVED}purged"
"""The event by which a purge asks the other processes to sweep at once."""

_arrived: ContextVar[DomainEvent | None] = ContextVar("tiercast_arrived", default=None)
"""The event from the bus whose handlers are running: handling it again tells nobody twice."""


class Hook:
    """One handler, the names it is for, and the loop it belongs to."""

    __slots__ = ("glob", "handler", "is_async", "loop")

    def __init__(self, event_glob: str, handler: Handler) -> None:
        self.glob: Glob = compile_glob(checked_name(event_glob))
        if not callable(handler):
            message = f"a handler of events must be callable with the event's name and payload, not {handler!r}"
            raise TypeError(message)
        self.handler = handler
        self.is_async = is_async(handler)
        self.loop = running_loop() if self.is_async else None

    def elsewhere(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop that the handler belongs to, where it runs and is not the one of this thread."""
        loop = self.loop
        return None if loop is None or loop is running_loop() or not loop.is_running() else loop


class Events:
    """The handlers of one manager. Thread-safe, loop-safe and fork-safe.

    Attributes:
        heard: events that arrived on the bus. failed: handlers that raised. lost: events for which no room was left,
            or that could not be published.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._own: tuple[Hook, ...] = ()
        self._arriving: tuple[Hook, ...] = ()
        self._told = False
        self.heard = Counter()
        self.failed = Counter()
        self.lost = Counter()
        self.purged: Callable[[], None] = lambda: None
        """Called, on the listener's thread, when another process purged: must only set a flag."""
        self.forked()

    def forked(self) -> None:
        """Forget, in a forked child, the parent's thread and lock; its handlers stay."""
        self._lock = threading.Lock()
        self._pool = Pool(1, BACKLOG)

    # -- registering --------------------------------------------------------------------------------

    @overload
    def on(self, event_glob: str) -> Callable[[H], H]: ...
    @overload
    def on(self, event_glob: str, handler: H) -> H: ...
    def on(self, event_glob: str, handler: Any = None) -> Any:
        """Have a handler called with each event that this process handles, or another broadcasts; see `CacheManager.on`."""
        if handler is None:
            checked_name(event_glob)
            return partial(self.on, event_glob)
        hook = Hook(event_glob, handler)
        with self._lock:
            self._own = (*self._own, hook)
        return handler

    def off(self, handler: Handler) -> None:
        """Have a handler that `on` registered called no more."""
        with self._lock:
            self._own = tuple(hook for hook in self._own if hook.handler != handler)

    def subscribe(self, event_glob: str, handler: Handler) -> Callable[[], None]:
        """Have a handler called with events that arrive from other processes and services.

        It begins to listen; `cache.coherence.start()` returns when the bus is heard. Delivery is
        at most once, and only with the redis log: the memory and the disk log have no bus.
        ``cache.events.subscribe("user.*", cache.handle_event)`` makes events that a service
        only emits invalidate here.

        Args:
            event_glob: a name, or a glob over names: "user.*".
            handler: called with name and payload (plain JSON), in a thread of the cache, one event after another;
                an async one in the loop that runs now.

        Returns:
            What ends it, when called.

        Raises:
            TypeError, ValueError: no name, or no callable.
        """
        hook = Hook(event_glob, handler)
        self._runtime.ready()
        with self._lock:
            self._arriving = (*self._arriving, hook)

        def unsubscribe() -> None:
            with self._lock:
                self._arriving = tuple(each for each in self._arriving if each is not hook)

        return unsubscribe

    # -- this process's events -----------------------------------------------------------------------

    def message(self, event: str, payload: Mapping[str, Any] | None) -> bytes:
        """Return the message by which an event travels.

        Raises:
            InvalidationError: the payload cannot travel, or the name is tiercast's own.
        """
        if event.startswith(RESERVED):
            raise InvalidationError(f"event {event!r}: names that begin with {RESERVED!r} are tiercast's own")
        return encode_event(DomainEvent(event, payload or {}, self._runtime.coherence.fleet.member))

    def happened(self, event: str, payload: Mapping[str, Any] | None) -> Plan[None]:
        """Tell the handlers of this process."""
        if not self._own or self._relayed(event):
            return
        for hook in self._own:
            if hook.glob.match(event):
                yield _Handling(self, hook, DomainEvent(event, payload or {}))

    def broadcast(self, event: str, message: bytes, *, quietly: bool = False) -> Plan[None]:
        """Publish an event's message; what fails is counted and, but for `quietly`, logged."""
        if self._relayed(event):
            return
        publish: Callable[[bytes], Plan[bool]] | None = getattr(self._runtime.log, "publish", None)
        if publish is not None:
            if not (yield from publish(message)) and not quietly:
                self.lost.add()
                logger.warning("event %r was not published: Redis cannot be reached", event, extra={"event": event})
        elif self._runtime.log.kind == "disk" and not self._told and not quietly:
            self._told = True
            logger.warning("event %r reaches no other process: the disk log has no bus", event, extra={"event": event})

    @staticmethod
    def _relayed(event: str) -> bool:
        """Whether a handler is handling the very event that arrived: its handlers here are told anyway."""
        arrived = _arrived.get()
        return arrived is not None and arrived.name == event

    # -- events that arrive -----------------------------------------------------------------------------

    def travelled(self, message: bytes) -> bool:
        """Take a message of the bus that is no record; False where it is no event either. Never waits."""
        event = decode_event(message)
        if event is None:
            return False
        if event.origin == self._runtime.coherence.fleet.member:
            return True
        if event.name.startswith(RESERVED):
            if event.name == PURGED:
                self.purged()
            return True
        self.heard.add()
        hooks = [hook for hook in (*self._arriving, *self._own) if hook.glob.match(event.name)]
        if hooks and not self._pool.submit(partial(copy_context().run, self._tell, hooks, event)):
            if not self.lost.value:
                logger.warning("more events arrive than their handlers can take; the newest are let go")
            self.lost.add()
        return True

    def _tell(self, hooks: list[Hook], event: DomainEvent) -> None:
        _arrived.set(event)
        for hook in hooks:
            self.call(hook, event)

    # -- calling handlers ---------------------------------------------------------------------------------

    def call(self, hook: Hook, event: DomainEvent) -> None:
        """Call a handler from a thread; what an async one has to do runs in its own loop, or here."""
        try:
            loop = hook.elsewhere()
            answer = hook.handler(event.name, event.payload)
            if not inspect.isawaitable(answer):
                return
            loop = loop or running_loop()
            if loop is not None:
                self._leave_to(loop, answer, hook, event)
            else:
                asyncio.run(_awaited(answer))
        except Exception as exc:  # noqa: BLE001  one handler's failure is nobody else's
            self.fell(hook, event, exc)

    async def call_async(self, hook: Hook, event: DomainEvent) -> None:
        """Call a handler from a task: an async one here or in its own loop, a sync one in a worker thread."""
        try:
            loop = hook.elsewhere()
            if loop is not None:
                self._leave_to(loop, hook.handler(event.name, event.payload), hook, event)
                return
            call = partial(hook.handler, event.name, event.payload)
            answer = call() if hook.is_async else await self._runtime.workers.call(call)
            if inspect.isawaitable(answer):
                await answer
        except Exception as exc:  # noqa: BLE001  as above
            self.fell(hook, event, exc)

    def behind(self, hook: Hook, event: DomainEvent) -> None:
        """Have an async handler called, by who cannot wait for it: in the loop of this thread, its own, or a thread."""
        if running_loop() is not None or hook.elsewhere() is not None:
            self.call(hook, event)
        elif not self._pool.submit(partial(copy_context().run, self.call, hook, event)):
            self.lost.add()

    def _leave_to(self, loop: asyncio.AbstractEventLoop, answer: Any, hook: Hook, event: DomainEvent) -> None:
        coroutine = _awaited(answer)
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:  # closed since we looked
            coroutine.close()
            raise

        def ended(future: Future[None]) -> None:
            if not future.cancelled() and (error := future.exception()) is not None:
                self.fell(hook, event, error)

        future.add_done_callback(ended)

    def fell(self, hook: Hook, event: DomainEvent, error: BaseException) -> None:
        """Count and log what a handler raised."""
        self.failed.add()
        name = getattr(hook.handler, "__qualname__", repr(hook.handler))
        logger.warning("handler %s of event %r failed: %s", name, event.name, error, exc_info=error)

    def drain(self, timeout: float) -> bool:
        """Wait until the handlers of what arrived have run, for `timeout` seconds at the most."""
        return self._pool.drain(timeout)


class _Handling:
    """The request to call one handler of an event of this process."""

    __slots__ = ("_event", "_events", "_hook")

    def __init__(self, events: Events, hook: Hook, event: DomainEvent) -> None:
        self._events = events
        self._hook = hook
        self._event = event

    def run(self) -> None:
        if self._hook.is_async:
            # Sync code may stand on the very loop that would have to run it: it is never waited for.
            self._events.behind(self._hook, self._event)
        else:
            self._events.call(self._hook, self._event)

    async def run_async(self) -> None:
        await self._events.call_async(self._hook, self._event)


async def _awaited(answer: Awaitable[object]) -> None:
    await answer


def checked_name(event: object) -> str:
    """Return the name of an event, or a glob over names.

    Raises:
        TypeError: it is no str.
        ValueError: it is empty.
    """
    if not isinstance(event, str):
        message = f"an event is named by a str, not {event!r}"
        raise TypeError(message)
    if not event:
        message = "an event's name must not be empty"
        raise ValueError(message)
    return event
