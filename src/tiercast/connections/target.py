"""Where Redis is: a connection string or a ready client, made into something that opens sockets.

redis-py opens, secures, authenticates and names every connection; from then on the socket is ours.
Its connection classes are used, its pools and clients are not: the pools of a sync and an asyncio
client know nothing of each other, retry behind a promised timeout, and cost more than the GET.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

from ..errors import ConfigError
from .base import Unavailable

SCHEMES: Final = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"
)  # fmt: skip

# Settings of a client's pool, or ones that would undo a bound promised here.
_NOT_TAKEN: Final = frozenset(
    "retry retry_on_timeout retry_on_error health_check_interval protocol decode_responses encoding encoding_errors "
    "parser_class socket_timeout socket_connect_timeout socket_read_size event_dispatcher himport_registry "
    "connection_pool cache cache_config legacy_responses max_connections timeout connection_class is_master "
    "check_connection".split()
)


@dataclass(frozen=True)
class Target:
    """One or more servers and how to open a connection to them.

    Attributes:
        kind: "single", "sentinel", "cluster", or "client" for a client without a socket (fakeredis).
        hosts: (host, port) of the server, of the Sentinels, or of some nodes of the Cluster.
        service: the Sentinels' name for the master.
        connection_class: redis-py's (sync) connection class.
        kwargs: its arguments, without host, port and timeouts.
        sentinel_kwargs: the same for the connections to the Sentinels.
        client: the client without a socket.
    """

    kind: str
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    connection_class: Any = None
    kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sentinel_kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    client: Any = None

    @property
    def name(self) -> str:
        """What messages call it; holds no password."""
        if self.kind == "client":
            return type(self.client).__name__
        if not self.hosts:
            return f"Redis at {self.kwargs.get('path', '?')}"
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"Redis master {self.service!r} of Sentinel {hosts}" if self.service else f"Redis at {hosts}"

    def at(self, host: str, port: int) -> Target:
        """Return the single server at that address, reached with the same credentials."""
        return replace(self, kind="single", hosts=((host, port),), service="")

    def find_master(self, timeout: float) -> Target:
        """Ask the Sentinels where the master is now (blocking); those that do not answer take `timeout` together."""
        from redis.exceptions import RedisError
        from redis.sentinel import Sentinel

        each = max(timeout / len(self.hosts) / 2, 0.05)
        limits = {"socket_timeout": each, "socket_connect_timeout": each, "retry": _no_retry()}
        sentinel = Sentinel(list(self.hosts), sentinel_kwargs={**self.sentinel_kwargs, **limits})  # type: ignore[no-untyped-call]
        try:
            host, port = sentinel.discover_master(self.service)  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            raise Unavailable(f"no master {self.service!r} known: {error}") from error
        finally:
            for client in sentinel.sentinels:
                client.close()
        return self.at(host, port)

    def connect(self, connect_timeout: float, timeout: float) -> socket.socket:
        """Open one authenticated connection to a single server (blocking).

        Args:
            connect_timeout: seconds for the TCP connection.
            timeout: seconds for each answer of the handshake.

        Raises:
            Unavailable: whatever is wrong: no server, wrong password, no such database.
        """
        from redis.exceptions import RedisError

        kwargs = dict(self.kwargs)
        if self.hosts:
            kwargs["host"], kwargs["port"] = self.hosts[0]
        connection = None
        try:
            # Version 2 of the protocol: one round trip less, and the same shapes of reply from every server.
            # Making it opens a file (redis-py looks its own version up), which fails where the process has too many.
            connection = self.connection_class(
                **kwargs,
                protocol=2,
                retry=_no_retry(),
                socket_connect_timeout=connect_timeout,
                socket_timeout=timeout,
            )
            connection.connect()
            taken = connection._sock
            if taken is None:
                raise Unavailable(f"{self.name}: {type(connection).__name__} keeps its socket to itself")
            # From here on redis-py knows of no socket, so nothing of it closes, times or reads this one.
            connection._sock = None
        except (RedisError, OSError, ValueError) as error:
            raise Unavailable(f"{self.name}: {error}") from error
        finally:
            if connection is not None:
                with contextlib.suppress(Exception):
                    connection.disconnect()
        return taken  # type: ignore[no-any-return]


def _no_retry() -> Any:
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return Retry(NoBackoff(), 0)


def from_url(url: str) -> Target:
    """Read a connection string.

    redis://, rediss://, unix://, redis+sentinel://host:port,host:port/service/db,
    redis+cluster://host:port,host:port; the last two also with rediss. Credentials and redis-py's
    query options go where they go in redis-py's own URLs; `sentinel_username` and
    `sentinel_password` are for the Sentinels themselves.

    Raises:
        ConfigError: the string cannot be read; the message does not repeat a password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ConfigError(f"connection_string: the scheme must be one of {', '.join(SCHEMES)}; got {scheme!r}")
    base, _, kind = scheme.partition("+")
    try:
        if not kind:
            return _single(url)
        return _several(base, kind, rest)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"connection_string ({scheme}://…): {error}") from error


