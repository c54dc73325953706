"""The command line as its user runs it: a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


class Tiercast:
    """Runs `tiercast …` with an environment, at a width."""

    def __init__(self, environ: dict[str, str], **variables: str) -> None:
        self.environ = {**environ, "COLUMNS": "80", **variables}

    def run(self, *arguments: str, width: int = 80, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "tiercast.cli", *arguments],
            env={**self.environ, "COLUMNS": str(width)},
            input=text,
            stdin=None if text is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def __call__(self, *arguments: str, width: int = 80) -> str:
        """Run a command that succeeds; returns what it printed."""
        done = self.run(*arguments, width=width)
        assert done.returncode == 0, (done.stdout, done.stderr)
        assert done.stderr == ""
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """Run a command that succeeds, and read the JSON that it printed."""
        return json.loads(self(*arguments, "--json"))

    def findings(self, *arguments: str) -> dict[str, tuple[str, str, str]]:
        """Run the doctor, whatever it finds: check to (level, text, todo), the worst of each check."""
        done = self.run("doctor", "--json", *arguments)
        worst = ("ok", "note", "warning", "error")
        found: dict[str, tuple[str, str, str]] = {}
        for each in json.loads(done.stdout):
            level, check, text, todo = each["level"], each["check"], each["text"], each["todo"]
            if check not in found or worst.index(level) > worst.index(found[check][0]):
                found[check] = (level, text, todo)
        assert (done.returncode != 0) == any(level == "error" for level, _, _ in found.values())
        return found
