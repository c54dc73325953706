"""What every command begins with: a configuration, the runtime made of it, and how failures end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import attrs
from rich.console import Console

from ..coherence.log import LogUnavailable
from ..config import CacheConfig, MonitoringConfig
from ..errors import ConfigError, TiercastError
from ..manager import CacheManager

console = Console(highlight=False, soft_wrap=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

FAILED = 1
"""The exit code of a command that could not do what it was asked."""
MISUSED = 2
"""That of one that was asked nonsense, or whose configuration is wrong."""


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Say what went wrong and end."""
    errors.print(f"[red]tiercast:[/red] {escape(message)}")
    sys.exit(code)


def escape(text: str) -> str:
    """Return text in which nothing is taken for markup, and no control character reaches the terminal."""
    from rich.markup import escape as plain

    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in text
    )
    return plain(shown)


def configuration(file: Path | None) -> CacheConfig:
    """Return what the file, or without one the environment, says; without exporting and measuring."""
    try:
        config = CacheConfig.from_file(file) if file is not None else CacheConfig.from_env()
        return attrs.evolve(config, monitoring=MonitoringConfig(enabled=False))
    except ConfigError as exc:
        refuse(exc)


def refuse(error: ConfigError) -> NoReturn:
    """Say what is wrong with the configuration and end."""
    fail(f"the configuration is wrong: {error}", MISUSED)


@contextmanager
def opened(file: Path | None, *, shared: bool = True) -> Iterator[CacheManager]:
    """Open a manager that is no member of the fleet until it is used.

    Args:
        file: the configuration's; None: the environment.
        shared: refuse a configuration that no other process can share.
    """
    config = configuration(file)
    try:
        manager = CacheManager(config)  # some of it is looked at only when it is put to use
    except ConfigError as exc:
        refuse(exc)
    if shared and manager._runtime.log.kind == "memory":
        fail(
            "the configuration has neither Redis nor a directory, so there is nothing that this process could see of others; "
            "name one with --config, TIERCAST_CONFIG or REDIS_URL",
            MISUSED,
        )
    try:
        with manager:
            yield manager
    except LogUnavailable as exc:
        fail(f"the log cannot be reached: {exc}")
    except TiercastError as exc:
        fail(str(exc))
