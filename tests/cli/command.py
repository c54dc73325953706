"""The command line as its user runs it: a process of its own.

Nine tenths of the time of a command are its imports, so each is forked from one process that has made them.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_PROGRAM = """
import json, os, sys
import redis, tiercast.cli.app

for name in [name for name in sys.modules if name.startswith("tiercast.cli")]:
    del sys.modules[name]  # it looks at its terminal and its environment when it is imported
for line in sys.stdin:
    told = json.loads(line)
    child = os.fork()
    if not child:
        for number, (path, how) in enumerate(zip(told["files"], (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY))):
            os.dup2(os.open(path, how), number)
        os.environ.clear()
        os.environ.update(told["environ"])
        sys.argv = ["tiercast", *told["arguments"]]
        from tiercast.cli import main
        sys.exit(main())
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@functools.cache
def _forker(path: str) -> subprocess.Popen[str]:
    """The process that commands are forked from; `path`: where it finds the library."""
    forker = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        env={"PYTHONPATH": path, "PYTHONWARNINGS": "error"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(forker.communicate)
    return forker


class Tiercast:
    """Runs `tiercast …` with an environment, at a width."""

    def __init__(self, environ: dict[str, str], **variables: str) -> None:
        self.environ = {**environ, "COLUMNS": "80", **variables}

    def run(self, *arguments: str, width: int = 80) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        forker = _forker(self.environ["PYTHONPATH"])
        assert forker.stdin is not None
        assert forker.stdout is not None
        with tempfile.TemporaryDirectory() as directory:
            out, err = (Path(directory) / name for name in ("out", "err"))
            out.touch()
            err.touch()
            told = {
                "arguments": arguments,
                "environ": {**self.environ, "COLUMNS": str(width)},
                "files": [os.devnull, str(out), str(err)],
            }
            forker.stdin.write(json.dumps(told) + "\n")
            forker.stdin.flush()
            status = int(forker.stdout.readline())
            return subprocess.CompletedProcess(arguments, status, out.read_text(), err.read_text())

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
