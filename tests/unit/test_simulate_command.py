from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from pooltasks.cli import pool
from pooltasks.simulator.report import policies
from pooltasks.simulator.workloads import catalogue


def ran(*arguments):
    return CliRunner().invoke(pool, arguments)


def test_plan_says_how_many_workers_how_busy_and_what_half_the_wait_costs():
    result = ran("plan", "--rate", "500/s", "--run", "40ms", "--objective", "99% < 50ms")
    assert result.exit_code == 0
    assert result.output == (
        "23 workers for 99% < 50ms: 87% utilized, 0.98% wait longer, 5.5 ms on average.\n"
        "Half the wait (99% < 25ms) takes 25: 2 more (+9%), 80% utilized.\n"
    )


def test_plan_tells_long_times_in_units_that_suit_them():
    result = ran("plan", "--rate", "2/min", "--run", "90s", "--objective", "95% < 2min")
    assert result.output == (
        "5 workers for 95% < 2min: 60% utilized, 1.64% wait longer, 11 s on average.\n"
        "Half the wait (95% < 60s) takes 6: 1 more (+20%), 50% utilized.\n"
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
        *("simulate", "--policy", "fixed", "--trace", str(path), "--rate", "50/s"),
        *("--row", "30s", "--seeds", "1", "--seconds", "120", "--json"),
    )
    assert result.exit_code == 0
    (row,) = [json.loads(line) for line in result.output.splitlines()]
    assert (row["workload"], row["policy"]) == ("mine", "fixed")
    assert set(row["violations"]) == {"mean", "low", "high"}
    result = ran("simulate", "--workload", "steady", "--row", "5min")
    assert result.exit_code == 2
    assert "there is no --trace" in result.output


def test_simulate_runs_under_the_given_conditions():
    base = ("simulate", "--policy", "fixed", "--seconds", "120", "--seeds", "1", "--json")
    plain = ran(*base, "--workload", "steady", "--rate", "40/s", "--run", "200ms")
    broken = ran(
        *(*base, "--workload", "steady", "--rate", "40/s", "--run", "200ms"),
        *("--nodes", "2", "--node-crash", "70", "--node-crash", "90", "--crashes", "600"),
        *("--lost", "20", "--late", "1", "--tick", "2", "--actuation", "1", "--warm-up", "3"),
    )
    temporary = ran(*base, "--workload", "flash", "--overflow", "8", "--size", "4")
    fewer = ran(*base, "--workload", "flash", "--size", "4")
    assert plain.exit_code == broken.exit_code == 0
    calm, rough = (json.loads(result.output)["violations"]["mean"] for result in (plain, broken))
    assert calm <= 0.03
    assert rough > 2 * calm + 0.05  # half the workers are gone twice
    shares = [
        json.loads(result.output.splitlines()[-1])["violations"]["mean"]
        for result in (temporary, fewer)
    ]
    assert shares[0] < shares[1] / 2


def test_simulate_has_no_workers_for_what_limits_hold_back():
    base = ("simulate", "--policy", "objective", "--workload", "steady", "--json")
    base += ("--seconds", "200", "--seeds", "1")
    free, held, slow = (
        json.loads(ran(*base, *limits).output)["cost"]["mean"]
        for limits in ((), ("--concurrency", "1", "--keys", "3"), ("--key-rate", "20/s"))
    )
    assert max(held, slow) < 0.7 * free
    refused = ran(*base, "--key-rate", "fast")
    assert refused.exit_code != 0
    assert "'fast' is no rate" in (refused.output or str(refused.exception))


def test_simulate_draws_service_times_as_told():
    base = ("simulate", "--policy", "objective", "--workload", "steady", "--json")
    shares = [
        json.loads(ran(*base, "--seconds", "120", "--seeds", "1", "--service", its).output)["cost"]
        for its in ("deterministic", "lognormal")
    ]
    assert shares[0] != shares[1]


def test_simulate_says_when_there_are_never_enough_workers():
    result = ran(
        *("simulate", "--policy", "fixed", "--workload", "steady", "--rate", "50/s"),
        *("--seconds", "120", "--seeds", "1", "--max", "3"),
    )
    assert result.exit_code == 0
    assert "At times 5 workers would be busy, and --max is 3" in result.stderr


def test_the_help_names_every_policy_and_every_workload():
    known = ran("simulate", "--help").output.replace(",", " ").replace(";", " ").split()
    assert {*policies()} <= {word.strip("().") for word in known}
    assert {name for name in catalogue() if not name.startswith("steady-")} <= set(known)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--policy", "magic"),
        ("--workload", "magic"),
        ("--min", "9", "--max", "8"),
        ("--replay", "1h", "--run", "40ms"),
    ],
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
