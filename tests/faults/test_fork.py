"""Forking at any moment (G9): children work, nothing hangs, no socket is shared, memory is kept and not trusted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from servers import RedisServer
from stacks import STACKS

pytestmark = pytest.mark.fault

TESTS = Path(__file__).resolve().parent.parent


def config_of(stack: str, directory: Path, url: str | None) -> dict[str, Any]:
    parts = stack.split("+")
    config: dict[str, Any] = {"name": "forking", "local": {} if "memory" in parts else None, "lock_ttl": 1.0}
    if "disk" in parts:
        config["disk"] = str(directory)
    if "redis" in parts:
        config["distributed"] = url
    return config


@pytest.mark.parametrize("stack", STACKS)
def test_a_preloaded_manager_is_forked_eight_times_while_threads_are_busy_in_it(
    stack: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Parent and children go on, each with sockets and a membership of its own, and hear each other."""
    server: RedisServer | None = request.getfixturevalue("own_redis") if "redis" in stack else None
    config = config_of(stack, tmp_path / "cache", server.url if server else None)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "faults.forking", json.dumps(config)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["errors"], report["hanging"], report["works"]) == ([], 0, "works")
    assert report["told"] is None
    members = {report["member"]}
    for number, seen in enumerate(report["children"]):
        assert "raised" not in seen, seen["raised"]
        assert (seen["errors"], seen["hanging"]) == ([], 0)
        assert seen["own"] in ({number, None} if stack == "disk" else {number})
        if stack == "memory":
            assert seen["loads_of_one"] == 1, "a child of a memory-only manager caches"
        else:
            assert seen["preloaded"] == "preloaded"
            assert seen["loads"] == 0, "what the parent had loaded was loaded again"
        if stack.startswith("memory+"):
            assert (seen["kept"], seen["from_memory"]) == (True, 1), "memory was proven, and thrown away nonetheless"
        assert not seen["proven_at_once"]
        assert seen["proven"]
        assert seen["shared"] == 0
        members.add(seen["member"])
    assert len(members) == (1 if stack == "memory" else 9)
    if server is not None:
        left = [client for client in clients(server) if client["name"] != "probe"]
        assert not left, "connections were left open"


def clients(server: RedisServer) -> list[dict[str, str]]:
    with server.client() as client:
        client.client_setname("probe")
        return list(client.client_list())
