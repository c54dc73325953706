"""The command line `tiercast` (extra "cli")."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the entry point of the package."""
    try:
        from .app import run
    except ImportError as exc:
        if (exc.name or "").partition(".")[0] not in {"typer", "rich"}:
            raise
        sys.exit("the command line needs an extra: pip install 'tiercast[cli]'")
    run()
