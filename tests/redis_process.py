"""One real redis-server for tests, and how it is found, watched and waited for."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import watchdog

START_SECONDS = 30.0
FETCHED = Path(__file__).resolve().parent.parent / ".cache" / "redis" / "redis-server"


def find_server() -> str | None:
    """The path of the server binary: REDIS_SERVER_BINARY, PATH, or what scripts/redis_server.py fetched."""
    chosen = os.environ.get("REDIS_SERVER_BINARY") or shutil.which("redis-server")
    return chosen or (str(FETCHED) if FETCHED.exists() else None)


def wait_until(holds: Callable[[], object], seconds: float = START_SECONDS, what: str = "") -> None:
    """Wait until a condition holds; OSError and RedisError count as "not yet". Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    last: Exception | None = None
    while True:
        try:
            if holds():
                return
        except (OSError, redis.RedisError) as exc:
            last = exc
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what or holds} not within {seconds} s (last: {last!r})")
        time.sleep(0.01)


def free_port() -> int:
    """A port below the ephemeral range, where no connection of anyone can take it while a server restarts.

    A Cluster node's bus takes the port plus 10,000, which is below that range as well.
    """
    while True:
        port = random.randrange(10_001, 20_000)
        with contextlib.suppress(OSError), socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + 10_000))
            return port


class ServerEndedError(Exception):
    """A server ended while its start was waited for."""


