"""Row 13: what it costs to import the library, in fresh interpreters, in turn."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from statistics import median

from measure import Row, Settings, both, compare, quotient

STATEMENTS = {
    "tiercast": "import tiercast",
    "manager": "from tiercast import CacheManager",
    "in use": "import tiercast; tiercast.CacheManager(tiercast.CacheConfig()).set('k', 1)",
    "redis": "import redis",
    "cashews": "import cashews",
    "cachetools": "import cachetools",
}


def imports(settings: Settings) -> Iterator[Row]:
    taken: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    # Everybody's byte code is written once and read after that, whatever this shell says.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(settings.directory / "byte-code")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for number in range(settings.rounds(21) + 1):
        for name, statement in STATEMENTS.items():
            seconds = _seconds(statement, environment)
            if number:  # the first writes and reads the byte code
                taken[name].append(seconds)
    settings.figures["imports"] = {name: median(times) for name, times in taken.items()}
    yield compare(
        "13", "`import tiercast` : `import redis`", taken, "tiercast", "redis", 0.5,
        note="its names are imported when they are first used",
    )  # fmt: skip
    yield compare("13.manager", "`from tiercast import CacheManager` : `import redis`", taken, "manager", "redis", 0.5,
                  known=1.4)  # fmt: skip
    yield Row("13.use", "import, make a manager of memory and set a key : `import redis`",
              quotient(taken, "in use", "redis"), measured=both(taken, "in use", "redis"))  # fmt: skip


def _seconds(statement: str, environment: dict[str, str]) -> float:
    program = f"from time import perf_counter; b = perf_counter(); {statement}; print(perf_counter() - b)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout)
