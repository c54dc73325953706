"""Connection strings and ready clients."""

from __future__ import annotations

import pytest
import redis
import redis.asyncio

from tiercast.connections.target import from_client, from_url
from tiercast.errors import ConfigError


def test_urls_name_hosts_database_and_credentials():
    """Each scheme is read into the hosts, and redis-py's arguments without timeouts of its own."""
    single = from_url("redis://us%40er:p%2Fw@cache.example:6380/3?socket_timeout=9&client_name=me")
    assert ("single", (("cache.example", 6380),)) == (single.kind, single.hosts)
    assert {"username": "us@er", "password": "p/w", "db": 3, "client_name": "me"} == single.kwargs
    unix = from_url("unix:///run/redis.sock?db=2")
    assert ((), {"path": "/run/redis.sock", "db": 2}) == (unix.hosts, unix.kwargs)
    secure = from_url("rediss://h/0?ssl_ca_certs=/ca.pem")
    assert ("SSLConnection", "/ca.pem") == (secure.connection_class.__name__, secure.kwargs["ssl_ca_certs"])


def test_urls_of_sentinels_and_clusters():
    """Several hosts, the master's name, and credentials of the Sentinels apart from the server's."""
    target = from_url("redis+sentinel://u:p@a:1,[::1]:2,c/mymaster/4?sentinel_password=s")
    assert ("sentinel", (("a", 1), ("::1", 2), ("c", 26379)), "mymaster") == (target.kind, target.hosts, target.service)
    assert ({"username": "u", "password": "p", "db": 4}, {"password": "s"}) == (target.kwargs, target.sentinel_kwargs)
    cluster = from_url("rediss+cluster://:p@a:7000,b")
    assert ("cluster", (("a", 7000), ("b", 6379)), "SSLConnection") == (
        cluster.kind, cluster.hosts, cluster.connection_class.__name__,
    )  # fmt: skip


@pytest.mark.parametrize(
    "url",
    [
        "http://h", "localhost:6379", "redis://h:notaport/0", "redis://h/zero", "redis://h/0?no_such_option=1",
        "redis+sentinel://h:1", "redis+sentinel://h:1/m/x", "redis+sentinel:///m", "redis+cluster://", "redis+cluster://h/1",
        "unix://", "redis://h/0?db=x",
    ],
)  # fmt: skip
def test_malformed_urls_are_refused_naming_the_field(url):
    """ConfigError when made, not an error at the first read."""
    with pytest.raises(ConfigError, match="connection_string"):
        from_url(url)


def test_an_unknown_option_is_named():
    """As it was written, without a class of redis-py's."""
    with pytest.raises(ConfigError, match=r"^connection_string: unknown option 'timeoot'"):
        from_url("redis://h/0?timeoot=1")


def test_messages_hold_no_password():
    """Neither the name in the log nor a refusal repeats a secret."""
    target = from_url("redis+sentinel://u:hush@a:1/m")
    assert "hush" not in target.name + repr(target)
    with pytest.raises(ConfigError) as caught:
        from_url("redis://:hush@h/zero")
    assert "hush" not in str(caught.value)


def test_ready_clients_of_both_kinds_are_read():
    """Address and credentials are taken over; retries, timeouts and decoding are not."""
    options = {"host": "h", "port": 7, "password": "p", "db": 1, "decode_responses": True, "socket_timeout": 9}
    for client in (redis.Redis(**options), redis.asyncio.Redis(**options)):
        target = from_client(client)
        assert ((("h", 7),), redis.Connection, "p") == (
            target.hosts,
            target.connection_class,
            target.kwargs["password"],
        )
        assert target.kwargs.keys().isdisjoint({"retry", "socket_timeout", "decode_responses"})
        target.connection_class(**target.kwargs)
    sentinel = redis.sentinel.Sentinel([("s", 1), ("t", 2)], socket_timeout=1)
    target = from_client(sentinel.master_for("m", password="p"))
    assert ("sentinel", (("s", 1), ("t", 2)), "m", "p") == (
        target.kind, target.hosts, target.service, target.kwargs["password"],
    )  # fmt: skip
    assert redis.UnixDomainSocketConnection is from_client(redis.Redis(unix_socket_path="/s")).connection_class
    assert redis.SSLConnection is from_client((None, redis.asyncio.Redis(ssl=True))).connection_class


def test_what_is_no_client_is_refused():
    """ConfigError naming the field."""
    with pytest.raises(ConfigError, match="client: str is no Redis client"):
        from_client("redis://h")
