"""Connection strings: what they may say, checked without connecting.

    redis://[user:password@]host[:port][/db][?option=…]       one server; rediss:// with TLS
    unix://[user:password@]/path/to/socket[?db=0]             one server through a Unix socket
    redis+sentinel://host:port,host:port/service[/db]         the master of a Sentinel service
    redis+cluster://host:port,host:port                       a Cluster, from any of its nodes

The last two take TLS too: rediss+sentinel://, rediss+cluster://.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from .checks import shown

SCHEMES = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"
)  # fmt: skip

ENCODE = "must have / ? # @ [ ] in its user and password percent-encoded (# is %23, / is %2F)"


def hide_password(url: object) -> str:
    """Show a connection string without its password, whatever characters that holds: up to the last @, all is hidden."""
    if not isinstance(url, str):
        return repr(url)
    hidden = re.sub(r"(?s)(?<=://)([^/?#@:]*:)?.*(?=@)", r"\1***", url)
    return repr(re.sub(r"(?i)(?<=password=)[^&]*", "***", hidden))


def problem_of(url: str) -> str | None:
    """Say what is wrong with a connection string; None where nothing is. What it says holds no part of a password."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        return f"must begin with one of {known}"
    if any(char.isspace() or not char.isprintable() for char in url):
        return "must not hold spaces or control characters"
    if "#" in rest:
        return ENCODE
    wrong = _problem_of_parts(scheme, url)
    authority = re.match(r"[^/?]*", rest)
    assert authority is not None
    # A / or ? in a password ends the host where the password stands: what looks like a port is a part of it.
    path, _, query = rest[authority.end() :].partition("?")
    options = [part for part in query.split("&") if "=" not in part]
    return ENCODE if "@" in "".join(options) or (wrong and "@" in path + query) else wrong


def _problem_of_parts(scheme: str, url: str) -> str | None:
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2]
    except ValueError as exc:
        return ENCODE if "@" in url else str(exc)
    if scheme == "unix":
        return None if len(parts.path) > 1 else "must name a socket (unix:///path/to/socket)"
    several = "+" in scheme
    for host in hosts.split(",") if several else [hosts]:
        wrong = _problem_of_host(host)
        if wrong:
            return wrong
    path = parts.path.strip("/").split("/") if parts.path.strip("/") else []
    if scheme.endswith("+sentinel"):
        if not path:
            return "must name the Sentinel service (redis+sentinel://host:26379/service/0)"
        path = path[1:]
    return _problem_of_database(path, cluster=scheme.endswith("+cluster"))


def _problem_of_host(text: str) -> str | None:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[^:\[\]]+)(?::(.*))?", text)
    if match is None:
        return f"{shown(text)} is no host" if text else "must name a host"
    port = match[2]
    if port is not None and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65_535):
        return f"{shown(port)} is no port (1 to 65535)"
    return None


def _problem_of_database(path: list[str], *, cluster: bool) -> str | None:
    if not path:
        return None
    database = path[0]
    if len(path) > 1 or not (database.isascii() and database.isdigit() and len(database) <= 9):
        return f"{shown('/'.join(path))} is no database number"
    return "a Cluster has only database 0" if cluster and int(database) else None
