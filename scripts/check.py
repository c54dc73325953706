"""Run the checks of this repository: every one of them, whatever the others say; ends with 1 where one failed.

python scripts/check.py            all: the linters, the suite on the other Pythons, everything on this one
python scripts/check.py lint       only the linters and type checkers

Run by the development environment's interpreter. The suites mostly wait, so everything on this Python runs beside
the rest and is shown as it goes; of the rest each step is shown whole, once it has ended. The last line is pytest's
own closing line of everything on this Python.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = [name for name in ("src", "tests", "scripts", "examples", "benchmarks") if (ROOT / name).is_dir()]
TYPING_TESTS = ROOT / "tests" / "typing"

showing = threading.Lock()
"""Held by whoever writes: a step that is shown as it goes holds it until it ends."""


@dataclass
class Step:
    """One command, and what became of it: its exit status, its last line, and its seconds."""

    title: str
    command: list[str | Path]
    status: int = 0
    last_line: str = ""
    seconds: float = 0.0

    def run(self) -> None:
        """Run it, and show what it says when it has ended."""
        self._run(live=False)

    def run_live(self) -> None:
        """Run it, and show what it says at once; nobody else shows anything meanwhile."""
        with showing:
            self._run(live=True)

    def _run(self, *, live: bool) -> None:
        if live:
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
        said = b""
        while chunk := os.read(process.stdout.fileno(), 65536):  # dots as they come, not line by line
            said += chunk
            if live:
                write(chunk)
        self.status = process.wait()
        self.seconds = time.monotonic() - begun
        lines = said.decode(errors="replace").split("\n")
        self.last_line = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if not live:
            with showing:
                write(f"\n=== {self.title}\n".encode() + said)


def write(output: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()


def run_all(steps: list[Step]) -> None:
    """Run one step after the other."""
    for step in steps:
        step.run()


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
    """The suite without fault runs and packaging, on each other supported Python of this machine."""
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
    begun = time.monotonic()
    steps = lint_steps(Path(sys.executable).parent)
    if arguments == ["lint"]:
        run_all(steps)
    else:
        steps += other_suites()
        everything = Step(f"everything on Python {sys.version.split()[0]}", [sys.executable, "-m", "pytest"])
        with ThreadPoolExecutor(1) as beside:
            rest = beside.submit(run_all, list(steps))
            everything.run_live()
            rest.result()
        steps.append(everything)
    failed = [step for step in steps if step.status]
    print(f"\n=== {len(steps) - len(failed)} of {len(steps)} steps are good, {time.monotonic() - begun:.0f} s")
    for step in steps:
        print(f"{'FAILED' if step.status else 'ok':6} {step.seconds:6.1f} s  {step.title}")
    if arguments != ["lint"]:
        print(steps[-1].last_line)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
