"""The circuit breaker."""

from __future__ import annotations

import threading

from tiercast.connections import Breaker


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now

    def wall(self):
        return self.now


def opened(clock):
    breaker = Breaker(3, 2.0, clock)
    for _ in range(3):
        assert breaker.admit()
        breaker.failed()
    return breaker


def test_only_failures_in_a_row_open_it():
    """An answer between failures starts the count again."""
    breaker = Breaker(3, 2.0, Clock())
    for failed in (True, True, False, True, True):
        breaker.failed() if failed else breaker.succeeded()
    assert "closed" == breaker.state
    breaker.failed()
    assert ("open", 1) == (breaker.state, breaker.openings)


def test_while_open_it_lets_one_probe_out_per_pause():
    """All others are refused, also while the probe is under way."""
    clock = Clock()
    breaker = opened(clock)
    assert not breaker.admit()
    clock.now += 2.0
    assert [True, False, False] == [breaker.admit() for _ in range(3)]
    assert "half-open" == breaker.state
    breaker.succeeded()
    assert "closed" == breaker.state


def test_a_failed_probe_doubles_the_pause_up_to_four_times():
    """The backoff is bounded, so that a server that is back is soon noticed."""
    clock = Clock()
    breaker = opened(clock)
    pauses = []
    wait = 2.0
    for _ in range(4):
        begun = clock.now
        while not breaker.admit():
            clock.now += 0.5
        pauses.append(clock.now - begun)
        breaker.failed()
    assert [wait, 4.0, 8.0, 8.0] == pauses


def test_a_straggler_does_not_prolong_the_pause():
    """What was under way when it opened fails without being a probe."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 1.5
    breaker.failed()
    clock.now += 0.5
    assert breaker.admit()


def test_a_probe_that_never_reports_is_replaced():
    """Its task was cancelled: the next pause brings another probe."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 2.0
    assert breaker.admit()
    clock.now += 2.0
    assert breaker.admit()


def test_a_hint_lets_the_next_call_probe():
    """Somebody else reached the server: no need to wait for the pause."""
    breaker = opened(Clock())
    breaker.hint()
    assert breaker.admit()


def test_one_probe_among_threads():
    """Sixteen threads at the end of a pause: one goes out."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 2.0
    gate = threading.Barrier(16)
    admitted = []

    def knock():
        gate.wait()
        admitted.append(breaker.admit())

    threads = [threading.Thread(target=knock) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == sum(admitted)


def test_a_refusal_names_what_went_wrong_last():
    """Whoever looks while the breaker is open wants to know of the wrong password, not of the breaker."""
    breaker = Breaker(1, 2.0, Clock(), "Redis at h:1")
    breaker.failed(OSError("invalid username-password pair"))
    assert not breaker.admit()
    assert breaker.refusal == "Redis at h:1 does not answer; not asked (last: invalid username-password pair)"
