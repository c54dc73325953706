"""The servers that other tests rely on are real, separate, and obey."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster as ClusterClient
from redis.retry import Retry
from redis.sentinel import Sentinel

from servers import RedisCluster, RedisSentinel, RedisServer, TcpProxy, needs, wait_until


def client_of(url: str, seconds: float = 2.0) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True, socket_timeout=seconds, retry=Retry(NoBackoff(), 0))


def test_shared_server_is_empty_for_each_test(redis_url, redis_server):
    """`redis_url` hands out an empty database."""
    with client_of(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")
    assert redis_server.execute("DBSIZE") == 1


def test_own_server_keeps_or_loses_its_data(own_redis):
    """`restart` keeps everything, `restart(empty=True)` nothing; both keep the port and change the run id."""
    port, run_id = own_redis.port, own_redis.execute("INFO", "server")["run_id"]
    own_redis.execute("SET", "key", "value")
    own_redis.restart()
    assert own_redis.execute("GET", "key") == "value"
    assert port == own_redis.port
    assert run_id != own_redis.execute("INFO", "server")["run_id"]
    own_redis.restart(empty=True)
    assert own_redis.execute("GET", "key") is None


def test_killed_server_is_gone_and_comes_back(own_redis):
    """`kill` is a SIGKILL: connecting is refused until `start`."""
    own_redis.kill()
    with pytest.raises(redis.ConnectionError):
        own_redis.execute("PING")
    own_redis.start()
    assert own_redis.execute("PING")


def test_paused_server_hangs_until_resumed(own_redis):
    """`pause` stops the process: it takes connections and says nothing. It can be stopped while paused."""
    own_redis.pause()
    with client_of(own_redis.url, 0.1) as client, pytest.raises(redis.TimeoutError):
        client.ping()
    own_redis.resume()
    assert own_redis.execute("PING")
    own_redis.pause()
    own_redis.stop()
    assert not own_redis.running


def test_unix_socket_password_and_users(redis_server):
    """A server can listen on a Unix socket, want a password, and know ACL users."""
    with RedisServer(unix=True, password="p@ss", users={"reader": ("secret", "~* &* +get +ping")}) as server:
        with client_of(server.unix_url) as client:
            assert client.set("key", "value")
        with client_of(server.url_for("reader")) as client:
            assert client.get("key") == "value"
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.set("key", "other")
        with client_of(f"redis://127.0.0.1:{server.port}") as client, pytest.raises(redis.AuthenticationError):
            client.ping()


@needs("tls")
def test_tls():
    """A server can speak TLS by a certificate that its `url` names the authority of."""
    with RedisServer(tls=True) as server:
        assert server.url.startswith("rediss://")
        with client_of(server.url) as client:
            assert client.ping()


@needs("spublish")
def test_needs_lets_a_capable_server_pass(redis_server):
    """`needs` only lets tests through whose server has the capability."""
    assert redis_server.execute("SPUBLISH", "channel", "message") == 0


def test_servers_end_with_the_test_process(redis_server, tmp_path):
    """A test process that is killed leaves neither servers nor directories behind, paused ones included."""
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from servers import RedisServer\n"
        "server = RedisServer().start(); server.pause()\n"
        "print(server.pid, server.directory, flush=True); time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", program, str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid, directory = process.stdout.readline().split()
        assert Path(directory).is_dir()
        process.kill()

    def gone() -> bool:
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return not Path(directory).exists()
        # Where nobody collects orphans (a container without init) it remains as a zombie.
        state = Path(f"/proc/{pid}/stat")
        return (
            state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z" and not Path(directory).exists()
        )

    wait_until(gone, 10, "the end of the server")


def test_cluster_spreads_keys_over_three_masters(redis_cluster_url, redis_cluster):
    """The cluster is one to a cluster client, and its keys are on more than one node."""
    assert redis_cluster_url.startswith("redis+cluster://127.0.0.1:")
    with ClusterClient(host="127.0.0.1", port=redis_cluster.nodes[0].port, decode_responses=True) as client:
        for number in range(60):
            client.set(f"key:{number}", number)
        assert client.get("key:7") == "7"
    assert redis_cluster.master_of("key:7").execute("GET", "key:7") == "7"
    sizes = [node.execute("DBSIZE") for node in redis_cluster.masters]
    assert sum(sizes) == 60
    assert min(sizes) > 0


@pytest.mark.fault
def test_cluster_replica_takes_over():
    """With replicas, a killed master's slots are served again by its replica."""
    with RedisCluster(replicas=1) as cluster:
        cluster.masters[0].kill()
        wait_until(lambda: cluster.replicas[0].execute("INFO", "replication")["role"] == "master", 30)


