"""How a figure is taken: two things in turn, many short rounds, and the quotient of each round.

Absolute times on a shared machine mean little: they double when a neighbour wakes. What is measured in
the same millisecond is disturbed alike, so every figure is a quotient, and its spread is shown.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median, quantiles
from time import perf_counter
from typing import Any

Batch = Callable[[], float]
"""Does a thing some times and returns the seconds that one of them took."""
AsyncBatch = Callable[[], Awaitable[float]]


@dataclass(frozen=True)
class Spread:
    """The median of rounds, and the quartiles around it."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, _, high = quantiles(values, n=4)
        return cls(median(values), low, high)

    @classmethod
    def exactly(cls, value: float) -> Spread:
        return cls(value, value, value)


@dataclass
class Row:
    """One line of the table.

    Attributes:
        number: the row's name; its part before a dot says which benchmark makes it.
        what: what is compared with what. figure: the quotient, or what `unit` says.
        target: the limit; None: shown without one. at_most: whether it is an upper limit.
        measured: what the two were in themselves, on this machine at this moment.
        note: what a reader must know.
        exact: the figure must equal the target. gross, known: what a quick run fails at.
    """

    number: str
    what: str
    figure: Spread
    target: float | None = None
    at_most: bool = True
    unit: str = "x"
    measured: str = ""
    note: str = ""
    exact: bool = False
    gross: bool = True
    """Whether missing it by a factor of two fails a quick run."""
    known: float | None = None
    """Where the target is known to be missed (notes.md says why): a quick run fails at twice this instead."""

    @property
    def met(self) -> bool:
        if self.target is None:
            return True
        if self.exact:
            return abs(self.figure.middle - self.target) < 0.005
        return self.figure.middle <= self.target if self.at_most else self.figure.middle >= self.target

    @property
    def grossly_missed(self) -> bool:
        if self.target is None or not self.gross or self.met:
            return False
        # The better quartile: a neighbour that wakes must not fail a build.
        if self.at_most:
            return self.figure.low > 2 * max(self.target, self.known or 0.0)
        return self.figure.high < min(self.target, self.known or self.target) / 2

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


@dataclass
class Settings:
    """What a run was asked for: `quick`, where traces are, which Redis, and a directory to use up."""

    quick: bool
    directory: Any
    traces: Any = None
    redis: Any = None
    figures: dict[str, Any] = field(default_factory=dict)
    """What plots are drawn from."""

    def rounds(self, full: int) -> int:
        """Fewer rounds where it must be quick."""
        return max(7, full // 5) if self.quick else full


@contextmanager
def undisturbed() -> Any:
    """Keep the garbage collector out, as `timeit` does."""
    gc.collect()
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def calling(function: Callable[[Any], Any], arguments: Iterable[Any], times: int = 1000) -> Batch:
    """A batch that calls a function with each of so many arguments, from one round on where the last ended."""
    endless = itertools.cycle(list(arguments))

    def batch() -> float:
        some = list(itertools.islice(endless, times))
        began = perf_counter()
        for argument in some:
            function(argument)
        return (perf_counter() - began) / times

    return batch


def awaiting(function: Callable[[Any], Awaitable[Any]], arguments: Iterable[Any], times: int = 1000) -> AsyncBatch:
    """As `calling`, of an async function."""
    endless = itertools.cycle(list(arguments))

    async def batch() -> float:
        some = list(itertools.islice(endless, times))
        began = perf_counter()
        for argument in some:
            await function(argument)
        return (perf_counter() - began) / times

    return batch


def in_turn(batches: Mapping[str, Batch], rounds: int) -> dict[str, list[float]]:
    """Run batches in turn, after one round that does not count; returns each one's seconds by round."""
    taken: dict[str, list[float]] = {name: [] for name in batches}
    with undisturbed():
        for batch in batches.values():
            batch()
        for _ in range(rounds):
            for name, batch in batches.items():
                taken[name].append(batch())
    return taken


async def in_turn_async(batches: Mapping[str, AsyncBatch], rounds: int) -> dict[str, list[float]]:
    """As `in_turn`, on one event loop."""
    taken: dict[str, list[float]] = {name: [] for name in batches}
    with undisturbed():
        for batch in batches.values():
            await batch()
        for _ in range(rounds):
            for name, batch in batches.items():
                taken[name].append(await batch())
            await asyncio.sleep(0)
    return taken


def quotient(taken: Mapping[str, Sequence[float]], ours: str, theirs: str) -> Spread:
    """The quotient of two batches, round by round."""
    return Spread.of([one / other for one, other in zip(taken[ours], taken[theirs], strict=True)])


def shown(seconds: float) -> str:
    """A duration as people read it."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def both(taken: Mapping[str, Sequence[float]], ours: str, theirs: str) -> str:
    """The two medians in themselves."""
    return f"{shown(median(taken[ours]))} : {shown(median(taken[theirs]))}"


def compare(
    number: str, what: str, taken: Mapping[str, Sequence[float]], ours: str, theirs: str, target: float, **more: Any
) -> Row:
    """The row of two batches."""
    return Row(number, what, quotient(taken, ours, theirs), target, measured=both(taken, ours, theirs), **more)
