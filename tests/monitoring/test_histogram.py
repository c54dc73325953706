"""Histograms, slices and figures: pure."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercast.monitoring.alerts import figure
from tiercast.monitoring.counter import Sum
from tiercast.monitoring.figures import Counts, Figures, hit_rates
from tiercast.monitoring.histogram import Histogram, bucket_of, merged, upper_bound
from tiercast.monitoring.slices import SLICES, Slices


def histogram_of(seconds: list[float]) -> Histogram:
    histogram = Histogram()
    for each in seconds:
        histogram.observe(each)
    return histogram


@given(st.floats(2e-7, 400))
def test_a_duration_lies_in_its_bucket(seconds: float) -> None:
    """A duration is at most its bucket's bound and more than the bucket's before."""
    bucket = bucket_of(seconds)
    assert upper_bound(bucket - 1) * (1 - 1e-9) < seconds <= upper_bound(bucket) * (1 + 1e-9)


@given(st.lists(st.floats(2e-7, 400), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_quantiles_are_within_five_percent(seconds: list[float], part: float) -> None:
    """A quantile differs from the exact one by half a bucket at most."""
    exact = sorted(seconds)[max(1, -int(-part * len(seconds) // 1)) - 1]
    found = histogram_of(seconds).read().quantile(part)
    assert found is not None
    assert 0.95 < found / exact < 1.05


@given(st.lists(st.floats(2e-7, 100), max_size=50), st.lists(st.floats(2e-7, 100), max_size=50))
def test_merging_is_observing_both(first: list[float], second: list[float]) -> None:
    """Two histograms together are the histogram of all durations, and one can be taken away again."""
    both = histogram_of(first + second).read()
    one, other = histogram_of(first).read(), histogram_of(second).read()
    assert merged([one, other]).buckets == both.buckets
    assert both.total == pytest.approx(sum(first + second), rel=0.05)
    assert both.minus(one).buckets == other.buckets


def test_nothing_has_no_quantile() -> None:
    """Where nothing was measured there is no figure, rather than a zero."""
    assert Histogram().read().quantile(0.5) is None
    assert Histogram().read().mean is None


def test_observing_is_exact_under_threads() -> None:
    """Eight threads that observe 20,000 durations each make 160,000, and sums are exact."""
    histogram, total = Histogram(), Sum()

    def work() -> None:
        for number in range(20_000):
            histogram.observe((number % 7 + 1) * 0.125)
            total.add(2)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert histogram.read().count == 160_000
    assert histogram.read().total == pytest.approx(
        8 * sum((number % 7 + 1) * 0.125 for number in range(20_000)), rel=0.05
    )
    assert total.value == 320_000


def test_hit_rates_are_of_what_each_tier_saw() -> None:
    """A tier's hit rate is of the lookups that came to it; the overall one is of all."""
    counts = Counts({"hits.local": 50, "hits.disk": 25, "hits.remote": 5, "misses": 20})
    assert hit_rates(counts) == {"overall": 0.8, "local": 0.5, "disk": 0.5, "remote": 0.2}
    assert hit_rates(Counts()) == {"overall": 0.0, "local": 0.0, "disk": 0.0, "remote": 0.0}


def test_a_window_is_the_difference_of_two_moments() -> None:
    """What happened in a window is counted from the newest moment at least that long ago."""
    slices = Slices(60.0, 0.0)
    for second in range(1, 31):
        assert slices.due(float(second))
        slices.add(float(second), {"r": Counts({"misses": second})})
    began, moment = slices.since(30.5, 10.0)
    assert (began, moment["r"]["misses"]) == (20.0, 20)
    assert slices.since(30.5, 1000.0)[0] == 0.0


def test_moments_are_bounded_and_share_what_did_not_change() -> None:
    """The ring keeps a bounded number of moments; an idle region costs one object."""
    slices = Slices(60.0, 0.0)
    for second in range(1, 1000):
        slices.add(float(second), {"idle": Counts({"misses": 1})})
    assert len(slices._ring) == SLICES + 1
    assert len({id(moment["idle"]) for _, moment in slices._ring}) == 1


def test_figures_are_items_and_attributes() -> None:
    """Figures are read either way; the remote tier answers to the configuration's name for it as well."""
    figures = Figures(hit_rate=Figures(overall=0.5, remote=0.25))
    assert figures["hit_rate"]["overall"] == figures.hit_rate.overall == 0.5
    assert figures["hit_rate"]["distributed"] == 0.25
    with pytest.raises(AttributeError, match="there is no figure 'hits' here, only hit_rate"):
        _ = figures.hits


def test_a_rate_of_nothing_alerts_nobody() -> None:
    """An alert on a hit rate waits for the first lookup."""
    idle = Figures(hit_rate=Figures(overall=0.0), hits=Figures(overall=0), misses=Figures(overall=0))
    busy = Figures(hit_rate=Figures(overall=0.0), hits=Figures(overall=0), misses=Figures(overall=9))
    assert figure(idle, "hit_rate.overall") is None
    assert figure(busy, "hit_rate.overall") == 0.0
    assert figure(Figures(recent=idle), "recent.hit_rate.overall") is None
    assert figure(Figures(recent=busy), "recent.hit_rate.overall") == 0.0
    assert figure(busy, "no.such.figure") is None
