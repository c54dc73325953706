"""The interpreter exits cleanly, whether or not anybody called close(): no output, no delay, status 0."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stacks import STACKS

HEAD = """
import asyncio, json, sys, threading, time
from tiercast import CacheConfig, CacheManager
cache = CacheManager(CacheConfig.from_dict(json.loads(sys.argv[1])))
"""

WAYS = {
    "never used": "",
    "used": "cache.set('k', 1); cache.get('k'); cache.get_or_set('l', lambda: 2)",
    "closed": "cache.set('k', 1); cache.close()",
    "closed twice": "cache.set('k', 1); cache.close(); cache.close()",
    "in a with": "with cache: cache.get_or_set('k', lambda: 1)",
    "async": "asyncio.run(cache.get_or_set_async('k', lambda: 1))",
    "async, closed": """
async def main():
    async with cache:
        await cache.get_or_set_async('k', lambda: 1)
asyncio.run(main())
""",
    "async, closed from outside": "asyncio.run(cache.get_or_set_async('k', lambda: 1)); cache.close()",
    "many loops": """
for number in range(5):
    asyncio.run(cache.get_or_set_async(f'k{number}', lambda: 1))
""",
    "while a daemon thread reads": """
def read():
    while True:
        cache.get_or_set('k', lambda: 1)
        cache.invalidate_keys(['k'])
threading.Thread(target=read, daemon=True).start()
time.sleep(0.2)
""",
    "closed while a thread waits for a load": """
thread = threading.Thread(target=lambda: cache.get_or_set('k', lambda: time.sleep(0.3)))
thread.start()
time.sleep(0.1)
cache.close()
""",
    "at exit": "import atexit; cache.set('k', 1); atexit.register(cache.close)",
    "sys.exit in a loop": """
async def main():
    await cache.set_async('k', 1)
    sys.exit(0)
asyncio.run(main())
""",
    "the manager collected": "cache.set('k', 1); del cache; import gc; gc.collect()",
}


WHOLE = "memory+disk+redis"
CASES = [(WHOLE, way) for way in WAYS] + [
    (stack, way) for stack in STACKS if stack != WHOLE for way in ("used", "closed", "async")
]


@pytest.mark.fault
@pytest.mark.parametrize(("stack", "way"), CASES)
def test_it_exits_cleanly(stack: str, way: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Threads, loops, files and connections end with the process, and say nothing about it."""
    parts = stack.split("+")
    config: dict[str, object] = {"local": {} if "memory" in parts else None}
    if "disk" in parts:
        config["disk"] = str(tmp_path / "cache")
    if "redis" in parts:
        config["distributed"] = request.getfixturevalue("redis_url")
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HEAD + WAYS[way], json.dumps(config)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
    assert time.monotonic() - began < 10
