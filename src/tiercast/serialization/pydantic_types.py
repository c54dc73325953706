"""Shapes of pydantic models and dataclasses (extra ``pydantic``)."""

from __future__ import annotations

from typing import Any

import pydantic
import pydantic_core

from .base import Refusal, type_name
from .sameness import alike
from .shapes import Shape

_BY_NAME = tuple(map(int, pydantic.VERSION.split(".")[:2])) >= (2, 11)
"""Whether validation can be told to take field names; before, it takes aliases, and so they are stored."""


class Model(Shape):
    """A pydantic model: lowered to what its JSON would hold, restored by validation.

    JSON is less than Python and validators are users' code; so each value is brought
    back once when it is lowered, and refused unless it is the same then.
    """

    natural = False

    def __init__(self, cls: type) -> None:
        self.label = type_name(cls)
        self.kinds = frozenset({cls})  # `wire` stays open: a RootModel lowers to anything
        self._cls = cls
        self._adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(cls)

    def lower(self, value: Any) -> Any:
        if type(value) is not self._cls:
            raise self.refuse(value)
        try:
            lowered = self._adapter.dump_python(
                value, mode="json", round_trip=True, by_alias=not _BY_NAME, warnings="error"
            )
            restored = self.restore(lowered)
        except Exception as exc:  # validators and serializers are users' code
            raise Refusal(f"{self.label} does not take its own JSON: {type(exc).__name__}: {exc}") from exc
        if lowered is None or not alike(value, restored):  # None has a meaning of its own
            raise Refusal(f"{self.label} does not come back equal from its own JSON")
        return lowered

    def restore(self, lowered: Any) -> Any:
        # As JSON, not as Python: strict models take "2024-02-29" for a date only there.
        data = pydantic_core.to_json(lowered, inf_nan_mode="constants")
        if _BY_NAME:
            return self._adapter.validate_json(data, by_name=True, by_alias=False)
        return self._adapter.validate_json(data)
