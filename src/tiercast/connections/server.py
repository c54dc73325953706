"""What a Redis server says about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """One server, as INFO shows it; "" where it does not say.

    Attributes:
        run_id: random id of one life of the server process.
        replication_id: its master_replid, which changes with a failover.
        version: "7.0.15"; what the server calls its Redis version (Valkey says 7.2.4).
        role: "master" or "slave".
        eviction: maxmemory-policy; anything but "noeviction" may drop the log.
    """

    run_id: str
    replication_id: str
    version: str
    role: str
    eviction: str

    @property
    def release(self) -> tuple[int, ...]:
        """The version as numbers, for comparison."""
        return tuple(int(part) for part in self.version.split(".") if part.isdecimal())

    @classmethod
    def read(cls, *sections: object) -> ServerInfo:
        """Read the texts of some sections of INFO; a section that was refused counts as empty."""
        found: dict[str, str] = {}
        for section in sections:
            if isinstance(section, bytes):
                for line in section.decode("utf-8", "replace").splitlines():
                    name, _, value = line.partition(":")
                    found.setdefault(name, value)
        names = ("run_id", "master_replid", "redis_version", "role", "maxmemory_policy")
        return cls(*(found.get(name, "") for name in names))
