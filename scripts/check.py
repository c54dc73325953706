"""Run the checks of this repository: every one of them, whatever the others say; ends with 1 where one failed.

python scripts/check.py            all: the linters, the suite on the other Pythons, everything on this one, the quick benchmarks
python scripts/check.py lint       only the linters and type checkers

Run by the development environment's interpreter. The suites mostly wait, so everything on this Python runs beside
all the rest but the benchmarks, which come last and alone. It is shown as it goes, the rest after it, each step
whole; then come a line for each step, what failed, and its closing line once more.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = [name for name in ("src", "tests", "scripts", "examples", "benchmarks") if (ROOT / name).is_dir()]
TYPING_TESTS = ROOT / "tests" / "typing"


@dataclass
class Step:
    """One command, and what became of it: its exit status, what it said, and its seconds."""

    title: str
    command: list[str | Path]
    status: int = 0
    said: bytes = b""
    seconds: float = 0.0

    def run(self, *, live: bool) -> None:
        """Run it to its end. `live`: show what it says as it says it; else `show` does."""
        begun = time.monotonic()
        if live:
            print(f"\n=== {self.title}", flush=True)
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
        while chunk := os.read(process.stdout.fileno(), 65536):  # dots as they come, not line by line
            self.said += chunk
            if live:
                write(chunk)
        self.status = process.wait()
        self.seconds = time.monotonic() - begun

    def show(self) -> None:
        """Show what it said, whole."""
        print(f"\n=== {self.title}", flush=True)
        write(self.said)

    @property
    def lines(self) -> list[str]:
        """What it said, without the empty lines."""
        return [line.rstrip() for line in self.said.decode(errors="replace").split("\n") if line.strip()]

    @property
    def complaints(self) -> list[str]:
        """What of a failed step is worth saying again at the very end: pytest's summary of failures, else its last lines."""
        named = [line for line in self.lines if line.startswith(("FAILED ", "ERROR "))]
        return [line[:300] for line in named[:10] or self.lines[-5:]]


def write(output: bytes) -> None:
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()


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
    """What may differ between Pythons, on each other supported one of this machine.

    Left to the first are fault runs, packaging, and what is about the simulator more than about Python: its mutants
    and its million steps. Its forty worlds run on all.
    """
    own = ".".join(map(str, sys.version_info[:2]))
    listed = subprocess.run([ROOT / "scripts" / "pythons"], capture_output=True, text=True, check=True).stdout
    steps: list[Step] = []
    for line in listed.splitlines():
        minor, path = line.split(" ", 1)
        if minor == own or minor not in {"3.11", "3.12", "3.13"}:
            continue
        directory = ROOT / f".venv-{minor}"
        select = [
            "-m",
            "not fault and not soak",
            "--ignore=tests/packaging",
            "--ignore=tests/simulation/test_mutants.py",
        ]
        select += ["--deselect=tests/simulation/test_simulation.py::test_no_promise_is_broken_in_a_million_steps"]
        steps += [
            Step(f"environment for Python {minor}", [path, "scripts/environment.py", directory, "test"]),
            Step(
                f"suite on Python {minor}, without fault runs and mutants",
                [directory / "bin" / "python", "-m", "pytest", "-q", *select],
            ),
        ]
    return steps


def benchmarks() -> tuple[Step, Step]:
    """Their environment, and a quick run: it fails where a figure is off its target, or what is known, by a factor of two."""
    directory = ROOT / ".venv-bench"
    return (
        Step("environment for the benchmarks", [sys.executable, "scripts/environment.py", directory, "bench"]),
        Step("quick benchmarks", [directory / "bin" / "python", "benchmarks/run.py", "--quick"]),
    )


def main(arguments: list[str]) -> int:
    begun = time.monotonic()
    steps = lint_steps(Path(sys.executable).parent)
    if arguments == ["lint"]:
        for step in steps:
            step.run(live=True)
    else:
        environment, quick = benchmarks()
        steps += [*other_suites(), environment]
        everything = Step(f"everything on Python {sys.version.split()[0]}", [sys.executable, "-m", "pytest"])
        beside = ThreadPoolExecutor(1)
        try:
            rest = [beside.submit(step.run, live=False) for step in steps]
            everything.run(live=True)
            for each in rest:
                each.result()
        finally:
            beside.shutdown(cancel_futures=True)  # after Ctrl-C nothing more begins
        for step in steps:
            step.show()
        quick.run(live=True)
        steps = [*steps, quick, everything]
    failed = [step for step in steps if step.status]
    print(f"\n=== {len(steps) - len(failed)} of {len(steps)} steps are good, {time.monotonic() - begun:.0f} s")
    for step in steps:
        print(f"{'FAILED' if step.status else 'ok':6} {step.seconds:6.1f} s  {step.title}")
    for step in failed:
        print(f"--- {step.title}", *step.complaints, sep="\n")
    if arguments != ["lint"]:
        print(*steps[-1].lines[-1:])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
