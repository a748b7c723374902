"""Histograms keep quantiles within 2 %, add up exactly and survive being stored."""

from __future__ import annotations

import math
import random

import pytest

from pooltasks.metrics.histogram import BUCKETS, HIGHEST, LOWEST, Histogram, bucket_of, lower_bound

DISTRIBUTIONS = {
    "exponential": lambda r: r.expovariate(1 / 0.05),
    "heavy tail": lambda r: 0.001 * r.paretovariate(1.1),
    "two clusters": lambda r: r.choice([0.001, 12.0]) * r.uniform(0.99, 1.01),
    "constant": lambda _: 0.0371,
    "microseconds": lambda r: r.uniform(1.1e-5, 1e-4),
}


def of(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("size", [1, 2, 7, 100, 5000])
def test_every_quantile_is_within_two_percent(distribution: str, size: int) -> None:
    draw, source = DISTRIBUTIONS[distribution], random.Random(size)
    values = sorted(max(LOWEST, draw(source)) for _ in range(size))
    histogram = of(values)
    for q in [0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1]:
        true = values[max(1, math.ceil(q * size - 1e-9)) - 1]
        assert histogram.quantile(q) == pytest.approx(true, rel=0.02)
    assert histogram.total == pytest.approx(sum(values))


def test_the_error_is_bounded_at_both_ends_of_every_bucket() -> None:
    for bucket in range(1, BUCKETS - 1):
        for value in (lower_bound(bucket) * (1 + 1e-9), lower_bound(bucket + 1) * (1 - 1e-9)):
            if value < HIGHEST:
                assert bucket_of(value) == bucket
                assert of([value]).quantile(0.5) == pytest.approx(value, rel=0.0197)


def test_what_lies_outside_the_range_is_kept_in_the_outer_buckets() -> None:
    histogram = of([0.0, LOWEST / 3, HIGHEST * 50])
    assert histogram.count == 3
    assert histogram.quantile(0.5) == LOWEST / 2
    assert histogram.quantile(1) == pytest.approx(HIGHEST, rel=0.05)


def test_the_parts_add_up_to_the_whole() -> None:
    source = random.Random(1)
    values = [source.expovariate(20) for _ in range(3000)]
    parts = [of(values[start::7]) for start in range(7)]
    assert Histogram.merged(parts) == of(values)


def test_an_empty_histogram_knows_nothing() -> None:
    assert Histogram().quantile(0.5) is None
    assert Histogram().share_above(1) is None
    assert Histogram().count == 0


def test_the_share_above_a_limit() -> None:
    assert of([0.01, 0.02, 0.03, 0.2]).share_above(0.05) == 0.25


def test_encoding_loses_nothing_and_is_small() -> None:
    source = random.Random(2)
    histogram = of([source.expovariate(20) for _ in range(700)])
    encoded = histogram.encode()
    assert Histogram.decode(encoded) == histogram
    assert len(encoded) <= 2 * len(histogram.counts) + 10
    large = Histogram({7: 1, 300: 70_000}, 123.0)
    assert Histogram.decode(large.encode()) == large
    assert Histogram.decode(Histogram().encode()) == Histogram()


@pytest.mark.parametrize(
    "wrong", [b"", b"\x80", b"\x01\x02", bytes(10) + b"\x05", bytes(10) + b"\x02abc"]
)
def test_what_is_no_histogram_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="not an encoded histogram"):
        Histogram.decode(wrong)
