"""The small examples run as printed, and say what the documentation says they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

SAYS = {
    "quickstart": "asking for tea\n3 3\nasking for tea\n5\n",
    "service": (
        "100 reports, 1 question: {'organization': 'acme', 'orders': 10}\n"
        "after the order: {'organization': 'acme', 'orders': 11}\n"
        "the other's is still cached: True\n"
        "Hello, Ada!\n"
        "Hello, Grace!\n"
    ),
    "own_tier": "from the tier below: Astana\n",
    "own_codec": "from the disk: [['EDDF', '4000'], ['UACC', '3505']]\n",
    "own_policy": "still cached: ['a', 'c']\n",
    "orm_events": (
        "  asking the database for user 7\n"
        "  asking the database for team 1\n"
        "Ada ['Ada']\n"
        "Ada ['Ada']\n"
        "after a rollback: Ada ['Ada']\n"
        "before the commit: Ada\n"
        "  asking the database for user 7\n"
        "  asking the database for team 1\n"
        "after the commit: Ada Lovelace ['Ada Lovelace']\n"
    ),
}


def run(name: str, tmp_path: Path) -> str:
    """Run an example as a reader would; every warning is an error, and nothing may be said on stderr."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("TIERCAST_", "CACHE_", "REDIS_"))
    }
    environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH")))),
        "TMPDIR": str(tmp_path),
        "PYTHONHASHSEED": "0",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [] == list(tmp_path.iterdir())
    return done.stdout


@pytest.mark.parametrize("name", SAYS)
def test_it_says_what_it_should(name: str, tmp_path: Path) -> None:
    """Each example ends well, leaves nothing behind and prints just this."""
    assert SAYS[name] == run(name, tmp_path)


def test_forked_workers_begin_warm_and_stay_true(tmp_path: Path) -> None:
    """Workers forked after the warm-up load nothing, and none knows what a sibling invalidated."""
    said = run("preload", tmp_path)
    before, after = said.split("the parent invalidates\n")
    assert before.count("loads") == 3
    for number in (0, 1):
        assert f"worker {number} serves Berlin, Astana from its parent's warm-up\n" in before
        assert f"worker {number} knows of Kazakhstan after the invalidation: None\n" in after
    assert "loads" not in after


@pytest.mark.parametrize("name", ["own_tier", "own_codec", "own_policy"])
def test_examples_of_extensions_are_short(name: str) -> None:
    """An extension takes less than 40 lines."""
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 40


def test_every_example_has_a_test() -> None:
    """Nothing lies in examples/ that no test runs."""
    runnable = {path.stem for path in EXAMPLES.glob("*.py") if not path.stem.startswith("fleet_")}
    assert runnable == {*SAYS, "preload", "fleet"}
