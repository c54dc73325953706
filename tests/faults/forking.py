"""A preloaded service that forks eight times while its threads are busy inside the manager.

Run as `python -m faults.forking CONFIG`. Prints one JSON object: what each child and the parent saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from tiercast import CacheConfig, CacheManager

CHILDREN = 8
KEYS = 50


def sockets() -> set[str]:
    """The TCP connections that this process has open, by inode."""
    table = Path("/proc/net/tcp")
    if not table.exists():  # not Linux: whoever can look, looks
        return set()
    connected = {line.split()[9] for line in table.read_text().splitlines()[1:]}
    found = set()
    for name in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            kind, _, inode = str(name.readlink()).partition(":")
            if kind == "socket" and inode.strip("[]") in connected:
                found.add(inode)
    return found


def busy(cache: CacheManager, number: int, stop: threading.Event, errors: list[str]) -> None:
    """What a thread of the service does all day."""
    rng = random.Random(number)
    try:
        while not stop.is_set():
            key = f"busy:{rng.randrange(KEYS)}"
            cache.get_or_set(key, lambda: "x" * rng.randrange(2000), tags=["busy"])
            draw = rng.random()
            if draw < 0.05:
                cache.set(key, "y")
            elif draw < 0.1:
                cache.invalidate_keys([key])
            elif draw < 0.12:
                cache.invalidate_tags(["busy"])
            elif draw < 0.14:
                cache.delete(key)
    except BaseException:
        errors.append(traceback.format_exc())


def busy_loop(cache: CacheManager, stop: threading.Event, errors: list[str]) -> None:
    async def reads() -> None:
        while not stop.is_set():
            key = f"busy:{random.randrange(KEYS)}"
            await cache.get_or_set_async(key, lambda: "z", tags=["busy"])
            await asyncio.sleep(0.001)

    async def all_reads() -> None:
        await asyncio.gather(*(reads() for _ in range(5)))

    try:
        asyncio.run(all_reads())
    except BaseException:
        errors.append(traceback.format_exc())


def child(cache: CacheManager, parents: set[str], number: int) -> dict[str, Any]:
    """What a worker process sees and does."""
    seen: dict[str, Any] = {}
    region = cache.current_region()
    kind = cache._runtime.log.kind
    seen["kept"] = region.memory is not None and region.memory.get("preloaded") is not None
    seen["proven_at_once"] = cache.coherence.status().proven and kind != "memory"
    loads: list[int] = []
    hits = region.counters.hits.value
    seen["preloaded"] = cache.get_or_set("preloaded", lambda: loads.append(1) or "loaded anew")
    seen["loads"] = len(loads)
    seen["from_memory"] = region.counters.hits.value - hits
    for _ in range(5):
        cache.get_or_set("once", lambda: loads.append(1) or "once")
    seen["loads_of_one"] = len(loads) - seen["loads"]
    if kind != "memory":
        cache.coherence.start(20)
    seen["proven"] = kind == "disk" or cache.coherence.status().proven  # on a disk others write all the time
    cache.set(f"child:{number}", number)
    seen["own"] = cache.get(f"child:{number}")
    seen["async"] = asyncio.run(cache.get_or_set_async(f"async:{number}", lambda: number))
    stop, errors = threading.Event(), []  # type: ignore[var-annotated]
    threads = [threading.Thread(target=busy, args=(cache, each, stop, errors)) for each in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join(20)
    seen["hanging"] = sum(thread.is_alive() for thread in threads)
    seen["errors"] = errors
    seen["member"] = cache.coherence.status().member
    seen["shared"] = len(sockets() & parents)
    cache.invalidate_keys(["told by a child"])
    cache.close()
    return seen


def main() -> None:
    # 3.12 warns of every fork of a process with threads, which is what this is about.
    warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
    cache = CacheManager(CacheConfig.from_dict(json.loads(sys.argv[1])))
    shared = cache._runtime.log.kind != "memory"
    cache.get_or_set("preloaded", lambda: "preloaded")
    cache.get_or_set("told by a child", lambda: "old")
    stop, errors = threading.Event(), []  # type: ignore[var-annotated]
    threads = [threading.Thread(target=busy, args=(cache, number, stop, errors)) for number in range(3)]
    threads.append(threading.Thread(target=busy_loop, args=(cache, stop, errors)))
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    pipes = []
    for number in range(CHILDREN):
        time.sleep(random.uniform(0.0, 0.05))
        reader, writer = os.pipe()
        before = sockets()
        pid = os.fork()
        if not pid:
            try:
                os.close(reader)
                seen = child(cache, before, number)
            except BaseException:
                seen = {"raised": traceback.format_exc()}
            with os.fdopen(writer, "w") as file:
                json.dump(seen, file)
            os._exit(0)
        os.close(writer)
        pipes.append((pid, reader))
    children = []
    for pid, reader in pipes:
        with os.fdopen(reader) as file:
            children.append(json.loads(file.read() or '{"raised": "it died"}'))
        os.waitpid(pid, 0)
    stop.set()
    for thread in threads:
        thread.join(20)
    told = None
    if shared:
        cache.coherence.settle()
        told = cache.get("told by a child")
    report = {
        "children": children,
        "errors": errors,
        "hanging": sum(thread.is_alive() for thread in threads),
        "told": told,
        "works": cache.get_or_set("after", lambda: "works"),
        "member": cache.coherence.status().member,
    }
    cache.close()
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
