"""What `inspect` shows of one key, for programs and for people."""

from __future__ import annotations

from typing import Any

from ..observing.inspect import Holding
from ..serialization.registry import codec_by_id
from .session import console, escape
from .tables import seconds, size, table


def described(holding: Holding, now: float) -> dict[str, Any]:
    """Return a holding as plain data."""
    said: dict[str, Any] = {"tier": holding.tier, "state": holding.state, "born": holding.born, "fence": holding.fence}
    envelope = holding.envelope
    if envelope is not None:
        end = float("inf")
        said |= {
            "epoch": envelope.epoch,
            "ttl": None if envelope.fresh_until == end else envelope.fresh_until - now,
            "keep": None if envelope.keep_until == end else envelope.keep_until - now,
            "age": now - envelope.created,
            "tags": list(envelope.tags),
            "bytes": len(envelope.payload),
            "codec": codec_name(envelope.codec),
            "compressed": envelope.compressed,
            "version": envelope.version,
        }
    if holding.killer is not None:
        said["by"] = {**holding.killer._asdict(), "origin": holding.origin, "sent": holding.sent}
    return said


def print_holding(holding: Holding, now: float) -> None:
    """Show a holding to people."""
    colour = {"alive": "green", "stale": "yellow", "dead": "red"}.get(holding.state, "dim")
    shown = table("", "", title=f"[bold]{holding.tier}[/bold]: [{colour}]{holding.state}[/{colour}]")
    shown.show_header = False
    if holding.born is not None:
        shown.add_row("born", f"at position {holding.born}")
    envelope = holding.envelope
    if envelope is not None:
        left = envelope.fresh_until - now
        shown.add_row("ttl", seconds(left) if left > 0 else f"ended {seconds(-left)} ago")
        shown.add_row("age", seconds(now - envelope.created))
        shown.add_row("tags", escape(", ".join(envelope.tags)) or "-")
        packed = " compressed" if envelope.compressed else ""
        shown.add_row("value", f"{size(len(envelope.payload))}{packed}, {codec_name(envelope.codec)}")
        if envelope.version:
            shown.add_row("version", escape(envelope.version))
    if holding.fence:
        shown.add_row("fence", f"nothing older comes back for {seconds(holding.fence)}")
    if holding.killer is not None:
        kind, position, target, soft = holding.killer
        verb = "made stale" if soft else "killed"
        shown.add_row("why", escape(f"{verb} by record {position}: {kind} {target}".rstrip()))
        if holding.origin:
            shown.add_row("by", escape(f"{holding.origin}, {seconds(now - holding.sent)} ago"))
    console.print(shown)


def codec_name(identifier: int) -> str:
    """Return what the codec of a stored value is called; its number where this process does not know it."""
    known = codec_by_id(identifier)
    return f"codec {identifier}" if known is None else known.name
