"""The six stacks of tiers, and one way to drive a manager's sync and async operations alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiercast import CacheConfig, DistributedCacheConfig, LocalCacheConfig

STACKS = ("memory", "memory+disk", "memory+redis", "memory+disk+redis", "disk", "redis")


def patient(url: str | None, **more: Any) -> DistributedCacheConfig:
    """Return the settings of a Redis that is given time: what a busy machine takes for an answer must not be a miss."""
    return DistributedCacheConfig(
        **{"connection_string": url, "read_timeout": 10.0, "write_timeout": 10.0, "connect_timeout": 10.0, **more}
    )


def config_of(stack: str, directory: Path, redis_url: str | None, **more: Any) -> CacheConfig:
    """Return the configuration of a stack; `directory` and `redis_url` serve the tiers that want one."""
    parts = stack.split("+")
    disk = LocalCacheConfig(type="file", directory=directory) if "disk" in parts else None
    local: LocalCacheConfig | None = LocalCacheConfig() if "memory" in parts else None
    distributed = patient(redis_url) if "redis" in parts else None
    if parts == ["disk"]:
        local, disk = disk, None
    return CacheConfig(local=local, disk=disk, distributed=distributed, **more)


class Sync:
    """Calls a manager's operations in this thread."""

    kind = "sync"

    def __call__(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return operation(*args, **kwargs)

    def close(self) -> None:
        pass


class Async:
    """Calls the `…_async` twins, all on one event loop."""

    kind = "async"

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def __call__(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        twin = getattr(operation.__self__, f"{operation.__name__}_async")  # type: ignore[attr-defined]
        return self.loop.run_until_complete(twin(*args, **kwargs))

    def close(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
