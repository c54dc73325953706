"""The doctor, on what goes wrong."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command import Tiercast

from servers import RedisServer, wait_until
from stacks import patient
from tiercast import CacheConfig, CacheManager, LocalCacheConfig
from tiercast.cli.doctor import examine
from tiercast.coherence.log import Beat
from tiercast.observing.fleet import library_version
from tiercast.plans import drive


def doctor(environ: dict[str, str], url: str, **more: str) -> Tiercast:
    return Tiercast(environ, REDIS_URL=url, TIERCAST_NAME="shop", **more)


def test_all_is_well(environ: dict[str, str], redis_url: str) -> None:
    """A sound server passes every check, and what the probes wrote is gone."""
    found = doctor(environ, redis_url).findings()
    wanted = {"connection", "version", "eviction", "clock", "permissions", "fleet", "canary", "proof"}
    assert {check for check, (level, _, _) in found.items() if level == "ok"} >= wanted
    assert found["outbox"][0] == "note"


@pytest.mark.parametrize("width", [80, 160])
def test_what_is_shown_fits(environ: dict[str, str], redis_url: str, width: int) -> None:
    """Findings wrap below themselves and stay within the terminal."""
    done = doctor(environ, redis_url).run("doctor", width=width)
    assert done.returncode == 0
    assert all(len(line) <= width for line in done.stdout.splitlines())
    assert "ok      connection:" in done.stdout


def test_no_redis(environ: dict[str, str]) -> None:
    """A server that is not there: the check fails, says what to look at, and nothing more is asked."""
    found = doctor(environ, "redis://127.0.0.1:1/0").findings()
    level, text, todo = found["connection"]
    assert level == "error"
    assert "cannot be reached" in text
    assert "is the server running" in todo
    assert "permissions" not in found


def test_wrong_password(environ: dict[str, str]) -> None:
    """A password that is refused is told apart from a server that is not there, and is not printed."""
    with RedisServer(password="right") as server:
        for url in (server.url.replace("right", "wr0ng-secret"), f"redis://127.0.0.1:{server.port}/0"):
            found = doctor(environ, url).findings()
            level, text, todo = found["connection"]
            assert level == "error"
            assert "refuses the password" in text
            assert "connection string" in todo
            assert "wr0ng-secret" not in str(found)


def test_a_password_too_many(environ: dict[str, str], redis_url: str) -> None:
    """A server without a password refuses one; that is no matter of firewalls."""
    level, text, todo = doctor(environ, redis_url.replace("://", "://:x@")).findings()["connection"]
    assert level == "error"
    assert "refuses the password" in text
    assert "connection string" in todo


def test_no_such_database(environ: dict[str, str], redis_url: str) -> None:
    """A database that the server does not have is named as such."""
    level, text, todo = doctor(environ, f"{redis_url.rpartition('/')[0]}/999").findings()["connection"]
    assert level == "error"
    assert "no such database" in text
    assert "connection string" in todo


def test_a_user_who_may_only_read(environ: dict[str, str]) -> None:
    """A read-only user: each thing that it may not do is named with what to grant."""
    with RedisServer(users={"reader": ("secret", "~* &* -@all +@read +@connection +info +time")}) as server:
        found = doctor(environ, server.url_for("reader")).findings()
        level, text, todo = found["permissions"]
        assert level == "error"
        assert "permissions" in text.lower()
        assert "grant this user +get +set" in todo
        done = doctor(environ, server.url_for("reader")).run("doctor", width=160)
        for what in ("values", "the log", "scripts", "the bus"):
            assert f"permissions: {what}:" in done.stdout
        assert done.returncode == 1
        assert "checks failed" in done.stderr


def test_a_user_who_may_not_call_scripts_by_their_digest(environ: dict[str, str]) -> None:
    """Which is how all of them are called: to be allowed EVAL is not enough."""
    with RedisServer(users={"cache": ("secret", "~* &* +@all -evalsha")}) as server:
        level, text, todo = doctor(environ, server.url_for("cache")).findings()["permissions"]
        assert level == "error"
        assert "evalsha" in text
        assert "+evalsha" in todo


@pytest.mark.parametrize(
    ("policy", "limit", "level", "what"),
    [
        ("allkeys-lru", "100mb", "error", "the log itself"),
        ("volatile-ttl", "100mb", "error", "fences"),
        ("allkeys-lfu", "0", "warning", "not yet"),
        ("noeviction", "100mb", "ok", "noeviction"),
    ],
)
def test_eviction(environ: dict[str, str], policy: str, limit: str, level: str, what: str) -> None:
    """Policies that may drop what coherence needs are errors where there is a limit, and warnings where there is none yet."""
    with RedisServer(options={"maxmemory-policy": policy, "maxmemory": limit}) as server:
        found = doctor(environ, server.url).findings()["eviction"]
    assert found[0] == level
    assert what in found[1]
    assert ("noeviction" in found[2]) == (level != "ok")


class TestServersThatDoNotWrite:
    """What a server cannot do for anybody is told apart from what this user may not do."""

    def test_memory_is_full(self, environ: dict[str, str]) -> None:
        """At maxmemory under noeviction: more memory, not more rights."""
        with RedisServer(options={"maxmemory": "100kb", "maxmemory-policy": "noeviction"}) as server:
            level, text, todo = doctor(environ, server.url).findings()["memory"]
        assert level == "error"
        assert "OOM" in text
        assert "maxmemory" in todo

    def test_a_replica(self, environ: dict[str, str]) -> None:
        """A read-only replica: name the master."""
        with RedisServer() as master, RedisServer() as replica:
            replica.execute("REPLICAOF", "127.0.0.1", str(master.port))
            wait_until(lambda: replica.execute("INFO", "replication")["master_link_status"] == "up")
            level, text, todo = doctor(environ, replica.url).findings()["replica"]
        assert level == "error"
        assert "READONLY" in text
        assert "master" in todo

    def test_its_disk_is_full(self, environ: dict[str, str], own_redis: RedisServer) -> None:
        """A server that could not write its snapshot refuses writes: room on its disk."""
        own_redis.execute("CONFIG", "SET", "save", "3600 1")
        own_redis.execute("SET", "k", "v")
        (directory,) = own_redis.execute("CONFIG", "GET", "dir").values()
        (Path(os.fsdecode(directory)) / "dump.rdb").mkdir()  # what no snapshot can take the place of
        own_redis.execute("BGSAVE")
        wait_until(lambda: own_redis.execute("INFO", "persistence")["rdb_last_bgsave_status"] == "err")
        level, text, todo = doctor(environ, own_redis.url).findings()["persistence"]
        assert level == "error"
        assert "MISCONF" in text
        assert "disk" in todo


def test_a_fleet_of_the_same_name(environ: dict[str, str], redis_url: str) -> None:
    """Processes of another version under the same name are pointed out, with where they run."""
    config = CacheConfig(name="shop", distributed=patient(redis_url))
    with CacheManager(config) as cache:
        cache.coherence.start()
        drive(cache._runtime.log.beat(Beat("elsewhere:77:ab", "", 0, 30.0, '{"v":"0.0.1"}')))
        found = doctor(environ, redis_url).findings()
    level, text, todo = found["versions"]
    assert level == "warning"
    assert "elsewhere:77 (0.0.1)" in text
    assert library_version() in text
    assert "`name`" in todo


class TestDisks:
    @pytest.fixture
    def cache(self, tmp_path: Path) -> Iterator[CacheManager]:
        with CacheManager(CacheConfig(disk=LocalCacheConfig(type="file", directory=tmp_path / "cache"))) as manager:
            yield manager

    @pytest.mark.parametrize(("megabytes", "level"), [(10, "error"), (200, "warning"), (5000, "ok")])
    def test_a_full_disk(self, cache: CacheManager, megabytes: int, level: str) -> None:
        """Too little room is an error, little a warning."""

        def room(path: str) -> Any:
            return SimpleNamespace(f_bavail=megabytes * 256, f_frsize=4096)

        (found,) = [finding for finding in examine(cache, statvfs=room) if finding.check == "disk space"]
        assert found.level == level
        assert f"{megabytes} MB free" in found.text
        assert bool(found.todo) == (level != "ok")

    def test_a_disk_that_is_really_full(self, environ: dict[str, str], tmp_path: Path) -> None:
        """On a small file system that is full, the doctor says so and fails."""
        mount = tmp_path / "small"
        mount.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(mount)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("only root can mount a small file system")
        try:
            with (mount / "filler").open("wb") as file:
                try:
                    while True:
                        file.write(b"x" * 65_536)
                        file.flush()
                except OSError:
                    pass
            tiercast = Tiercast(environ, TIERCAST_DISK=str(mount / "cache"))
            found = tiercast.findings()
            assert found["disk space"][0] == "error"
            assert "0 MB free" in found["disk space"][1]
            assert found["fleet"][0] == "error"
            assert "proof" not in found  # nobody waits for what a log that cannot be read will not give
        finally:
            subprocess.run(["umount", "-l", str(mount)], check=True)

    def test_a_directory_that_everybody_may_write_to(self, cache: CacheManager, tmp_path: Path) -> None:
        """A directory that others can write to is refused with what to do."""
        directory = tmp_path / "cache"
        directory.mkdir(exist_ok=True)
        directory.chmod(0o777)
        (found,) = [finding for finding in examine(cache) if finding.check == "directory"]
        directory.chmod(0o700)
        assert found.level == "error"
        assert "chmod o-w" in found.text


def test_memory_alone(environ: dict[str, str]) -> None:
    """A cache of one process is no fault, but worth a note."""
    found = Tiercast(environ).findings()
    assert found["fleet"][0] == "note"


def test_the_documented_user_suffices(environ: dict[str, str]) -> None:
    """A user with the rights that docs/operating.md gives it passes every check, and the cache works with them."""
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
    (rules,) = [line.partition(">secret ")[2] for line in page.splitlines() if line.startswith("ACL SETUSER")]
    with RedisServer(users={"cache": ("secret", rules)}) as server:
        url = server.url_for("cache")
        found = doctor(environ, url).findings()
        assert {level for level, _, _ in found.values()} <= {"ok", "note"}
        config = CacheConfig(name="shop", distributed=patient(url))
        with CacheManager(config) as one, CacheManager(config) as other:
            one.set("k", 1, tags=["t"])
            other.coherence.start()
            assert other.get("k") == 1
            one.invalidate_tags(["t"], barrier=10)
            assert other.get("k") is None
            assert one.get_or_set("k", lambda: 2) == 2
            assert one.purge(region="default")["remote"] == 1
            assert one.monitor.check_health()["overall"]
