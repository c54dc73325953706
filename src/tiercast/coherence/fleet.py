"""The processes that share a log, as one of them last heard of them, and which of them does what one should do."""

from __future__ import annotations

import os
import secrets
import socket
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .log import Member


class Fleet:
    """Who lives, by the last heartbeat's answer. Processes that heard the same agree on who does what.

    Attributes:
        member: this process's own name: host, pid and a nonce, since pids come back.
        seen: all members, those among them whose lease has lapsed; none before the first heartbeat.
    """

    __slots__ = ("member", "seen")

    member: str
    seen: tuple[Member, ...]

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Take a new name and know of nobody: a new process, or a forked child."""
        self.member = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.seen = ()

    def live(self) -> list[str]:
        """Return the names of those whose lease holds."""
        return [member.name for member in self.seen if member.lapsed < 0]

    def elected(self) -> bool:
        """Whether this process does what one process of the fleet should do: the first by name."""
        return self._first_of(self.live())

    def elected_of_host(self) -> bool:
        """Whether this process does what one process of each host should do: the first by name of its host."""
        host = host_of(self.member)
        return self._first_of([name for name in self.live() if host_of(name) == host])

    def _first_of(self, names: list[str]) -> bool:
        return not names or min(names) == self.member

    def owns(self, name: str) -> bool:
        """Whether this process does the background refresh of a key: the highest random weight of the live.

        Thaler and Ravishankar, Using name-based mappings to increase hit rates, 1998 (rendezvous hashing).
        """
        live = self.live()
        if len(live) < 2 or self.member not in live:
            return True

        def weight(member: str) -> bytes:
            return blake2b(f"{member}\0{name}".encode(errors="surrogatepass")).digest()

        return max(live, key=weight) == self.member


def host_of(member: str) -> str:
    """Return the host in a member's name, "host:pid:nonce"."""
    return member.rsplit(":", 2)[0]
