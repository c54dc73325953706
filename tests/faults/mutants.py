"""Rules broken on purpose in every worker of a run: a harness that does not see it proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tiercast.coherence.ledger import Ledger

if TYPE_CHECKING:
    from faults.worker import Worker


def trust_for_ever(worker: Worker) -> None:
    """Break G2: a proof never ends."""
    worker.cache._runtime.coherence.span = 1e9


def forget_to_remove(worker: Worker) -> None:
    """Break G1 and G3: key records are counted and remove nothing from memory."""
    worker.cache._runtime.coherence._remove = lambda removals: None


def ignore_the_head(worker: Worker) -> None:
    """Break the disk log's strictness: readers do not see that the mapped head moved."""

    class Same(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = int.__hash__

    class Blind(Ledger):
        __slots__ = ()
        head_word = property(lambda self: Same(), lambda self, word: None)  # type: ignore[assignment]

    worker.cache._runtime.ledger.__class__ = Blind


MUTANTS: dict[str, Callable[[Worker], None]] = {
    "trust for ever": trust_for_ever,
    "forget to remove": forget_to_remove,
    "ignore the head": ignore_the_head,
}
