"""Each rule of the design is broken on purpose, and the simulator notices."""

from __future__ import annotations

import pytest

from simulation.mutants import MUTANTS, broken
from simulation.rest import Failed, simulate

MOST_SEEDS = 300
"""Worlds in which a mutant may go unnoticed; most are found within ten."""


@pytest.mark.mutant
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_a_broken_rule_is_noticed(mutant):
    """With the rule broken some world breaks a promise; with the rule in place that very world keeps them all."""
    with broken(mutant):
        failure = next(filter(None, (outcome(seed, mutant.world) for seed in range(1, MOST_SEEDS))), None)
    assert failure is not None, f"nobody noticed that the rule does not hold: {mutant.rule}"
    print(failure.args[0])
    simulate(failure.settings.seed, **mutant.world)


def outcome(seed, world):
    try:
        simulate(seed, **world)
    except Failed as exc:
        return exc
    return None
