"""The README's example runs as it is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example() -> str:
    """The one block of Python in the README."""
    (found,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return found


def test_the_example_runs_as_printed(tmp_path: Path) -> None:
    """Pasted into a file, it asks once, and once more after the invalidation."""
    script = tmp_path / "example.py"
    script.write_text(example(), encoding="utf-8")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("TIERCAST_", "CACHE_", "REDIS_"))
    }
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "asking for tea\n3 3\nasking for tea\n5\n"


def test_the_example_is_short_and_is_examples_quickstart() -> None:
    """It has at most 12 lines of code, and lies in examples/ too."""
    text = example()
    assert len([line for line in text.splitlines() if line.strip()]) <= 12
    assert (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8").endswith(text)


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    """`make demo` and `make test`, and nothing else, are what a reader is told to run."""
    told = re.findall(r"^make (\S+)", README, re.MULTILINE)
    assert ["demo", "test"] == told
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in told)


def test_it_says_what_it_is_for_in_a_few_sentences() -> None:
    """The paragraph below the title is short."""
    paragraph = README.split("\n\n")[1]
    assert len(re.findall(r"[.!?](?:\s|$)", paragraph)) <= 3
