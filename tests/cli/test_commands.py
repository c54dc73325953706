"""The commands, run as a user would, beside a fleet at work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from command import Tiercast
from fleet_worker import Worker, working

from stacks import patient
from tiercast import CacheConfig, CacheManager, LocalCacheConfig, ScopeConfig, ScopeLevel
from tiercast.observing.fleet import library_version

SCOPES = ScopeConfig([ScopeLevel("organization", "org_id", [ScopeLevel("user", "user_id")])])
TOML = """
name = "shop"
[distributed]
connection_string = "{url}"
[[scopes]]
name = "organization"
param = "org_id"
children = [{{name = "user", param = "user_id"}}]
"""


@pytest.fixture
def workers(environ: dict[str, str], redis_url: str) -> Iterator[list[Worker]]:
    """Three processes of the fleet "shop", each of which has loaded the key "k" and asked for two that are not there."""
    with working(environ, 3, redis=redis_url, name="shop", hits=[10, 20, 30], misses=2) as workers:
        yield workers


@pytest.fixture
def tiercast(environ: dict[str, str], redis_url: str) -> Tiercast:
    return Tiercast(environ, REDIS_URL=redis_url, TIERCAST_NAME="shop")


@pytest.fixture
def cache(redis_url: str) -> Iterator[CacheManager]:
    config = CacheConfig(name="shop", scopes=SCOPES, distributed=patient(redis_url))
    with CacheManager(config) as manager:
        yield manager


@pytest.fixture
def configured(environ: dict[str, str], redis_url: str, tmp_path: Path) -> Tiercast:
    """The command line with a configuration file that knows scopes, and nothing in the environment."""
    file = tmp_path / "tiercast.toml"
    file.write_text(TOML.format(url=redis_url))
    return Tiercast(environ, TIERCAST_CONFIG=str(file))


class TestStatus:
    @pytest.mark.parametrize("width", [80, 160])
    def test_every_process_has_a_line(self, workers: list[Worker], tiercast: Tiercast, width: int) -> None:
        """Each process is one line that fits the terminal, with more figures where there is room."""
        lines = tiercast("status", width=width).splitlines()
        assert len(lines) == 5
        assert all(len(line) <= width for line in lines)
        assert lines[0].strip() == "fleet shop: 3 live"
        head = lines[1].split()
        assert head[:5] == ["process", "state", "position", "lag", "proven"]
        assert ("L3" in head) == ("outbox" in head) == (width == 160)
        for worker in workers:
            (line,) = [line for line in lines if f":{worker.process.pid} " in line]
            assert " live " in line
            assert line.rstrip().endswith(library_version())

    def test_as_json(self, workers: list[Worker], tiercast: Tiercast) -> None:
        """`--json` has everything, and the command itself is no process of the fleet."""
        found = tiercast.json("status")
        assert {each["pid"] for each in found} == {worker.process.pid for worker in workers}
        assert {each["lag"] for each in found} == {0}

    def test_watching(self, workers: list[Worker], tiercast: Tiercast) -> None:
        """`--watch` shows it again and again until it is interrupted, and ends well."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tiercast", "status", "--watch", "--interval", "0.1"],
            env={**tiercast.environ, "FORCE_COLOR": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            seen += f":{workers[0].process.pid}" in line
            if seen == 3:
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        process.stdout.close()
        assert process.wait(20) == 0

    def test_nobody_is_there(self, tiercast: Tiercast) -> None:
        """An empty fleet is a failure that names the fleet."""
        done = tiercast.run("status")
        assert done.returncode == 1
        assert "no process of the fleet 'shop' is there" in done.stderr

    def test_memory_alone_is_no_fleet(self, environ: dict[str, str]) -> None:
        """Without Redis and directory there is nothing to see, and the message says what to name."""
        done = Tiercast(environ).run("status")
        assert done.returncode == 2
        assert "REDIS_URL" in done.stderr

    def test_a_fleet_without_a_server(self, environ: dict[str, str], tmp_path: Path) -> None:
        """The processes of a host that share a directory are a fleet too."""
        config = CacheConfig(name="local", disk=LocalCacheConfig(type="file", directory=tmp_path / "cache"))
        file = tmp_path / "tiercast.toml"
        file.write_text(f'name = "local"\n[disk]\ntype = "file"\ndirectory = "{tmp_path / "cache"}"\n')
        with CacheManager(config) as cache:
            cache.coherence.start()
            cache.set("k", [1])
            tiercast = Tiercast(environ)
            (process,) = json.loads(tiercast("status", "--json", "--config", str(file)))
            assert process["pid"] == os.getpid()
            assert json.loads(tiercast("get", "k", "-c", str(file))) == [1]
            tiercast("invalidate", "--key", "k", "--yes", "--barrier", "5", "-c", str(file))
            assert cache.get("k") is None


def test_stats_are_of_all_processes(workers: list[Worker], tiercast: Tiercast) -> None:
    """`stats` adds up the live processes, for people and for programs."""
    found = tiercast.json("stats")
    said = [worker.said["stats"] for worker in workers]
    assert found["processes"] == 3
    assert found["hits"] == sum(each["hits"] for each in said)
    assert found["misses"] == sum(each["misses"] for each in said)
    assert found["hit_rate"] == found["hits"] / (found["hits"] + found["misses"])
    assert found["log"]["kind"] == "redis"
    assert len(found["members"]) == 3
    text = tiercast("stats")
    assert f"hits {' ' * 0}" in text
    assert str(found["hits"]) in text


class TestOneKey:
    def test_get_prints_the_value(self, workers: list[Worker], tiercast: Tiercast) -> None:
        """`get` prints the value as JSON, and fails where nothing is cached."""
        assert json.loads(tiercast("get", "k")) == {"n": 1}
        done = tiercast.run("get", "absent")
        assert done.returncode == 1
        assert done.stdout == ""
        assert "nothing is cached for 'absent'" in done.stderr

    def test_get_prints_what_json_cannot_say_as_text(self, cache: CacheManager, tiercast: Tiercast) -> None:
        """Keys that are no text, and text that has no UTF-8, are values like any other."""
        cache.set("pairs", {"in": [{(1, "a"): 1, 2: date(2024, 2, 29)}]})
        cache.set("lone", "\ud800")
        assert json.loads(tiercast("get", "pairs")) == {"in": [{"(1, 'a')": 1, "2": "2024-02-29"}]}
        assert json.loads(tiercast("get", "lone")) == "\ud800"

    def test_a_terminal_of_few_characters(self, cache: CacheManager, tiercast: Tiercast) -> None:
        """What standard output cannot encode is escaped, in JSON as JSON has it."""
        cache.set("k", "é☃")
        cache.invalidate_keys(["ключ"])
        environ = {**tiercast.environ, "PYTHONIOENCODING": "ascii"}
        said = {}
        for arguments in (("get", "k"), ("log", "tail", "--no-follow")):
            command = [sys.executable, "-m", "tiercast", *arguments]
            said[arguments[0]] = subprocess.run(command, env=environ, capture_output=True, check=True, text=True).stdout
        assert json.loads(said["get"]) == "é☃"
        assert "\\u043a" in said["log"]

    def test_inspect_says_where_it_is_and_since_when(self, workers: list[Worker], tiercast: Tiercast) -> None:
        """`inspect` shows the tier, the state, born, TTL and tags."""
        (holding,) = tiercast.json("inspect", "k")
        assert (holding["tier"], holding["state"], holding["born"], holding["tags"]) == (
            "remote",
            "alive",
            0,
            ["worker"],
        )
        assert 0 < holding["ttl"] <= 3600
        text = tiercast("inspect", "k")
        assert text.startswith("remote: alive")
        assert "B, json" in text
        assert "worker" in text

    @pytest.mark.parametrize(
        ("how", "kind", "target"),
        [
            (("--tag", "worker"), "tag", "worker"),
            (("--pattern", "k*"), "pattern", "|k*"),
            (("--scope", ""), "scope", ""),
        ],
    )
    def test_inspect_names_the_killer(
        self, workers: list[Worker], tiercast: Tiercast, how: tuple[str, str], kind: str, target: str
    ) -> None:
        """A dead entry is shown with the record that killed it and who appended it, and fails."""
        tiercast("invalidate", *how, "--yes")
        done = tiercast.run("inspect", "k", "--json")
        assert done.returncode == 1
        (holding,) = json.loads(done.stdout)
        assert holding["state"] == "dead"
        assert (holding["by"]["kind"], holding["by"]["position"], holding["by"]["target"]) == (kind, 1, target)
        assert holding["by"]["origin"]
        assert "killed by record 1" in tiercast.run("inspect", "k").stdout

    def test_a_deleted_key_is_a_tombstone(self, cache: CacheManager, tiercast: Tiercast) -> None:
        """What was deleted is shown as a tombstone with its fence."""
        cache.set("k", 1)
        cache.delete("k")
        done = tiercast.run("inspect", "k", "--json")
        (holding,) = json.loads(done.stdout)
        assert (holding["state"], holding["born"]) == ("tombstone", 2)
        assert 500 < holding["fence"] < 610
        assert (holding["by"]["kind"], holding["by"]["position"], holding["by"]["target"]) == ("key", 2, "k")
        assert "killed by record 2: key k" in tiercast.run("inspect", "k").stdout

    def test_scoped_keys(self, cache: CacheManager, configured: Tiercast) -> None:
        """A scope path names the entry of that scope and no other."""
        cache.set("k", "of u1", scope="user", org_id=7, user_id="u1")
        assert json.loads(configured("get", "k", "--scope", "organization:7/user:u1")) == "of u1"
        assert configured.run("get", "k").returncode == 1
        wrong = configured.run("get", "k", "--scope", "planet:7")
        assert wrong.returncode == 2
        assert "planet" in wrong.stderr

    def test_control_characters_do_not_reach_the_terminal(self, cache: CacheManager, tiercast: Tiercast) -> None:
        """A tag with an escape sequence is shown, not obeyed."""
        cache.set("k", 1, tags=["\x1b[31mred", "[bold]x"])
        text = tiercast("inspect", "k")
        assert "\x1b" not in text
        assert "\\x1b[31mred" in text
        assert "[bold]x" in text


class TestInvalidating:
    def test_it_reaches_every_process(self, workers: list[Worker], tiercast: Tiercast, cache: CacheManager) -> None:
        """With a barrier the command returns once every live process has applied it."""
        cache.coherence.start()
        text = tiercast("invalidate", "--tag", "worker", "--key", "a", "--yes", "--barrier", "10")
        assert text == "position 2, applied by every live process\n"
        assert cache.position().position == 2
        assert {each["position"] for each in tiercast.json("status")} == {2}

    def test_a_barrier_that_is_not_reached_fails(self, workers: list[Worker], tiercast: Tiercast) -> None:
        """A process that stands still is named, and the command fails."""
        stopped = workers[1].process
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            done = tiercast.run("invalidate", "--tag", "worker", "--yes", "--barrier", "0.5")
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
        assert done.returncode == 1
        assert f":{stopped.pid}:" in done.stderr

    def test_it_asks(self, workers: list[Worker], tiercast: Tiercast) -> None:
        """Where nobody can be asked, nothing is changed without `--yes`."""
        for command in (("invalidate", "--tag", "worker"), ("purge", "--tag", "worker")):
            done = tiercast.run(*command)
            assert done.returncode == 2
            assert "--yes" in done.stderr
        assert json.loads(tiercast("get", "k")) == {"n": 1}

    def test_it_must_be_told_what(self, tiercast: Tiercast) -> None:
        """Without a target nothing is invalidated, rather than everything."""
        for command in ("invalidate", "purge"):
            done = tiercast.run(command, "--yes")
            assert done.returncode == 2
            assert "--tag" in done.stderr

    def test_purge_removes_now(self, cache: CacheManager, configured: Tiercast) -> None:
        """`purge` counts what it removed from the shared tiers."""
        for number in range(5):
            cache.set(f"k{number}", 1, tags=["t"])
            cache.set(f"k{number}", 1, scope="organization", org_id=7)
        assert configured("purge", "--tag", "t", "--yes").splitlines()[1].split() == ["remote", "5"]
        text = configured("purge", "--scope", "organization:7", "--yes")
        assert text.splitlines()[1].split() == ["remote", "5"]

    def test_without_redis_it_fails(self, environ: dict[str, str]) -> None:
        """Nothing is queued in a command that ends: it says that the log cannot be reached."""
        tiercast = Tiercast(environ, REDIS_URL="redis://127.0.0.1:1/0")
        for command in (
            ("invalidate", "--tag", "t", "--yes"),
            ("status",),
            ("stats",),
            ("inspect", "k"),
            ("log", "tail"),
        ):
            done = tiercast.run(*command)
            assert done.returncode == 1, command
            assert "cannot be reached" in done.stderr
            assert "require_delivery" not in done.stderr  # no option of this command
            assert ("say it again" in done.stderr) == (command[0] == "invalidate")


class TestLog:
    def test_the_last_records(self, cache: CacheManager, tiercast: Tiercast) -> None:
        """`log tail` shows the last records, one a line."""
        cache.set("a", 1)
        cache.invalidate_tags(["t1", "t2"])
        cache.invalidate_pattern("user:*", soft=True)
        lines = tiercast("log", "tail", "--no-follow", width=160).splitlines()
        assert [line.split()[0] for line in lines] == ["1", "2", "3"]
        assert "key a in default" in lines[0]
        assert "tag t1, t2" in lines[1]
        assert "pattern (soft) user:*" in lines[2]
        (last,) = tiercast("log", "tail", "--no-follow", "-n", "1", "--json").splitlines()
        assert json.loads(last)["position"] == 3

    def test_it_follows(self, cache: CacheManager, tiercast: Tiercast) -> None:
        """Records are shown as they come, until it is interrupted."""
        cache.invalidate_tags(["before"])
        process = subprocess.Popen(
            [sys.executable, "-m", "tiercast", "log", "tail", "--json"],
            env=tiercast.environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["targets"] == ["before"]
        cache.invalidate_tags(["after"])
        assert json.loads(process.stdout.readline())["targets"] == ["after"]
        process.send_signal(signal.SIGINT)
        process.stdout.close()
        assert process.wait(20) == 0


def test_a_configuration_that_cannot_be(environ: dict[str, str], tmp_path: Path) -> None:
    """A wrong configuration ends every command with what is wrong in it."""
    file = tmp_path / "wrong.toml"
    file.write_text("[coherence]\nheartbeet = 1\n")
    done = Tiercast(environ).run("status", "--config", str(file))
    assert done.returncode == 2
    assert "heartbeat" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("url", "arguments", "says"),
    [
        ("redis://127.0.0.1:1/0?timeoot=1", ("status",), "unknown option 'timeoot'"),
        ("redis://127.0.0.1:1/0?timeoot=1", ("doctor",), "unknown option 'timeoot'"),
        (
            "redis://127.0.0.1:1/0",
            ("invalidate", "--tag", "t", "--yes", "--barrier", "-1"),
            "barrier must be greater than 0",
        ),
    ],
)
def test_nonsense_ends_without_a_traceback(
    environ: dict[str, str], url: str, arguments: tuple[str, ...], says: str
) -> None:
    """What is noticed only when it is put to use ends a command like what is noticed at once."""
    done = Tiercast(environ, REDIS_URL=url).run(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_help_fits_a_narrow_terminal(tiercast: Tiercast) -> None:
    """Help names every command, within 80 columns."""
    text = tiercast("--help")
    for command in ("status", "get", "inspect", "invalidate", "log", "purge", "stats", "doctor"):
        assert command in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_without_the_extra(environ: dict[str, str], tmp_path: Path) -> None:
    """Where typer is not installed, the command names the extra."""
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')")
    environ["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environ['PYTHONPATH']}"
    command = [sys.executable, "-m", "tiercast", "status"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "pip install 'tiercast[cli]'" in done.stderr
