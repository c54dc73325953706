"""The thread that keeps house: what goes wrong there is said once, by whoever noticed first."""

from __future__ import annotations

import logging

import pytest

from loaders import eventually
from tiercast.coherence.listener import Housekeeper
from tiercast.coherence.log import LogUnavailable


@pytest.mark.parametrize(("error", "told"), [(LogUnavailable("away"), 0), (ZeroDivisionError("a bug"), 1)])
def test_it_goes_on_and_tells_only_what_nobody_else_does(
    error: Exception, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A log that is away is counted, for the listener has said so; anything else is told with its traceback."""
    errors = [error]

    def job() -> None:
        if errors:
            raise errors.pop()
        done.append(True)

    done: list[bool] = []
    housekeeper = Housekeeper(job, 0.001, "test")
    with caplog.at_level(logging.WARNING, "tiercast"):
        housekeeper.start()
        eventually(lambda: done)
        housekeeper.stop()
    assert housekeeper.failures.value == 1
    assert told == len(caplog.records)
    assert all(record.exc_info for record in caplog.records)


def test_what_goes_wrong_each_time_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Until it has gone well again: a process without free file descriptors would write a traceback with every job."""
    outcomes = [True, False, False, True, False, False, False]
    housekeeper = Housekeeper(lambda: outcomes and (outcomes.pop() or 1 / 0), 0.001, "test")
    with caplog.at_level(logging.WARNING, "tiercast"):
        housekeeper.start()
        eventually(lambda: not outcomes)
        housekeeper.stop()
    assert housekeeper.failures.value == 5
    assert len(caplog.records) == 2
