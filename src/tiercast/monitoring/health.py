"""Whether a part of the cache works, and why not."""

from __future__ import annotations

from dataclasses import dataclass

from .figures import Figures


@dataclass(frozen=True, slots=True)
class Health:
    """One part's state: true where it works; `reason` says what is wrong, or what there is to say."""

    ok: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        state = "ok" if self.ok else "unhealthy"
        return f"{state}: {self.reason}" if self.reason else state


def overall(parts: Figures) -> Figures:
    """Return the parts with `overall` before them: true where all are, else with the reasons of those that are not."""
    wrong = [f"{name}: {part.reason}" for name, part in parts.items() if not part]
    return Figures(overall=Health(not wrong, "; ".join(wrong)), **parts)
