"""Four processes over one disk, without any server: nothing that was invalidated is read again, by any of them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from faults.fleet import MAX_STALENESS, Fleet

pytestmark = [pytest.mark.fault, pytest.mark.timeout(110)]


def test_the_disk_log_is_strict(tmp_path: Path) -> None:
    """Whoever invalidated, no read that begins later is older: worst staleness 0, while workers are killed and stopped."""
    with Fleet(tmp_path, None, bound=0.0) as fleet:

        def kill() -> None:
            member = fleet.random.randrange(4)
            fleet.kill(member)
            fleet.pause(0.0, 0.4)
            fleet.start(member)

        def stop() -> None:
            member = fleet.random.randrange(4)
            fleet.signal(member, signal.SIGSTOP)
            fleet.pause(0.1, MAX_STALENESS + 0.5)
            fleet.signal(member, signal.SIGCONT)

        fleet.inject(kill, kill, stop, least=0.3, most=0.9)
        report = fleet.finish("disk log: SIGKILL and SIGSTOP")
        fleet.verify(report)
        assert report.counts["older"] == 0
        assert report.counts["queued"] == 0


def test_the_harness_finds_a_cache_that_ignores_the_head(tmp_path: Path) -> None:
    """Where readers do not compare the mapped head, reads are broken at once."""
    with Fleet(tmp_path, None, bound=0.0, mutant="ignore the head") as fleet:
        fleet.wait(lambda: fleet.board.total("broken"), "a broken read", 10)
