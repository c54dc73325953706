from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `from fleet_worker import ...`


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of worker processes: no cache variables of whoever runs the tests, the library from its sources."""
    import tiercast

    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("TIERCAST_", "PROMETHEUS_", "CACHE_"))
    }
    clean["PYTHONPATH"] = str(Path(tiercast.__file__).parent.parent)
    clean["PYTHONWARNINGS"] = "error"
    return clean
