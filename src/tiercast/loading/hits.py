"""The hit path: what a read does where memory can answer, generated once for each shape of region.

Implementation notes.
    A hit is a dozen bytecodes between the caller and the entry, so nothing here is called that
    can be written out: `get` is a closure over one region's parts (a variable of a closure costs
    a tenth of an attribute behind two others), and what differs between regions is text and not a
    branch. `reading` is the one place that says what makes an entry servable; the manager's and the
    views' `get` and `get_async`, `Region.hit`, and the decorators' wrappers all contain it.

        entry = lookup(key) if region.heads[0] == ledger.head_word else None
                                                            # the disk log: no record of any process of the host
        if (
            entry is not None
            and (now := clock()) < entry.fresh_until        # expiry, early refresh, sliding
            and now < ledger.proven_until                   # no heartbeat, no hit
            and entry.checked is view.checkpoint            # no tag, scope, pattern or region record since
        ):
            move(key)                                       # LRU; another policy notes the visit, or nothing
            count()
            return entry.value

    The head is compared before the entry is looked up, and the checkpoint after: what another thread
    applies in between has by then taken its keys out of memory, or will be seen to have moved the
    checkpoint. An entry that was looked up first would pass a head that was caught up with since.

    Where a hit needs more than handing out a reference, the region's `hot` is an empty mapping,
    and every read takes the slow path.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextvars import ContextVar, Token
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ..region import Region


PATHS_REMEMBERED = 10_000
"""Scope arguments whose path a manager remembers."""


class Shape(NamedTuple):
    """What the text of a hit depends on.

    Attributes:
        touch: `MemoryTier.touch_kind`: what the eviction policy wants to hear of a hit; "told": `Region.touched`
            is called with it.
        heads: whether the log shows without I/O that another process moved it: that on disk.
    """

    touch: str
    heads: bool


def shape_of(region: Region) -> Shape:
    """Return the shape of a region's hits."""
    memory = region.memory
    touch = "none" if memory is None or region.hot is not memory.entries else memory.touch_kind
    # The memory log is this process's alone: who appends to it has applied the record when the call returns.
    return Shape(touch, type(region.heads) is not tuple and region.coherence.log.kind != "memory")


def parts_of(region: Region) -> dict[str, Any]:
    """Return what a hit reads of a region, by the names that `reading` uses."""
    return {
        "lookup": region.hot.get,
        "clock": region.monotonic,
        "ledger": region.ledger,
        "view": region.view,
        "region": region,
        "move": getattr(region.hot, "move_to_end", None),
        "count": region.counters.hits.add,
    }


def touching(shape: Shape, key: str, p: str) -> list[str]:
    """Return the lines that tell the eviction policy of a hit."""
    return {
        "move": ["try:", f"    {p}move({key})", "except KeyError:", "    pass  # removed since it was read"],
        # S3-FIFO counts to three; SIEVE looks at zero or not.
        "visit": [f"if {p}entry.visits < 3:", f"    {p}entry.visits += 1"],
        "told": [f"{p}region.touched({key}, {p}entry)"],
    }.get(shape.touch, [])


def reading(shape: Shape, key: str = "key", prefix: str = "", *more: str) -> list[str]:
    """Return the lines that serve a hit, for a name that holds the key in memory.

    Args:
        shape: the region's.
        key: the name.
        prefix: put before every other name.
        more: further lines, before the value is returned.
    """
    p = prefix
    touch = touching(shape, key, p)
    count = [] if shape.touch == "told" else [f"{p}count()"]
    known = f" if {p}region.heads[0] == {p}ledger.head_word else None" if shape.heads else ""
    return [
        f"{p}entry = {p}lookup({key}){known}",
        "if (",
        f"    {p}entry is not None",
        f"    and ({p}now := {p}clock()) < {p}entry.fresh_until",
        f"    and {p}now < {p}ledger.proven_until",
        f"    and {p}entry.checked is {p}view.checkpoint",
        "):",
        *(f"    {line}" for line in (*touch, *count, *more, f"return {p}entry.value")),
    ]


class Contexts:
    """Which region is the current one for a thread or task, and whether that was ever changed.

    Attributes:
        current: the region of the surrounding `cache_context`; None outside.
        used: empty until the first context is entered, so that until then a hit does not ask.
        paths: keyword arguments (names, then values) to the scope path that they mean, where all are str.
        makers: what makes `get` (and, True last, `get_async`) for a region; for a scope of it where True stands before.
    """

    __slots__ = ("current", "makers", "paths", "used")

    def __init__(self) -> None:
        self.current: ContextVar[Region | None] = ContextVar("tiercast_region", default=None)
        self.used: list[bool] = []
        self.paths: dict[tuple[Any, ...], str] = {}
        self.makers: dict[tuple[Region, bool, bool], Callable[..., Any]] = {}

    def get(self) -> Region | None:
        """Return the region of the surrounding context; None outside of any."""
        return self.current.get() if self.used else None

    def remember(self, place: Mapping[str, Any], path: str) -> None:
        """Remember the path that scope arguments mean. Only str: 1, True and 1.0 are equal, and not the same id."""
        if all(type(value) is str for value in place.values()):
            if len(self.paths) >= PATHS_REMEMBERED:
                self.paths.clear()
            self.paths[(*place, *place.values())] = path

    def set(self, region: Region) -> Token[Region | None]:
        """Make a region the current one of this thread or task, until `reset` of what this returns."""
        if not self.used:
            self.used.append(True)
        return self.current.set(region)

    def reset(self, token: Token[Region | None]) -> None:
        """Undo `set`.

        Raises:
            ValueError: it was done in another context.
        """
        self.current.reset(token)


