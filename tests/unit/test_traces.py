from __future__ import annotations

from random import Random
from statistics import fmean

import pytest

from pooltasks.errors import ConfigurationError
from pooltasks.simulator.traces import events, trace


def test_a_trace_is_rescaled(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("minute,count\n" + "".join(f"{i},{i % 7 + 1}\n" for i in range(100)))
    rates = trace(path, mean_rate=50.0)(600.0, Random(1))
    assert len(rates) == 6000
    assert fmean(rates) == pytest.approx(50.0)
    assert len(set(rates)) == 7


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
