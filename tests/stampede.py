"""One process of a stampede: python stampede.py '{…}'; says "ready", and begins when it is told.

Threads and tasks ask for one cold key at once. Each call of the loader leaves a file whose name holds the process's id;
it ends when the file "release" appears. At last one JSON line says what was answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import self_audit
from stacks import config_of
from tiercast import CacheManager, CoherenceConfig


def main(
    stack: str, directory: str, url: str | None, lock_ttl: float, max_staleness: float, threads: int, tasks: int
) -> None:
    self_audit.install()
    place = Path(directory)
    coherence = CoherenceConfig(max_staleness=max_staleness, heartbeat=max_staleness / 5)
    config = config_of(stack, place / "cache", url, lock_ttl=lock_ttl, coherence=coherence)
    cache = CacheManager(config)
    cache.coherence.start(20)
    lock = threading.Lock()
    calls = 0

    def began() -> None:
        nonlocal calls
        with lock:
            calls += 1
            name = f"load-{os.getpid()}-{calls}"
        (place / name).touch()

    def load() -> dict[str, Any]:
        began()
        while not (place / "release").exists():
            time.sleep(0.005)
        return {"by": os.getpid()}

    async def load_async() -> dict[str, Any]:
        began()
        while not (place / "release").exists():
            await asyncio.sleep(0.005)
        return {"by": os.getpid()}

    answers: list[Any] = []

    def call() -> None:
        try:
            answers.append(cache.get_or_set("cold", load)["by"])
        except Exception as exc:
            answers.append(repr(exc))

    async def gather() -> None:
        got = await asyncio.gather(
            *(cache.get_or_set_async("cold", load_async) for _ in range(tasks)), return_exceptions=True
        )
        answers.extend(each["by"] if isinstance(each, dict) else repr(each) for each in got)

    print("ready", flush=True)
    sys.stdin.readline()
    callers = [threading.Thread(target=call) for _ in range(threads)]
    for caller in callers:
        caller.start()
    asyncio.run(gather())
    for caller in callers:
        caller.join()
    stats = cache.stats()
    cache.close()
    print(json.dumps({"answers": answers, "loads": stats["loads"], "cpu": time.process_time()}), flush=True)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
