"""What importing tiercast costs, and who imports which optional dependency."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "tiercast"

# Imported when first used, never by `import tiercast`.
LATER = (
    "cachetools", "cattrs", "diskcache", "redis", "sqlite3",
    "google.protobuf", "msgpack", "opentelemetry", "prometheus_client", "pydantic", "pytest", "rich", "typer", "zstandard",
)  # fmt: skip
# Imported by one module, whose error names the extra. The command line's two share one.
ALONE = ("cattrs", "google.protobuf", "msgpack", "opentelemetry", "prometheus_client", "pydantic", "typer", "zstandard")

_PROGRAM = """
import json, sys, time
import asyncio, dataclasses, enum, typing, uuid, attr, attrs, orjson  # any service has these already
before, begun = set(sys.modules), time.perf_counter()
import tiercast
seconds = time.perf_counter() - begun
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""


def import_tiercast() -> tuple[float, list[str]]:
    """Import it in a fresh interpreter; returns the seconds and the modules that came with it."""
    shown = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    seconds, modules = json.loads(shown.stdout)
    return seconds, modules


def test_import_brings_nothing_that_is_not_used_yet():
    """`import tiercast` imports no Redis client, no disk cache, no cattrs and no extra."""
    _, modules = import_tiercast()
    assert [] == [name for name in modules if any(name == later or name.startswith(later + ".") for later in LATER)]


def test_import_is_quick():
    """`import tiercast` takes less than a tenth of a second (the best of three: machines are busy)."""
    assert min(import_tiercast()[0] for _ in range(3)) < 0.1


def imports_of(path: Path) -> set[str]:
    """The absolute modules that a file imports anywhere, in functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("dependency", ALONE)
def test_optional_dependency_is_imported_in_one_module(dependency):
    """Each optional dependency is imported in at most one module, which can then say which extra is missing."""
    importers = [
        str(path.relative_to(SOURCE))
        for path in sorted(SOURCE.rglob("*.py"))
        if any(name == dependency or name.startswith(dependency + ".") for name in imports_of(path))
    ]
    assert len(importers) <= 1, importers


@pytest.mark.parametrize(
    ("missing", "module", "extra"),
    [
        ("pytest", "tiercast.testing", "testing"),
        ("prometheus_client", "tiercast.monitoring.prometheus", "prometheus"),
        ("opentelemetry", "tiercast.monitoring.opentelemetry", "otel"),
    ],
)
def test_an_absent_dependency_names_the_extra(missing, module, extra):
    """Who has not installed an extra is told what to install, not which module of it is not there."""
    program = f"import sys; sys.modules[{missing!r}] = None; import {module}"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert f"pip install 'tiercast[{extra}]'" in shown.stderr.splitlines()[-1]
