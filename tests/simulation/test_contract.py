"""The simulator's log and tiers keep the contracts that the real ones keep; else it would prove nothing about them."""

from __future__ import annotations

import time

import pytest

from simulation.log_server import LogServer
from simulation.sim_log import SimLog
from simulation.sim_tiers import DiskState, SimDisk, SimRemote
from simulation.value_server import ValueServer
from tiercast.plans import done, drive
from tiercast.testing import FakeClock, TierContract
from tiercast.testing.log_contract import LogContract
from tiercast.tiers.lives import ServerLives


class WallTime:
    """The machine's own time, for claims about leases that lapse."""

    @property
    def now(self) -> float:
        return time.time()


class FakeTime:
    """A fake clock's wall time."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    @property
    def now(self) -> float:
        return self.clock.wall()


def begun(server: LogServer) -> LogServer:
    """Begin the first epoch of all: a later one would speak of members that it cannot know."""
    server.read(("", 0))
    return server


class TestSimulatedLog(LogContract):
    @pytest.fixture
    def make_log(self):
        server = begun(LogServer(WallTime(), values=ValueServer(WallTime(), 600.0)))
        return lambda: SimLog(server)


class TestSimulatedLogOfACluster(LogContract):
    @pytest.fixture
    def make_log(self):
        server = begun(LogServer(WallTime()))
        return lambda: SimLog(server)


class TestSimulatedLogOfAHost(LogContract):
    @pytest.fixture
    def make_log(self):
        server = LogServer(WallTime(), host_log=True)
        return lambda: SimLog(server)


class TestSimulatedRemoteTier(TierContract):
    def make_tier(self, tmp_path, clock):
        return SimRemote(ValueServer(FakeTime(clock), 600.0), clock, ServerLives(lambda epoch, lives: done(0)))


class TestSimulatedDiskTier(TierContract):
    fences = False

    def make_tier(self, tmp_path, clock):
        return SimDisk(DiskState(), clock)

    def arrive(self, tier, epoch, position):
        drive(tier.drop(epoch, position))
