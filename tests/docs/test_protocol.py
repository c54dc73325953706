"""docs/protocol.md does what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from servers import RedisServer, capabilities
from tiercast.clock import SystemClock
from tiercast.coherence.records import Kind, Record, decode_message
from tiercast.coherence.redis_log import RedisLog
from tiercast.coherence.redis_scripts import SCRIPT
from tiercast.config import CoherenceConfig, DistributedCacheConfig
from tiercast.connections import RedisConnections
from tiercast.keys import encode_target
from tiercast.plans import drive

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The blocks of the page that are marked as tested."""
    return re.findall(rf"<!-- tested: tests/docs/test_protocol\.py -->\n```{language}\n(.*?)```", PAGE, re.DOTALL)


def run(command: str, directory: Path, url: str) -> str:
    """Run a shell command as a reader of the page would."""
    (directory / "log.lua").write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "REDIS_URL": url}
    done = subprocess.run(
        ["sh", "-euc", command], cwd=directory, env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def open_log(url: str) -> RedisLog:
    connections = RedisConnections(DistributedCacheConfig(connection_string=url, read_timeout=2.0))
    return RedisLog(connections, "shop", CoherenceConfig(), SystemClock())


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="no redis-cli is at hand")
def test_the_redis_cli_example_invalidates(tmp_path: Path, redis_url: str) -> None:
    """What a shell appended is heard on the bus and stands in the log, to the field."""
    (command,) = blocks("sh")
    log = open_log(redis_url)
    head = drive(log.read(("", 0))).head
    bus = log.listen()
    answer = run(command, tmp_path, redis_url)
    (message,) = bus.poll(5.0)
    records = (
        Record(Kind.TAG, "", ("product:17",), origin="billing", epoch=head.epoch, position=1),
        Record(
            Kind.KEY, "default", ("|user:123", "organization:7|report"), origin="billing", epoch=head.epoch, position=2
        ),
    )
    assert decode_message(message) == records
    assert drive(log.read((head.epoch, 0))).records == records
    assert [stamp.targets for stamp in drive(log.snapshot()).stamps] == [("product:17",)]
    assert head.epoch in answer
    bus.close()
    log._connections.close()


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="no redis-cli is at hand")
def test_the_documented_acl_suffices(tmp_path: Path, own_redis: RedisServer) -> None:
    """For the very first call and for the hundredth, which trims."""
    (command,) = blocks("sh")
    (rules,) = re.findall(r"```\nACL SETUSER billing on >secret (.*?)```", PAGE, re.DOTALL)
    given = rules.replace("\\\n", " ").split()
    if "spublish" not in capabilities():
        given.remove("+spublish")
    own_redis.execute("ACL", "SETUSER", "billing", "on", ">secret", *given)
    url = own_redis.url.replace("redis://", "redis://billing:secret@")
    answer = run(command, tmp_path, url)
    assert "NOPERM" not in answer
    answer = run(f"for round in $(seq 40); do {command} done" if command.endswith("\n") else command, tmp_path, url)
    assert "NOPERM" not in answer
    assert own_redis.execute("HGET", "tiercast:{shop}:log", "position") == "82"


def test_the_documented_message_is_one() -> None:
    """A reader that follows the page reads what tiercast writes."""
    (message,) = blocks("json")
    expected = Record(
        Kind.TAG, "", ("product:17",), origin="billing", sent=1760000000.5, epoch="9f86d081884c7d65", position=42
    )
    assert decode_message(message.strip()) == (expected,)


def test_the_documented_encoding_of_a_key_is_the_real_one() -> None:
    """The example in the text."""
    (key, target) = re.search(r"So the key `(.*?)` is the target `(.*?)`", PAGE).groups()  # type: ignore[union-attr]
    assert target == encode_target("", key)
