from __future__ import annotations

from itertools import pairwise
from random import Random
from statistics import fmean

import pytest

from pooltasks.errors import ConfigurationError
from pooltasks.simulator.traces import events, trace
from pooltasks.simulator.workloads import STEP


def test_a_trace_is_rescaled(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("minute,count\n" + "".join(f"{i},{i % 7 + 1}\n" for i in range(100)))
    rates = trace(path, mean_rate=50.0)(600.0, Random(1))
    assert len(rates) == 6000
    assert fmean(rates) == pytest.approx(50.0)
    assert len(set(rates)) == 7


def lasting(rates):
    """Return how long each stay lasts but the first and the last, which a run cuts, in seconds."""
    changes = [at for at, (before, after) in enumerate(pairwise(rates), 1) if before != after]
    return {round((after - before) * STEP) for before, after in pairwise(changes)}


@pytest.mark.parametrize(
    ("stamps", "row", "expected"),
    [
        (["2026-01-01 00:00:00", "2026-01-01 00:05:00", "2026-01-01 00:10:00"], None, 300.0),
        (["2026-01-01 00:00:00", "2026-01-01 00:05:00", "2026-01-01 00:10:00"], 20.0, 20.0),
        (["0", "1", "2"], None, 60.0),
    ],
)
def test_a_row_lasts_as_long_as_its_dates_say(tmp_path, stamps, row, expected):
    path = tmp_path / "trace.csv"
    rows = [f"{stamp},{i + 1}\n" for i, stamp in enumerate(stamps * 5)]
    path.write_text("when,count\n" + "".join(rows))
    assert lasting(trace(path, row=row)(4 * expected, Random(1))) == {expected}


def test_a_run_begins_anywhere_inside_a_row(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("minute,count\n" + "".join(f"{i},{i + 1}\n" for i in range(100)))
    rates = trace(path)
    firsts = {rates(600.0, Random(seed)).count(rates(600.0, Random(seed))[0]) for seed in range(20)}
    assert len(firsts) > 10
    assert all(0 < first <= 600 for first in firsts)


def test_rows_too_short_to_simulate_are_refused(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("when,count\n2026-01-01 00:00:00,1\n2026-01-01 00:00:00,1\n")
    with pytest.raises(ConfigurationError, match=r"rows of 0 s"):
        trace(path)


def test_operations_of_which_each_has_its_time_are_counted_by_the_minute(tmp_path):
    path = tmp_path / "events.csv"
    stamps = ["2026-01-01 00:00:03.1234567", "2026-01-01 00:00:59", "2026-01-01 00:02:30"]
    path.write_text("time,size\n" + "".join(f"{stamp},7\n" for stamp in stamps))
    rates = events(path, mean_rate=50.0)(180.0, Random(1))
    assert [rates[0], rates[600], rates[-1]] == pytest.approx([100.0, 0.0, 50.0])
    path.write_text("seconds\n5.5\n66\n67\n70\n")
    assert events(path)(120.0, Random(1))[::600] == pytest.approx([50.0, 150.0])
    for text in ("time\n", "time\nnoon\n"):
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=r"events\.csv"):
            events(path)


@pytest.mark.parametrize("text", ["", "a,b\n1\n", "a,b\n1,x\n", "a,b\n1,0\n2,0\n", "a,b\n1,-3\n"])
def test_what_is_no_trace_is_refused_by_name(tmp_path, text):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"bad\.csv"):
        trace(path)
