"""A server of values (L3) as a model: what tiers/redis_scripts.py and the append's L3 half do, on Python objects.

The names of keys, `born`, fences and times to live are as in Redis; envelopes are kept as objects, not as bytes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

from simulation.steps import Time
from tiercast.tiers.base import Put
from tiercast.tiers.entry import STALE, Envelope


class Row(NamedTuple):
    """What stands under a key: an envelope, or None for a tombstone; times are the server's seconds."""

    envelope: Envelope | None
    born: int
    fence: float
    """When the fence ends."""
    expires: float
    """When the key itself goes, as by PX."""


class ValueServer:
    """One server (or all the value shards of a Cluster, which fail over together)."""

    def __init__(self, time: Time, max_load_time: float) -> None:
        self.time = time
        self.max_load_time = max_load_time
        self.rows: dict[str, Row] = {}
        self.leases: dict[str, tuple[str, float]] = {}
        self.run = 1
        self.counts: dict[str, int] = {"late": 0, "newer": 0, "kept_for_fence": 0, "marked": 0, "found_marked": 0}

    def standing(self, name: str) -> Row | None:
        """Return what stands under a key that has not expired."""
        row = self.rows.get(name)
        if row is not None and row.expires <= self.time.now:
            del self.rows[name]
            return None
        return row

    def _store(self, name: str, envelope: Envelope | None, born: int, ttl: float, fence: float) -> None:
        """`ttl` in seconds; 0: for as long as the server likes."""
        now = self.time.now
        if fence <= now:
            fence = 0.0
        expires = now + max(ttl, fence - now) if ttl > 0 else math.inf
        if fence and now + ttl < fence:
            self.counts["kept_for_fence"] += 1
        self.rows[name] = Row(envelope, born, fence, expires)

    def put(self, name: str, envelope: Envelope, ttl: float, fence: float, begun: float | None) -> Put:
        """The script PUT; `fence` in seconds from now, `begun` by the server's clock."""
        now = self.time.now
        if begun is not None and now - begun > self.max_load_time:
            self.counts["late"] += 1
            return Put.LATE
        row = self.standing(name)
        if row is not None and row.born > envelope.born:
            self.counts["newer"] += 1
            return Put.NEWER
        self._store(
            name, envelope, envelope.born, ttl, max(row.fence if row else 0.0, now + fence if fence > 0 else 0.0)
        )
        return Put.STORED

    def bury(self, name: str, born: int, fence: float) -> int:
        """The script BURY."""
        now = self.time.now
        row = self.standing(name)
        last = max(row.fence if row else 0.0, now + fence)
        if row is not None and row.born >= born:
            self.rows[name] = row._replace(fence=last, expires=max(row.expires, last))
            return 0
        self._store(name, None, born, max(fence, 0.001), last)
        return 1

    def renew(self, name: str, seen: Envelope, renewed: Envelope, ttl: float) -> int:
        """The script RENEW."""
        row = self.standing(name)
        if row is None or row.envelope != seen:
            return 0
        self.counts["marked"] += renewed.flags & STALE and not seen.flags & STALE
        self._store(name, renewed, renewed.born, ttl, row.fence)
        return 1

    def remove(self, name: str) -> int:
        """The script REMOVE."""
        row = self.standing(name)
        if row is None or row.envelope is None:
            return 0
        if row.fence > self.time.now:
            self._store(name, None, row.born, row.fence - self.time.now, row.fence)
        else:
            del self.rows[name]
        return 1

    def write(self, name: str, envelope: Envelope | None, position: int, ttl: float, fence: float) -> None:
        """The L3 half of an append: the value, or the tombstone, as born at the record's position."""
        now = self.time.now
        row = self.standing(name)
        ends = max(now + fence if fence > 0 else 0.0, row.fence if row else 0.0)
        if row is not None and row.born > position:
            self.rows[name] = row._replace(fence=ends, expires=max(row.expires, ends))
            return
        stored = None if envelope is None else replace(envelope, born=position)
        self._store(name, stored, position, max(ttl, 0.001) if stored is None else ttl, ends)

    def take(self, name: str, token: str, ttl: float) -> bool:
        """SET NX PX and GET."""
        held = self.leases.get(name)
        if held is not None and held[1] > self.time.now and held[0] != token:
            return False
        if held is None or held[1] <= self.time.now:
            self.leases[name] = (token, self.time.now + ttl)
        return True

    def give(self, name: str, token: str) -> bool:
        """Delete a lease that the token has; whether it had it, and others may wait for it."""
        if self.leases.get(name, ("",))[0] != token:
            return False
        del self.leases[name]
        return True

    def holder(self, name: str) -> str | None:
        """GET."""
        token, ends = self.leases.get(name, ("", 0.0))
        return token if ends > self.time.now else None

    def held(self) -> list[tuple[str, str]]:
        """Return name and token of each lease that has not ended."""
        return [(name, token) for name, (token, ends) in self.leases.items() if ends > self.time.now]

    # -- what happens to servers ------------------------------------------------------------------

    def copied(self) -> dict[str, Any]:
        """Return what a replica, or a snapshot on disk, holds."""
        return {"rows": dict(self.rows), "leases": dict(self.leases)}

    def restart(self, contents: dict[str, Any] | None) -> None:
        """Begin another life with these contents; None: with none."""
        self.run += 1
        self.rows = dict(contents["rows"]) if contents else {}
        # One that was given back, and comes back with an older copy, ends after lock_ttl: for that it has an end.
        leases = contents["leases"] if contents else {}
        self.leases = {name: lease for name, lease in leases.items() if self.leases.get(name) == lease}
