from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from pooltasks.cli import pool


def ran(*arguments):
    return CliRunner().invoke(pool, arguments)


def test_plan_says_how_many_workers_how_busy_and_what_half_the_wait_costs():
    result = ran("plan", "--rate", "500/s", "--run", "40ms", "--objective", "99% < 50ms")
    assert result.exit_code == 0
    assert result.output == (
        "23 workers for 99% < 50ms: 87% utilized, 0.98% wait longer, 5.5 ms on average.\n"
        "Half the wait (99% < 25ms) takes 25: 2 more (+9%), 80% utilized.\n"
    )


def test_plan_in_json():
    result = ran("plan", "--rate", "30/min", "--run", "2s", "--scv", "0", "--json")
    answer = json.loads(result.output)
    assert answer["plan"]["load"] == pytest.approx(1.0)
    assert answer["plan"]["late"] <= 0.01
    assert answer["half_the_wait"]["workers"] >= answer["plan"]["workers"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--rate", "500"),
        ("--rate", "0/s"),
        ("--run", "fast"),
        ("--objective", "50ms"),
        ("--objective", "100% < 50ms"),
        ("--objective", "99% < soon"),
        ("--rate", "100000000/s"),
    ],
)
def test_plan_refuses_what_it_cannot_read(option, value):
    given = {"--rate": "5/s", "--run": "40ms", option: value}
    result = ran("plan", *(part for item in given.items() for part in item))
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")


def test_simulate_prints_a_table():
    result = ran(
        *("simulate", "--policy", "objective", "--policy", "oracle", "--workload", "steady"),
        *("--seeds", "2", "--seconds", "120"),
    )
    assert result.exit_code == 0
    heading, *lines = result.output.splitlines()
    assert heading.split()[:3] == ["WORKLOAD", "POLICY", "LATE"]
    assert [line.split()[:2] for line in lines] == [["steady", "objective"], ["steady", "oracle"]]


def test_simulate_prints_json_for_a_trace(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("minute,count\n1,5\n2,10\n3,5\n4,8\n")
    result = ran(
        *("simulate", "--policy", "fixed", "--trace", str(path), "--rate", "50"),
        *("--seeds", "1", "--seconds", "120", "--json"),
    )
    assert result.exit_code == 0
    (row,) = [json.loads(line) for line in result.output.splitlines()]
    assert (row["workload"], row["policy"]) == ("mine", "fixed")
    assert set(row["violations"]) == {"mean", "low", "high"}


@pytest.mark.parametrize(
    "arguments", [("--policy", "magic"), ("--workload", "magic"), ("--min", "9", "--max", "8")]
)
def test_simulate_refuses_what_there_is_not(arguments):
    result = ran("simulate", *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.output


def test_the_commands_leave_the_simulator_unloaded():
    code = (
        "import sys, pooltasks.cli\n"
        "print([m for m in sys.modules if m.startswith(('pooltasks.sim', 'pooltasks.opt'))])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"
