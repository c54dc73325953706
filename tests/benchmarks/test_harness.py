"""The benchmarks' own arithmetic and pages; no timing is asserted here."""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Load a module of the benchmarks, which is a directory of scripts."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load_module(name: str) -> ModuleType:
        monkeypatch.delitem(sys.modules, name, raising=False)
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load_module


def test_a_figure_is_the_median_of_the_rounds_quotients(load):
    """One disturbed round moves the spread and not the figure."""
    measure = load("measure")
    taken = {"ours": [1.0, 1.0, 50.0, 1.0, 1.0], "theirs": [2.0, 2.0, 2.0, 2.0, 2.0]}
    spread = measure.quotient(taken, "ours", "theirs")
    assert spread.middle == 0.5
    assert spread.low == 0.5
    assert spread.high > 0.5


def test_batches_run_in_turn_and_the_first_round_does_not_count(load):
    measure = load("measure")
    order: list[str] = []

    def batch(name: str):
        def run() -> float:
            order.append(name)
            return float(len(order))

        return run

    taken = measure.in_turn({"a": batch("a"), "b": batch("b")}, 2)
    assert order == ["a", "b"] * 3
    assert taken == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


@pytest.mark.parametrize(
    ("figure", "target", "at_most", "known", "met", "gross"),
    [
        (0.4, 0.5, True, None, True, False),
        (0.9, 0.5, True, None, False, False),
        (1.1, 0.5, True, None, False, True),
        (1.1, 0.5, True, 0.8, False, False),
        (25.0, 20.0, False, None, True, False),
        (12.0, 20.0, False, None, False, False),
        (9.0, 20.0, False, None, False, True),
        (9.0, 20.0, False, 12.0, False, False),
    ],
)
def test_only_twice_the_target_is_a_gross_loss(load, figure, target, at_most, known, met, gross):
    """Where a target is known to be missed, twice what is known."""
    measure = load("measure")
    row = measure.Row("1", "a : b", measure.Spread.exactly(figure), target, at_most=at_most, known=known)
    assert (row.met, row.grossly_missed) == (met, gross)


def test_the_page_says_which_rows_miss_their_target(load):
    measure, report = load("measure"), load("report")
    rows = [
        measure.Row("1", "good", measure.Spread(0.4, 0.3, 0.5), 0.5, measured="1 ns : 2 ns"),
        measure.Row("2", "bad", measure.Spread(0.9, 0.8, 1.0), 0.5),
        measure.Row("2.peer", "peer", measure.Spread(3.0, 3.0, 3.0)),
    ]
    page = report.markdown(rows, {"a part": 10.0, "another": 5.0}, {"unpack": 2.0}, {"python": "3"}, "make bench")
    assert "Of 2 figures that have a target, 1 meet it and 1 miss it." in page
    assert re.search(r"\| 2 \| bad \|.*\*\*missed\*\*", page)
    assert re.search(r"\| 1 \| good \|.*\| met \|", page)
    assert "| **together** | **15** |" in page


def test_plots_are_well_formed_and_escape_names(load):
    plots = load("plots")
    for svg in (
        plots.bars("a < b", {"tiercast": 10.0, "x & y": 1000.0}, "ns"),
        plots.lines("growth", ["1", "2"], {"get": [1.0, 2.0]}, "size"),
    ):
        assert ET.fromstring(svg).tag.endswith("svg")


def test_replaying_lru_agrees_with_a_hand_counted_trace(load, tmp_path):
    """a b a c b, two entries: only the second a is a hit; b went when c came."""
    replay = load("replay")
    trace = tmp_path / "trace.gz"
    trace.write_bytes(gzip.compress(b"a\nb\na\nc\nb\n"))
    keys = replay.read_trace(trace)
    assert keys == ["a", "b", "a", "c", "b"]
    assert replay.replay_tier(keys, "lru", 2).local == 1
    assert replay.replay_manager(keys, "lru", 2).local == 1


@pytest.mark.parametrize("policy", ["lru", "s3fifo", "sieve", "lfu", "fifo", "random"])
def test_the_manager_finds_in_memory_what_the_tier_alone_finds(load, policy):
    """So the tier is the simulator, and its hit ratios are the cache's."""
    replay = load("replay")
    keys = [f"k{number * number % 37}" for number in range(600)]
    tier, manager = (way(keys, policy, 10) for way in (replay.replay_tier, replay.replay_manager))
    if policy == "random":
        assert abs(tier.ratio - manager.ratio) < 25
    else:
        assert tier.local == manager.local


def test_a_replay_counts_the_tiers_below(load, tmp_path):
    replay = load("replay")
    keys = [f"k{number % 5}" for number in range(50)]
    found = replay.replay_manager(keys, "lru", 2, tmp_path / "disk")
    assert (found.local, found.disk, found.remote) == (0, 45, 0)


def test_the_replay_script_prints_json(tmp_path):
    trace = tmp_path / "trace.txt"
    trace.write_text("a\nb\na\n", encoding="utf-8")
    command = [sys.executable, str(BENCHMARKS / "replay.py"), "--trace", str(trace), "--size", "100%", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    row = json.loads(done.stdout)
    assert (row["size"], row["requests"], row["local"]) == (2, 3, 1)


def test_sizes_may_be_parts_of_the_keys(load):
    replay = load("replay")
    assert [replay.size_of(text, 1000) for text in ("7", "10%", "0.01%")] == [7, 100, 1]