class RedisServer:
    """One redis-server process, started by `start` or by entering the context.

    Args:
        options: lines of the configuration at the first start (later: CONFIG SET); a sequence makes several lines.
        password: what the default user must give.
        users: ACL users, name to (password, rules), as in ``{"app": ("secret", "~* &* +@all")}``.
        unix: listen on a Unix socket as well; `unix_url` names it.
        tls: speak TLS only, with a certificate of a new authority; `ca_path` holds it and `url` names it.
        sentinel: be a Sentinel.
        binary: the server; by default what `find_server` finds.
        session: have a session of its own, which to Linux is a scheduling group of its own.
    """

    def __init__(
        self,
        *,
        options: Mapping[str, str | Sequence[str]] | None = None,
        password: str | None = None,
        users: Mapping[str, tuple[str, str]] | None = None,
        unix: bool = False,
        tls: bool = False,
        sentinel: bool = False,
        binary: str | None = None,
        session: bool = True,
    ) -> None:
        found = binary or find_server()
        if found is None:
            raise FileNotFoundError("no redis-server: see scripts/redis_server.py")
        self.binary = found
        self.options = dict(options or {})
        self.password = password
        self.users = dict(users or {})
        self.unix = unix
        self.session = session
        self.tls = tls
        self.sentinel = sentinel
        self.port = 0
        self.paused = False
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None

    # What tests ask

    @property
    def directory(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="tiercast-"))
            watchdog.guard_directory(self._directory)
        return self._directory

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server does not run"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    @property
    def url(self) -> str:
        return self._url(f":{quote(self.password, safe='')}@" if self.password else "")

    def url_for(self, user: str) -> str:
        """The URL by which an ACL user comes in."""
        return self._url(f"{quote(user, safe='')}:{quote(self.users[user][0], safe='')}@")

    @property
    def unix_url(self) -> str:
        credentials = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"unix://{credentials}{self.directory}/redis.sock"

    @property
    def ca_path(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def log(self) -> str:
        return (self.directory / "server.log").read_text(errors="replace")

    def client(self, **options: Any) -> redis.Redis:
        """A client that never tries twice; close it, or use it in a `with`."""
        settings = {"decode_responses": True, "socket_timeout": 5, "retry": Retry(NoBackoff(), 0), **options}
        return redis.Redis.from_url(self.url, **settings)

    def execute(self, *command: Any) -> Any:
        """Send one command on a connection of its own; from any thread."""
        with self.client() as client:
            return client.execute_command(*command)

    # What tests do to it

    def start(self) -> Self:
        """Start, on the port it had before where it had one, and wait until it answers."""
        assert not self.running, "the server runs already"
        chosen = self.port
        while True:
            self.port = chosen or free_port()
            if not chosen or not self._configuration.exists():  # CONFIG REWRITE and Sentinels change it
                self._write_configuration()
            arguments = [self.binary, self._configuration.name, *(["--sentinel"] if self.sentinel else [])]
            with (self.directory / "server.log").open("wb") as log:
                self._process = subprocess.Popen(
                    arguments,
                    cwd=self.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=self.session,
                )
            watchdog.guard_process(self._process.pid)
            with contextlib.suppress(ServerEndedError):
                wait_until(self._answers, what="an answer from the server")
                return self
            log_text = self.log
            self._reap()
            if chosen or "Address already in use" not in log_text:
                raise RuntimeError(f"{self.binary} ended at once:\n{log_text}")

    def stop(self) -> None:
        """End it without saving; does nothing where it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._end(signal.SIGKILL)

    def restart(self, *, empty: bool = False) -> None:
        """Stop and start on the same port, with everything it held or with nothing. Its run id changes."""
        if empty:
            self.stop()
            for name in ("dump.rdb", "appendonly.aof"):
                (self.directory / name).unlink(missing_ok=True)
            shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)
        elif self.running:
            self.resume()
            with contextlib.suppress(redis.ConnectionError):  # it answers by going away
                self.execute("SHUTDOWN", "SAVE")
            self.stop()
        self.start()

    def pause(self) -> None:
        """Stop its clock (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """Undo `pause`; does nothing where it is not paused."""
        if self.paused:
            os.kill(self.pid, signal.SIGCONT)
            self.paused = False

    def close(self) -> None:
        """End it and remove its directory; to be started again it would take a new one."""
        self.kill()  # SIGTERM is seen by a timer only, and nothing is to be kept
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            watchdog.release_directory(self._directory)
            self._directory = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if exc is not None:
            print(f"server {self.port} said last:\n{self.log[-4000:]}", file=sys.stderr)
        self.close()

    # How it does it

    @property
    def _configuration(self) -> Path:
        return self.directory / "redis.conf"

    def _url(self, credentials: str) -> str:
        if self.tls:
            return f"rediss://{credentials}127.0.0.1:{self.port}/0?ssl_ca_certs={self.ca_path}"
        return f"redis://{credentials}127.0.0.1:{self.port}" + ("" if self.sentinel else "/0")

    def _write_configuration(self) -> None:
        lines: dict[str, str | Sequence[str]] = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": f'"{self.directory}"',
        }
        if not self.sentinel:
            lines |= {"save": '""', "appendonly": "no", "repl-diskless-sync-delay": "0"}
        if self.unix:
            lines["unixsocket"] = f'"{self.directory}/redis.sock"'
        if self.password:
            lines["requirepass"] = f'"{self.password}"'
        if self.users:
            lines["user"] = [f"{name} on >{password} {rules}" for name, (password, rules) in self.users.items()]
        if self.tls:
            self._write_certificates()
            lines |= {"port": "0", "tls-port": str(self.port), "tls-auth-clients": "no"}
            lines |= {f"tls-{what}-file": f'"{self.directory}/server.pem"' for what in ("cert", "key")}
            lines["tls-ca-cert-file"] = f'"{self.ca_path}"'
        lines |= self.options
        text = "".join(
            f"{name} {value}\n"
            for name, values in lines.items()
            for value in ([values] if isinstance(values, str) else values)
        )
        self._configuration.write_text(text)

    def _write_certificates(self) -> None:
        if self.ca_path.exists():
            return
        import trustme  # only the TLS tests need it

        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca_path))
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
            str(self.directory / "server.pem")
        )

    def _answers(self) -> bool:
        if not self.running:
            raise ServerEndedError
        self.execute("PING")  # an error while it still loads
        # Somebody else's server may have taken the port first; then ours is about to end.
        return bool(self.execute("INFO", "server")["process_id"] == self.pid)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(how)
            self.resume()  # what is stopped does not see SIGTERM
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._reap()

    def _reap(self) -> None:
        assert self._process is not None
        self._process.kill()  # does nothing where it has ended
        watchdog.release_process(self._process.pid)
        self._process.wait()
        self._process = None
        self.paused = False
