"""The benchmark of operations that come one by one."""

from __future__ import annotations

import json
import os
import struct
import time
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import producer, traffic
from benchmarks.system import LATENCIES_VARIABLE, run_and_record

if TYPE_CHECKING:
    from pathlib import Path


class Sent:
    """A system that notes what is sent to it."""

    def __init__(self) -> None:
        self.at: list[tuple[float, float, float]] = []

    def send(self, meant: float, seconds: float) -> None:
        self.at.append((time.time(), meant, seconds))


def cost(**changes: Any) -> traffic.Cost:
    values: dict[str, Any] = {
        "system": "pooltasks",
        "rate": 500.0,
        "run": 0.005,
        "producer": 0.1,
        "parent": 0.2,
        "workers": 0.2,
        "server": 0.1,
        "idle": 0.003,
        "p50": 0.006,
        "p99": 0.01,
        "p999": 0.02,
        "sender_late": 0.0,
        **changes,
    }
    return traffic.Cost(**values)


def test_a_load_is_sent_when_it_is_due_and_not_sooner() -> None:
    system: Any = Sent()
    sent, cpu, late = producer.offer(system, [400.0, 0.2, 0.005, 7])
    assert sent == len(system.at)
    assert 40 < sent < 130
    assert 0 < cpu < 0.2
    assert all(at >= meant for at, meant, _ in system.at)
    assert max(at - meant for at, meant, _ in system.at) <= late + 0.05
    again: Any = Sent()
    producer.offer(again, [400.0, 0.2, 0.005, 7])
    assert len(again.at) == sent, "the same seed sends the same load"


def test_an_operation_notes_its_latency(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LATENCIES_VARIABLE, str(tmp_path))
    assert run_and_record(time.time() - 1.0, 0.001) == 0
    run_and_record(time.time() - 2.0, 0.0)
    assert traffic._read(tmp_path) == [pytest.approx(1.0, abs=0.5), pytest.approx(2.0, abs=0.5)]
    (tmp_path / "half").write_bytes(struct.pack("d", 3.0)[:4])
    assert len(traffic._read(tmp_path)) == 2, "one is being written"


def test_the_time_of_a_process_and_of_what_it_started_is_told_apart() -> None:
    before = traffic._Cpu.now([os.getsid(0)], server=os.getpid())
    assert before.server > 0
    used, deadline = before.since(before), time.monotonic() + 5
    while not used.server and time.monotonic() < deadline:  # the kernel counts at its ticks
        used = traffic._Cpu.now([os.getsid(0)], server=os.getpid()).since(before)
    assert used.server > 0


def test_ours_is_judged_beside_each_other_system_under_the_same_load() -> None:
    costs = [
        cost(),
        cost(system="celery", server=0.6, p99=0.02),
        cost(system="huey", parent=0.0, rate=50.0),
        cost(system="huey", parent=0.0),
    ]
    found = {its.what: (round(its.value, 3), its.holds) for its in traffic.targets(costs)}
    assert found == {
        "at 500/s of 5 ms: CPU ÷ celery": (0.5, True),
        "at 500/s of 5 ms: p99 ÷ celery": (0.5, True),
        "at 500/s of 5 ms: CPU ÷ huey": (1.667, False),
        "at 500/s of 5 ms: p99 ÷ huey": (1.0, True),
    }
    lines = [*traffic.table(costs)]
    assert len(lines) == 6
    assert len({len(line) for line in lines[2:]}) == 1


def test_the_ceiling_of_a_system_is_the_highest_rate_with_short_latencies() -> None:
    costs = [
        cost(rate=500.0),
        cost(rate=1000.0, p99=0.09),
        cost(rate=1500.0, p99=0.2),
        cost(system="celery", p50=0.06),
    ]
    assert [*traffic.ceilings(costs)] == [
        "pooltasks: p50 < 50 and p99 < 100 ms at 5 ms a run up to 1000/s",
        "celery: p50 < 50 and p99 < 100 ms at 5 ms a run at no rate",
    ]


def test_a_run_is_compared_with_an_earlier_one(tmp_path: Path) -> None:
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps([cost().as_json(), cost(rate=50.0).as_json()]))
    costs = [cost(parent=0.1, p99=0.015), cost(rate=900.0)]
    assert [*traffic.changes(costs, earlier)] == [
        "pooltasks at 500/s of 5 ms: CPU -20%, p50 +0%, p99 +50%"
    ]


def test_a_picture_has_a_line_of_each_system_for_each_run() -> None:
    costs = [cost(system=system, run=run) for run in (0.0, 0.005) for system in ("a", "b")]
    drawn = ET.fromstring(traffic.picture(costs))  # noqa: S314  our own
    lines = drawn.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2 * 2 * 3
