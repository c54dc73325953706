"""Run the checks of this repository: every one of them, whatever the others say; ends with 1 where one failed.

python scripts/check.py            all: the linters, the suite on the other Pythons, everything on this one
python scripts/check.py lint       only the linters and type checkers

Run by the development environment's interpreter. The last line is pytest's own closing line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = [name for name in ("src", "tests", "scripts", "examples", "benchmarks") if (ROOT / name).is_dir()]
TYPING_TESTS = ROOT / "tests" / "typing"


@dataclass
class Step:
    """One command, and what became of it: its exit status, its last line, and its seconds."""

    title: str
    command: list[str | Path]
    status: int = 0
    last_line: str = ""
    seconds: float = 0.0

    def run(self) -> None:
        print(f"\n=== {self.title}", flush=True)
        begun = time.monotonic()
        # Colours would have to be taken out of the closing line again.
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
        environment.pop("FORCE_COLOR", None)
        process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        tail = b""
        while chunk := os.read(process.stdout.fileno(), 65536):  # dots as they come, not line by line
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            tail = (tail + chunk)[-8192:]
        self.status = process.wait()
        self.seconds = time.monotonic() - begun
        lines = tail.decode(errors="replace").split("\n")
        self.last_line = next((line.strip() for line in reversed(lines) if line.strip()), "")


def lint_steps(bin_directory: Path) -> list[Step]:
    python = bin_directory / "python"
    steps = [
        Step("ruff check", [bin_directory / "ruff", "check", "--output-format=concise", *CODE]),
        Step("ruff format", [bin_directory / "ruff", "format", "--check", *CODE]),
        Step("mypy --strict", [python, "-m", "mypy", "--strict", "src/tiercast"]),
        Step("imports go down only", [bin_directory / "lint-imports", "--no-logo"]),
    ]
    if TYPING_TESTS.is_dir():
        steps.append(Step("basedpyright tests/typing", [bin_directory / "basedpyright", "--pythonpath", python]))
    else:
        print("tests/typing is not there: basedpyright has nothing to check", flush=True)
    return steps


def other_suites() -> list[Step]:
    """The suite without fault runs and packaging, on each other supported Python of this machine, one after another."""
    # One after another: tests that hold a time limit would disturb each other on two cores.
    own = ".".join(map(str, sys.version_info[:2]))
    listed = subprocess.run([ROOT / "scripts" / "pythons"], capture_output=True, text=True, check=True).stdout
    steps: list[Step] = []
    for line in listed.splitlines():
        minor, path = line.split(" ", 1)
        if minor == own or minor not in {"3.11", "3.12", "3.13"}:
            continue
        directory = ROOT / f".venv-{minor}"
        select = ["-m", "not fault and not soak", "--ignore=tests/packaging"]
        steps += [
            Step(f"environment for Python {minor}", [path, "scripts/environment.py", directory, "test"]),
            Step(
                f"suite on Python {minor}, without fault runs",
                [directory / "bin" / "python", "-m", "pytest", "-q", *select],
            ),
        ]
    return steps


def main(arguments: list[str]) -> int:
    bin_directory = Path(sys.executable).parent
    steps = lint_steps(bin_directory)
    if arguments != ["lint"]:
        steps += other_suites()
        # Last, so that its closing line is the last one. It holds the packaging check.
        steps.append(Step(f"everything on Python {sys.version.split()[0]}", [sys.executable, "-m", "pytest"]))
    begun = time.monotonic()
    for step in steps:
        step.run()
    failed = [step for step in steps if step.status]
    print(f"\n=== {len(steps) - len(failed)} of {len(steps)} steps are good, {time.monotonic() - begun:.0f} s")
    for step in steps:
        print(f"{'FAILED' if step.status else 'ok':6} {step.seconds:6.1f} s  {step.title}")
    if arguments != ["lint"]:
        print(steps[-1].last_line)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
