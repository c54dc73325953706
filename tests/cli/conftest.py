from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path[:0] = [
    str(Path(__file__).parent),
    str(Path(__file__).parent.parent / "monitoring"),
]  # for command, fleet_worker


@pytest.fixture
def environ() -> dict[str, str]:
    """The environment of commands and workers: no cache variables of whoever runs the tests, the library from its sources."""
    import tiercast

    foreign = ("TIERCAST_", "PROMETHEUS_", "CACHE_", "REDIS_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    clean["PYTHONPATH"] = str(Path(tiercast.__file__).parent.parent)
    clean["PYTHONWARNINGS"] = "error"
    clean["NO_COLOR"] = "1"
    return clean
