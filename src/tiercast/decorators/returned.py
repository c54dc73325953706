"""What a function returns: the type that its annotation declares, and what cannot be cached at all."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import logging
import typing
from collections.abc import Callable
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

logger = logging.getLogger("tiercast.decorators")


def declared_type(function: Callable[..., Any]) -> Any:
    """Return the type that values of a function are restored to; None where plain decoding gives the right one.

    Read when the function is first called, so that the annotation may name what is defined later.
    """
    plain: Any = inspect.unwrap(function)
    plain = getattr(plain, "__func__", plain)
    annotation = getattr(plain, "__annotations__", {}).get("return")
    if annotation is None:
        return None

    def holder() -> None: ...

    holder.__annotations__ = {"return": annotation}
    try:
        enclosing = inspect.getclosurevars(plain).nonlocals
        hint = typing.get_type_hints(holder, getattr(plain, "__globals__", {}), dict(enclosing))["return"]
    except (AttributeError, NameError, SyntaxError, TypeError, ValueError) as exc:
        logger.debug("return annotation %r of %r cannot be resolved: %s", annotation, plain, exc)
        return None
    return hint if _names_a_class_of_users(hint) else None


def refuse_once(value: Any, function: str) -> None:
    """Refuse a value that is good for one caller only: who came second would get it used up.

    Raises:
        TypeError: it is a generator or a coroutine; `function` names who returned it.
    """
    if isinstance(value, CoroutineType):
        value.close()
        message = (
            f"{function} returned a coroutine, which can be awaited only once; "
            f"decorate the async function itself, or await it inside an `async def`"
        )
        raise TypeError(message)
    if isinstance(value, GeneratorType | AsyncGeneratorType):
        raise TypeError(f"{function} returned a generator, which can be read only once")


def _names_a_class_of_users(hint: Any) -> bool:
    """Whether a hint contains, at any depth, a class whose instances plain decoding would not give back."""
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return (
            dataclasses.is_dataclass(hint)
            or issubclass(hint, enum.Enum)
            or typing.is_typeddict(hint)
            or hasattr(hint, "__attrs_attrs__")
            or hasattr(hint, "__pydantic_fields__")
            or (issubclass(hint, tuple) and hasattr(hint, "_fields"))
        )
    inner = (typing.get_origin(hint), *typing.get_args(hint))
    return any(each is not None and each is not hint and _names_a_class_of_users(each) for each in inner)
