"""What the parts of `connections` share: commands, the one error, and what a reply of error means."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

Command = tuple[Any, ...]
"""One Redis command: its name in capitals, then str, bytes, int or float arguments. One key at most, as everywhere here."""


class Unavailable(Exception):  # noqa: N818  internal: says what is the case, and the tiers turn it into a miss
    """Redis cannot be reached, does not answer in time, cannot serve now, or its breaker is open.

    Attributes:
        dropped: the connection ended at once instead of timing out, as a connection does whose
            server was restarted while it lay idle; what was sent on it may have been executed.
    """

    def __init__(self, message: str, *, dropped: bool = False) -> None:
        super().__init__(message)
        self.dropped = dropped


READS: Final = frozenset(
    "GET MGET EXISTS TTL PTTL STRLEN GETRANGE HGET HMGET HGETALL HLEN ZRANGE ZCARD ZSCORE XRANGE XREVRANGE XLEN XINFO "
    "SCAN HSCAN ZSCAN TIME PING INFO ROLE CONFIG CLUSTER DBSIZE TYPE".split()
)
"""Commands that change nothing: they get the read timeout and may be sent again on a fresh connection."""

NOT_NOW: Final = frozenset({"LOADING", "MASTERDOWN", "READONLY", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "BUSY"})
"""Error codes that say "not now" or "not here" and nothing about the command; they are raised as `Unavailable`."""


def is_read(commands: Sequence[Command]) -> bool:
    """Say whether every command only reads."""
    for command in commands:  # a plain loop: `all` with its generator costs as much as sending a GET
        if command[0] not in READS:
            return False
    return True


def error_code(reply: object) -> str:
    """Return the code of an error reply ("NOSCRIPT", "MOVED", …), or "" where the reply is no error."""
    return str(reply).partition(" ")[0] if isinstance(reply, Exception) else ""


class Script:
    """A Lua script, called by its digest and sent whole only to a server that does not know it.

    One key at most, so that it works in a Cluster. It must not mind being interrupted by nothing:
    Redis runs it alone and whole.
    """

    known: Final[dict[str, str]] = {}
    """Digest → text of every script of this process, so that a request can answer NOSCRIPT by itself."""

    __slots__ = ("digest", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.known[self.digest] = text

    def call(self, keys: Sequence[str], *args: str | bytes | float) -> Command:
        """Return the command that runs the script."""
        return ("EVALSHA", self.digest, len(keys), *keys, *args)

    @classmethod
    def whole(cls, command: Command) -> Command | None:
        """Return the same call with the script's text in it; None where the command is no such call."""
        if command[0] != "EVALSHA" or command[1] not in cls.known:
            return None
        return ("EVAL", cls.known[command[1]], *command[2:])