_HIT = """\
def make(miss, lookup, clock, ledger, view, region, move, count):
    def hit(key):
        {reading}
        return miss
    return hit
"""
_HITS = """\
def make(lookup, clock, ledger, view, region, move, count):
    def hits(keys, path):
        found, missing = {{}}, []
        now = clock()
        if now >= ledger.proven_until{heads}:
            return found, keys
        checkpoint = view.checkpoint
        for key in keys:
            {place}
            entry = lookup(place_key)
            if entry is not None and now < entry.fresh_until and entry.checked is checkpoint:
                {touch}
                found[key] = entry.value
            else:
                missing.append(key)
        return found, missing
    return hits
"""
_GET = """\
def prepare(told, used, current, paths, lookup, clock, ledger, view, region, move, count):
    def make(path, slow, miss):
        {define} {name}(key, default=None, **place):
            {doc}
            if not used or current() is None:
                if not place:
                    if not told:
                        {own}
                    return {wait}miss(region, path, key, default)
                if not told:
                    {elsewhere}
            return {wait}slow(key, default, **place)
        return {name}
    return make
"""
_DOC = "Return the value of a key, or `default` where nothing is cached. None is a value like any other."
_ELSEWHERE = """try:
    place_path = paths.get((*place, *place.values()))
except TypeError:
    place_path = None
if place_path is not None:
    place_key = (place_path, key)
"""


# By class as well: the interpreter reads a slot fastest where a piece of code has met entries of one class only.
@lru_cache(maxsize=64)
def _hit_maker(shape: Shape, _entry_type: str) -> Callable[..., Any]:
    return _made(_HIT.format(reading=_indented(reading(shape), 8)), "make")


@lru_cache(maxsize=64)
def _hits_maker(shape: Shape, _entry_type: str) -> Callable[..., Any]:
    return _made(
        _HITS.format(
            heads=" or region.heads[0] != ledger.head_word" if shape.heads else "",
            place="place_key = (path, key) if path else key",
            touch=_indented(touching(shape, "place_key", "") or ["pass"], 16),
        ),
        "make",
    )


@lru_cache(maxsize=64)
def _get_maker(shape: Shape, _entry_type: str, scoped: bool, is_async: bool) -> Callable[..., Any]:
    placed = reading(shape, "place_key")
    return _made(
        _GET.format(
            define="async def" if is_async else "def",
            name="get_async" if is_async else "get",
            own=_indented(["place_key = (path, key)", *placed] if scoped else reading(shape), 24),
            elsewhere="pass"
            if scoped
            else _indented([*_ELSEWHERE.splitlines(), *(f"    {line}" for line in placed)], 20),
            wait="await " if is_async else "",
            doc=f'"""{_DOC}"""',
        ),
        "prepare",
    )


def _indented(lines: list[str], by: int) -> str:
    return ("\n" + " " * by).join(lines)


def _made(text: str, name: str) -> Callable[..., Any]:
    namespace: dict[str, Any] = {}
    exec(compile(text, "<tiercast hit path>", "exec"), namespace)  # noqa: S102  our own text
    return namespace[name]  # type: ignore[no-any-return]


def make_hit(region: Region, miss: object, *, told: bool = False) -> Callable[[Hashable], Any]:
    """Return the function that answers the value of a key of memory, or `miss` where a closer look is needed."""
    shape = shape_of(region)
    shape = shape._replace(touch="told") if told else shape
    return _hit_maker(shape, region.entry_type.__name__)(miss=miss, **parts_of(region))  # type: ignore[no-any-return]


def make_hits(region: Region) -> Callable[[list[str], str], tuple[dict[str, Any], list[str]]]:
    """Return the function that reads several keys of a scope: what memory serves, uncounted, and the keys of the rest."""
    return _hits_maker(shape_of(region), region.entry_type.__name__)(**parts_of(region))  # type: ignore[no-any-return]


def bind_gets(operations: Any, base: type, region: Region, path: str, contexts: Contexts) -> None:
    """Give one manager or view `get` and `get_async` of its own, which serve hits of a region's scope.

    Whatever else they are asked goes to the methods of its class, which `base` defines; a
    subclass that overrides them keeps its own.
    """
    own: dict[str, Any] = {}
    for name, is_async in (("get", False), ("get_async", True)):
        method = getattr(type(operations), name)
        if method is not getattr(base, name):
            continue
        make = contexts.makers.get((region, path != "", is_async))
        if make is None:
            prepare = _get_maker(shape_of(region), region.entry_type.__name__, path != "", is_async)
            make = contexts.makers[region, path != "", is_async] = prepare(
                told=region.told,
                used=contexts.used,
                current=contexts.current.get,
                paths=contexts.paths,
                **parts_of(region),
            )
        slow = method.__get__(operations)
        made = own[name] = make(path, slow, operations._miss_async if is_async else operations._miss)
        made.__wrapped__, made.__self__ = slow, operations  # it looks like the method: signature and owner
    operations.__dict__.update(own)
