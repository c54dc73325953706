"""Every operation that does I/O has a twin `…_async`: same parameters, same order, same defaults, same answer."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from tiercast import CacheManager
from tiercast.config.defaults import OPERATION_PARAMETERS
from tiercast.invalidations import Invalidations
from tiercast.operations import Operations
from tiercast.standing import Standing
from tiercast.status import CoherenceView
from tiercast.views import ScopedView

CLASSES = [Standing, Operations, Invalidations, CacheManager, ScopedView, CoherenceView]

NO_IO = {
    "get_instance", "set_instance", "reset_instance",  # the process's manager: made without I/O, closed at exit
    "current_region", "scoped", "listen", "on",  # look-ups, callbacks
    "cached", "async_cached", "cache_aside", "memoize", "stampede_protect", "write_through",  # decorators of both kinds
}  # fmt: skip
"""Public callables without a twin."""


def public(cls: type[Any]) -> list[str]:
    """The names of a class's public methods."""
    members = inspect.getmembers(cls, callable)
    return [name for name, _ in members if not name.startswith("_")]


PAIRS = [(cls, name.removesuffix("_async")) for cls in CLASSES for name in public(cls) if name.endswith("_async")]


@pytest.mark.parametrize(("cls", "name"), PAIRS, ids=lambda part: part if isinstance(part, str) else part.__name__)
def test_twins_have_one_signature(cls: type[Any], name: str) -> None:
    """A caller may put `_async` behind the name and change nothing else."""
    plain, twin = getattr(cls, name), getattr(cls, f"{name}_async")
    one, other = inspect.signature(plain), inspect.signature(twin)
    assert list(one.parameters.values()) == list(other.parameters.values())
    context_managers = {"Iterator[CacheManager]": "AsyncIterator[CacheManager]"}
    expected = context_managers.get(str(one.return_annotation), one.return_annotation)
    assert other.return_annotation == expected
    assert inspect.iscoroutinefunction(twin) or inspect.isasyncgenfunction(inspect.unwrap(twin))
    assert f"`{name}`" in (twin.__doc__ or ""), "the twin says of what it is one"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_operation_has_a_twin(cls: type[Any]) -> None:
    """Nothing that does I/O can be done from threads only, or from tasks only."""
    names = public(cls)
    alone = {name for name in names if not name.endswith("_async") and f"{name}_async" not in names}
    orphans = {name for name in names if name.endswith("_async") and name.removesuffix("_async") not in names}
    assert alone - NO_IO == set()
    assert orphans == set()


@pytest.mark.parametrize("owner", ["manager", "view"])
def test_aio_has_the_plain_names(owner: str) -> None:
    """`aio` answers each twin under its plain name, and nothing else."""
    with CacheManager() as cache:
        operations: Any = cache
        if owner == "view":
            operations = ScopedView(cache, "a:1")
        for _, name in [pair for pair in PAIRS if pair[0] is type(operations)]:
            assert getattr(operations.aio, name) == getattr(operations, f"{name}_async")
        with pytest.raises(AttributeError):
            _ = operations.aio.get_instance


def test_no_scope_parameter_can_be_named_like_one_of_an_operation() -> None:
    """Else the operation would take what was meant for the scope."""
    taken = {
        parameter.name
        for cls in (CacheManager, ScopedView)
        for _, method in inspect.getmembers(cls, inspect.isfunction)
        if "scope_params" in (parameters := inspect.signature(method).parameters)
        for parameter in parameters.values()
    }
    assert taken - OPERATION_PARAMETERS == {"scope_params"}
