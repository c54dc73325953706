"""A Redis server of the demo's own: on a free port, in a directory of its own, ended by its own process."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import redis

FINDER = Path(__file__).resolve().parent.parent / "scripts" / "redis_server.py"
START_SECONDS = 15.0


def find_server() -> str | None:
    """The server's path: TIERCAST_REDIS_SERVER, PATH, or what `make` has fetched; None where there is none."""
    chosen = os.environ.get("TIERCAST_REDIS_SERVER")
    spec = importlib.util.spec_from_file_location("redis_server", FINDER)
    if spec is None or spec.loader is None or not FINDER.exists():
        return chosen
    finder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(finder)
    found: str | None = finder.works(chosen) if chosen else finder.from_path() or finder.from_fetch()
    return found


class Server:
    """One redis-server without persistence: what is killed comes back empty."""

    def __init__(self, binary: str, directory: Path) -> None:
        self.binary = binary
        self.directory = directory
        directory.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: it does not.
        """
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": self.directory}
        command = [self.binary, *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.execute("PING")
            except redis.RedisError as exc:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.binary} does not answer on port {self.port}: {exc}") from exc
                time.sleep(0.02)
            else:
                return

    def execute(self, *command: str) -> object:
        """Send one command on a connection of its own."""
        with redis.Redis.from_url(self.url, socket_timeout=2, decode_responses=True) as client:
            return client.execute_command(*command)

    @property
    def version(self) -> str:
        info = self.execute("INFO", "server")
        return str(info["redis_version"]) if isinstance(info, dict) else "?"

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        """Lose everything, with hardly a pause."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop its clock: connections stay open, and nothing answers."""
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
