"""Finding an object by its text "package.module:Name"."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import ConfigError


def load_object(spec: str) -> Any:
    """Import and return what "package.module:Name" names.

    Raises:
        ConfigError: it cannot be imported, or has no such name.
    """
    module, _, name = spec.partition(":")
    if not module or not name or module.startswith("."):
        raise ConfigError(f'{spec!r} is not of the form "package.module:Name"')
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as exc:
        raise ConfigError(f"{spec!r} cannot be imported: {exc}") from exc
    except AttributeError as exc:
        raise ConfigError(f"{spec!r}: module {module!r} has no {name!r}") from exc
