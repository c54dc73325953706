"""Functions of one name, most often made by one factory again and again: their default keys do not tell them apart."""

from __future__ import annotations

import inspect
import logging
import types
import weakref
from collections.abc import Callable
from typing import Any

from .default_key import code_text

logger = logging.getLogger("tiercast.decorators")

_latest: weakref.WeakValueDictionary[str, types.FunctionType] = weakref.WeakValueDictionary()
"""The function that was decorated last under each name."""
_warned: set[str] = set()


def warn_of_twin(name: str, function: Callable[..., Any]) -> None:
    """Log it once where a function shares its default key with one of other code, or of the same code over other variables.

    What a function captured cannot be part of its key: most often it is a connection or the like, which has no
    text and means the same in every process. Nor can its code, by which two releases would not hear each other's
    invalidations. Whether it changes the answer, only the user knows.
    """
    plain = inspect.unwrap(function)
    if not isinstance(plain, types.FunctionType):
        return
    twin = _latest.get(name)
    _latest[name] = plain
    if twin is None or twin is plain or name in _warned:
        return
    if differing := _differences(plain, twin):
        _warned.add(name)
        logger.warning(
            "%s was decorated again %s; both have the same default keys, so each is answered what the other"
            " loaded: name in key= what tells them apart, or decorate it once",
            name,
            differing,
            extra={"function": name},
        )


def _differences(plain: types.FunctionType, twin: types.FunctionType) -> str:
    """Say what tells two functions of one name apart; "" where nothing is known to."""
    if plain.__code__ is not twin.__code__:
        return "with other code" if code_text(plain.__code__) != code_text(twin.__code__) else ""
    captured = zip(plain.__code__.co_freevars, plain.__closure__ or (), twin.__closure__ or (), strict=True)
    differing = [variable for variable, one, other in captured if _differ(one, other)]
    return f"over another {', '.join(differing)}" if differing else ""


def _differ(one: types.CellType, other: types.CellType) -> bool:
    """Whether two cells hold different data; functions and classes are made anew with each call of a factory."""
    try:
        value, older = one.cell_contents, other.cell_contents
    except ValueError:  # not assigned yet
        return False
    if value is older or (callable(value) and callable(older)):
        return False
    try:
        return not bool(value == older)
    except Exception:  # noqa: BLE001  a user's own comparison
        return True