def test_sentinel_names_the_master(redis_sentinel_url, redis_sentinel):
    """A Sentinel client finds the master, and the replica follows it."""
    assert redis_sentinel_url.endswith(f"/{RedisSentinel.service}/0")
    watcher = Sentinel([redis_sentinel.sentinel.address])
    assert watcher.discover_master(RedisSentinel.service) == redis_sentinel.master.address
    redis_sentinel.master.execute("SET", "key", "value")
    wait_until(lambda: redis_sentinel.replica.execute("GET", "key") == "value")
    for sentinel in watcher.sentinels:
        sentinel.close()


@pytest.mark.fault
def test_sentinel_fails_over_and_back(own_sentinel):
    """`failover` changes the roles and can be done again; a killed master is replaced by itself."""
    first = own_sentinel.master
    second = own_sentinel.failover()
    assert second is not first
    assert own_sentinel.failover() is first
    own_sentinel.master.kill()
    assert own_sentinel.wait_failover(first) is second


def test_proxy_passes_and_delays(redis_server, redis_url):
    """A proxy is a wire; a delayed one is a slow wire."""
    with TcpProxy(redis_url) as proxy, client_of(proxy.url) as client:
        assert client.set("key", "v" * 200_000)
        assert client.get("key") == "v" * 200_000
        proxy.delay(0.1)
        begun = time.monotonic()
        client.ping()
        assert 0.2 <= time.monotonic() - begun < 1.5


def test_proxy_blackholes_silently(redis_url):
    """A blackhole lets connections live and answers nothing; afterwards what was sent arrives."""
    with TcpProxy(redis_url) as proxy, client_of(proxy.url, 0.2) as client:
        client.ping()
        proxy.blackhole()
        with pytest.raises(redis.TimeoutError):
            client.set("key", "late")
        proxy.pass_through()
        wait_until(lambda: client.get("key") == "late", 5)


def test_proxy_cuts_resets_and_refuses(redis_url):
    """The loud faults: a reply cut in the middle, a reset, a refused connection; each ends with `pass_through`."""
    with TcpProxy(redis_url) as proxy, client_of(proxy.url) as client:
        client.set("key", "value")
        proxy.cut_mid_message(after=3)
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        assert client.get("key") == "value"
        proxy.reset()
        wait_until(lambda: proxy.connections == 0, 5)
        client.connection_pool.disconnect()
        proxy.refuse()
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        proxy.pass_through()
        assert client.get("key") == "value"


def test_proxy_reset_is_seen_as_a_reset(redis_server):
    """`reset` sends RST, not FIN: the peer sees ECONNRESET."""
    with TcpProxy(redis_server.url) as proxy, socket.create_connection(("127.0.0.1", proxy.port), 5) as peer:
        peer.sendall(b"PING\r\n")
        assert peer.recv(100) == b"+PONG\r\n"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            peer.recv(100)


def test_server_ends_only_its_own_process():
    """Two servers know nothing of each other: to kill one leaves the other."""
    with RedisServer() as one, RedisServer() as other:
        one.kill()
        assert other.execute("PING")