def _parse(url: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return redis-py's connection class, its arguments, and what belongs to the Sentinels."""
    from redis.connection import Connection, parse_url

    parsed = dict(parse_url(url))  # type: ignore[no-untyped-call]
    connection_class = parsed.get("connection_class", Connection)
    ours = {name[9:]: parsed.pop(name) for name in list(parsed) if name.startswith("sentinel_")}
    kwargs = _taken(parsed)
    _try(connection_class, kwargs)
    return connection_class, kwargs, ours


def _try(connection_class: Any, kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that the connection class does not know, now rather than at the first read."""
    try:
        connection_class(**kwargs)
    except TypeError as error:
        raise ConfigError(
            f"connection_string: unknown option {str(error).partition('argument ')[2] or error}"
        ) from error


def _single(url: str) -> Target:
    parts = urlsplit(url)
    if parts.scheme == "unix" and not parts.path:
        raise ConfigError("connection_string: unix:// needs the path of the socket")
    if parts.scheme != "unix":
        database = parts.path.strip("/")
        if database and not database.isdecimal():
            raise ConfigError(f"connection_string: the database must be a number, got {database!r}")
    connection_class, kwargs, _ = _parse(url)
    if parts.scheme == "unix":
        return Target("single", (), "", connection_class, kwargs)
    host, port = kwargs.pop("host", "localhost"), kwargs.pop("port", 6379)
    return Target("single", ((host, port),), "", connection_class, kwargs)


def _several(base: str, kind: str, rest: str) -> Target:
    authority, slash, tail = rest.partition("/")
    if not slash:
        authority, mark, query = authority.partition("?")
        tail = mark + query
    path, mark, query = tail.partition("?")
    login, at, hosts = authority.rpartition("@")
    addresses = tuple(_address(host, 26379 if kind == "sentinel" else 6379) for host in hosts.split(",") if host)
    if not addresses:
        raise ConfigError(f"connection_string: {base}+{kind}:// names no host")
    parts = path.strip("/").split("/") if path.strip("/") else []
    service = parts.pop(0) if kind == "sentinel" and parts else ""
    if kind == "sentinel" and not service:
        raise ConfigError("connection_string: the name of the master is missing: redis+sentinel://host:port/name/0")
    if kind == "cluster" and parts not in ([], ["0"]):
        raise ConfigError("connection_string: a Cluster has only database 0")
    if parts and (len(parts) > 1 or not parts[0].isdecimal()):
        raise ConfigError(f"connection_string: the database must be a number, got {'/'.join(parts)!r}")
    database = f"/{parts[0]}" if parts else ""
    connection_class, kwargs, ours = _parse(f"{base}://{login}{at}host:1{database}{mark}{query}")
    kwargs.pop("host")
    kwargs.pop("port")
    return Target(kind, addresses, service, connection_class, kwargs, ours)


def _address(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.path or parts.query:
        raise ConfigError(f"connection_string: {text!r} is no host:port")
    return parts.hostname, parts.port or default


def _taken(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in kwargs.items()
        if name not in _NOT_TAKEN and not name.startswith(("maint", "orig_", "oss_"))
    }


def from_client(client: Any) -> Target:
    """Read where a ready client (sync or asyncio, or a pair of them) connects to; it is never used nor closed.

    Raises:
        ConfigError: it is no client of redis-py, nor built like one.
    """
    if isinstance(client, Sequence) and not isinstance(client, str) and client:
        client = next((one for one in client if one is not None), None)
    manager = getattr(client, "nodes_manager", None)
    if manager is not None:
        return _from_cluster(client, manager)
    pool = getattr(client, "connection_pool", None)
    if pool is None:
        raise ConfigError(f"client: {type(client).__name__} is no Redis client (it has no connection_pool)")
    if type(client).__module__.startswith("fakeredis") or pool.connection_class.__module__.startswith("fakeredis"):
        return Target("client", client=client)
    connection_class = _sync_class(pool.connection_class)
    kwargs = _taken(pool.connection_kwargs)
    manager = getattr(pool, "sentinel_manager", None)
    if manager is not None:
        hosts = tuple(_host_of(one.connection_pool.connection_kwargs) for one in manager.sentinels)
        return Target(
            "sentinel", hosts, pool.service_name, connection_class, kwargs, _taken(dict(manager.sentinel_kwargs))
        )
    if "path" in kwargs:
        return Target("single", (), "", connection_class, kwargs)
    host = _host_of(kwargs)
    kwargs.pop("host", None)
    kwargs.pop("port", None)
    return Target("single", (host,), "", connection_class, kwargs)


def _host_of(kwargs: Mapping[str, Any]) -> tuple[str, int]:
    return kwargs.get("host", "localhost"), int(kwargs.get("port", 6379))


def _from_cluster(client: Any, manager: Any) -> Target:
    from redis.connection import Connection, SSLConnection

    options = getattr(manager, "connection_kwargs", None) or getattr(client, "connection_kwargs", {})
    given = options.get("connection_class")
    secure = options.get("ssl") or (given is not None and "SSL" in given.__name__)
    kwargs = _taken(options)
    for name in ("host", "port", "ssl", "redis_connect_func", "connection_pool_class"):
        kwargs.pop(name, None)
    hosts = tuple((node.host, int(node.port)) for node in manager.startup_nodes.values())
    return Target("cluster", hosts, "", SSLConnection if secure else Connection, kwargs)


def _sync_class(connection_class: Any) -> Any:
    """Return the plain sync class for an asyncio or Sentinel-managed one; a class of the user's own stays."""
    import redis.connection as sync

    name = connection_class.__name__
    if connection_class.__module__.startswith("redis."):
        if "Unix" in name:
            return sync.UnixDomainSocketConnection
        return sync.SSLConnection if "SSL" in name else sync.Connection
    return connection_class
