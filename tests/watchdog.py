"""A process that outlives the tests by a moment and removes what they could not: servers and their directories.

It holds the reading end of a pipe. When the test process ends, in whatever way, the pipe closes; then it kills
the processes it was told of. (Linux's PR_SET_PDEATHSIG would strike as soon as the *thread* that started a server
ends, and macOS has none.)
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import os, shutil, signal, sys

kept = set()
for line in sys.stdin:
    sign, kind, what = line.rstrip("\\n").split(" ", 2)
    (kept.add if sign == "+" else kept.discard)((kind, what))
for kind, what in kept:
    if kind == "process":
        try:
            os.kill(int(what), signal.SIGKILL)
        except ProcessLookupError:
            pass
for kind, what in kept:
    if kind == "directory":
        shutil.rmtree(what, ignore_errors=True)
"""

_watchdog: subprocess.Popen[str] | None = None
_owner = 0


def _tell(line: str) -> None:
    global _watchdog, _owner  # noqa: PLW0603  one for each test process
    if _watchdog is None or _owner != os.getpid():
        _watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the tests
        )
        _owner = os.getpid()
        atexit.register(_close)
    assert _watchdog.stdin is not None
    _watchdog.stdin.write(line + "\n")
    _watchdog.stdin.flush()


def _close() -> None:
    global _watchdog  # noqa: PLW0603
    if _watchdog is not None and _owner == os.getpid():
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            _watchdog.communicate(timeout=10)
        _watchdog = None


def guard_process(pid: int) -> None:
    _tell(f"+ process {pid}")


def release_process(pid: int) -> None:
    """To be called before the process is waited for, so that its number cannot have been given to another."""
    _tell(f"- process {pid}")


def guard_directory(path: Path) -> None:
    _tell(f"+ directory {path}")


def release_directory(path: Path) -> None:
    _tell(f"- directory {path}")
