"""What a function's return annotation says about the values that come back from a tier below."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import logging
import typing
from collections.abc import Callable
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
