"""Each alert of config/prometheus/rules fires when it should, and not when it nearly should."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

RULES = sorted((Path(__file__).parents[2] / "config/prometheus/rules").glob("*.yml"))
ALERTS = {
    rule["alert"]: rule
    for path in RULES
    for group in yaml.safe_load(path.read_text("utf-8"))["groups"]
    for rule in group["rules"]
    if "alert" in rule
}

OF_THE_SERVER = {"pooltasks_up", "pooltasks_server_memory_ratio"}
"""Series without a pool."""
OBJECTIVE = {"pooltasks_objective_ratio": "0.99x{n}"}


def waits(late: float, of: float) -> dict[str, str]:
    """Return the series of a pool in which so many operations a step wait too long."""
    return {
        **OBJECTIVE,
        "pooltasks_late_operations_total": f"0+{late}x{{n}}",
        "pooltasks_wait_seconds_count": f"0+{of}x{{n}}",
    }


def outcomes(success: float, failure: float) -> dict[str, str]:
    return {
        'pooltasks_operations_total{outcome="success"}': f"0+{success}x{{n}}",
        'pooltasks_operations_total{outcome="failure"}': f"0+{failure}x{{n}}",
        'pooltasks_operations_total{outcome="lost"}': "0+1000x{n}",
    }


def saturated(busy: float, backlog: str) -> dict[str, str]:
    """Return the series of four workers that are busy for so many seconds a minute."""
    return {
        "pooltasks_busy_seconds_total": f"0+{busy}x{{n}}",
        "pooltasks_process_seconds_total": "0+240x{n}",
        "pooltasks_capacity_slots": "4x{n}",
        "pooltasks_backlog": backlog,
    }


def recovered(seconds: float, workers: int) -> dict[str, str]:
    return {
        "pooltasks_recovery_seconds_sum": f"0x10 {seconds}x20",
        "pooltasks_recovery_seconds_count": f"0x10 {workers}x20",
    }


def nodes(live: str, lost: str) -> dict[str, str]:
    return {
        'pooltasks_nodes{state="live"}': live,
        'pooltasks_nodes{state="lost"}': lost,
    }


def warm(busy: int, idle: int) -> dict[str, str]:
    return {
        'pooltasks_workers{state="busy"}': f"{busy}x{{n}}",
        'pooltasks_workers{state="idle"}': f"{idle}x{{n}}",
        "pooltasks_size": "2x{n}",
    }


def rolled_out(version: str, state: str, nodes: int) -> dict[str, str]:
    """Return the series of a rollout, and of nodes of the version 2."""
    return {
        f'pooltasks_rollout_ratio{{version="{version}", state="{state}"}}': "0x{n}",
        'pooltasks_version_nodes{version="2"}': f"{nodes}x{{n}}",
    }


def optimizer(state: str) -> dict[str, str]:
    return {
        **nodes("2x{n}", "0x{n}"),
        f'pooltasks_pool_info{{optimizer="{state}", queue_name="pool.code"}}': "1x{n}",
    }


def age(seconds: float, allowed: float = 0.05) -> dict[str, str]:
    return {
        "pooltasks_oldest_age_seconds": f"{seconds}x{{n}}",
        "pooltasks_objective_wait_seconds": f"{allowed}x{{n}}",
    }


def latencies(quick: str, all_of_them: str) -> dict[str, str]:
    """Return the series of operations: the quick take up to 20 ms, the others up to 1 s."""
    return {
        'pooltasks_latency_seconds_bucket{le="0.01"}': "0x{n}",
        'pooltasks_latency_seconds_bucket{le="0.02"}': quick,
        'pooltasks_latency_seconds_bucket{le="0.1"}': quick,
        'pooltasks_latency_seconds_bucket{le="1.0"}': all_of_them,
        'pooltasks_latency_seconds_bucket{le="+Inf"}': all_of_them,
        "pooltasks_latency_seconds_count": all_of_them,
    }


Series = dict[str, str]
# Alert → (minutes, minutes a step, series with which it fires, series with which it does not).
CASES: dict[str, tuple[int, int, list[Series], list[Series]]] = {
    "PooltasksObjectiveBurnsFast": (
        75,
        1,
        [waits(20, of=100), {**waits(95, of=100), "pooltasks_objective_ratio": "0.9x{n}"}],
        [
            waits(14, of=100),
            waits(0.12, of=0.5),  # few operations
            {  # it is over
                **waits(0, of=100),
                "pooltasks_late_operations_total": "0+50x60 3000x20",
            },
            {**waits(85, of=100), "pooltasks_objective_ratio": "0.9x{n}"},
        ],
    ),
    "PooltasksObjectiveBurns": (
        380,
        4,
        [waits(7, of=100)],
        [
            waits(5, of=100),
            {**waits(0, of=100), "pooltasks_late_operations_total": "0+20x85 1700x15"},
        ],
    ),
    "PooltasksObjectiveBurnsSlowly": (
        480,
        4,
        [waits(1.1, of=100)],
        [waits(0.9, of=100)],
    ),
    "PooltasksPoolSaturated": (
        25,
        1,
        [saturated(235, "0+5x{n}")],
        [saturated(200, "0+5x{n}"), saturated(235, "50x{n}"), saturated(235, "0+0.2x{n}")],
    ),
    "PooltasksOldestOperationWaits": (5, 1, [age(31), age(301, 30)], [age(29), age(299, 30)]),
    "PooltasksLatencyRises": (
        240,
        2,
        [latencies("0+200x80 16000x40", "0+200x{n}")],
        [
            latencies("0+200x{n}", "0+200x{n}"),
            latencies("0x{n}", "0+200x{n}"),  # as ever
            latencies("0+2x80 160x40", "0+2x{n}"),  # few operations
        ],
    ),
    "PooltasksOperationsFail": (
        20,
        1,
        [outcomes(94, 6), outcomes(0, 2.1)],
        [outcomes(96, 4), outcomes(0, 1.9), outcomes(96, 0)],
    ),
    "PooltasksFewOperationsFail": (
        90,
        1,
        [outcomes(998, 2)],
        [outcomes(999.5, 0.5), outcomes(10, 2), outcomes(96, 0)],
    ),
    "PooltasksDeadLettersGrow": (
        20,
        1,
        [{"pooltasks_dead_letters": "3x10 4x20"}],
        [{"pooltasks_dead_letters": "3x{n}"}, {"pooltasks_dead_letters": "3x10 0x20"}],
    ),
    "PooltasksWorkersDie": (
        20,
        1,
        [{"pooltasks_recoveries_total": "0x10 8x20"}],
        [{"pooltasks_recoveries_total": "0x10 3x20"}],
    ),
    "PooltasksRecoveryTakesLong": (
        20,
        1,
        [recovered(seconds=12, workers=2)],
        [recovered(seconds=8, workers=2), recovered(seconds=0, workers=0)],
    ),
    "PooltasksNodeLost": (
        30,
        1,
        [nodes("3x10 2x30", "0x10 1x30")],
        [
            nodes("3x10 2x30", "0x40"),  # it said that it stops
            nodes("3x10 2x2 3x30", "0x10 1x30"),  # another one is there
        ],
    ),
    "PooltasksPoolWithoutNode": (5, 1, [nodes("0x{n}", "0x{n}")], [nodes("1x{n}", "1x{n}")]),
    "PooltasksPoolNotWarm": (
        5,
        1,
        [{"pooltasks_size": "2x{n}", "pooltasks_capacity_slots": "0x{n}"}],
        [
            {"pooltasks_size": "2x{n}", "pooltasks_capacity_slots": "1x{n}"},
            {"pooltasks_size": "0x{n}", "pooltasks_capacity_slots": "0x{n}"},
        ],
    ),
    "PooltasksWorkersNotWarm": (
        10,
        1,
        [warm(busy=1, idle=0)],
        [warm(busy=1, idle=1), warm(busy=0, idle=3)],  # the spares are warm too
    ),
    "PooltasksHostsFull": (
        10,
        1,
        [{"pooltasks_wanted_slots": "8x{n}", "pooltasks_target_slots": "4x{n}"}],
        [{"pooltasks_wanted_slots": "4x{n}", "pooltasks_target_slots": "4x{n}"}],
    ),
    "PooltasksVersionRolledBack": (
        5,
        1,
        [rolled_out("2", "aborted", nodes=1)],
        [
            rolled_out("2", "live", nodes=1),
            rolled_out("2", "aborted", nodes=0),
            rolled_out("1", "aborted", nodes=1),  # of another version
        ],
    ),
    "PooltasksOptimizerSilent": (
        10,
        1,
        [optimizer("on")],
        [
            optimizer("off"),
            {**optimizer("on"), "pooltasks_target_slots": "4x{n}"},
            {**optimizer("on"), **nodes("0x{n}", "0x{n}")},  # another alert's
        ],
    ),
    "PooltasksServerUnreachable": (
        5,
        1,
        [{"pooltasks_up": "0x{n}"}],
        # One exporter of two can read it.
        [{"pooltasks_up": "0x{n}", 'pooltasks_up{instance="b"}': "1x{n}"}],
    ),
    "PooltasksServerMemoryFull": (
        5,
        1,
        [{"pooltasks_server_memory_ratio": "0.95x{n}"}],
        [{"pooltasks_server_memory_ratio": "0.85x{n}"}],
    ),
    "PooltasksNoData": (5, 1, [{"pooltasks_up": "1 stale"}], [{"pooltasks_up": "0x{n}"}]),
}


@pytest.fixture(scope="module")
def promtool() -> str:
    program = shutil.which("promtool")
    if program is None:
        reason = "no promtool on PATH (Debian: apt-get install prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return program


def test_every_alert_has_its_cases() -> None:
    assert list(ALERTS) == list(CASES)
    assert all(fires and not_ for _, _, fires, not_ in CASES.values())
    for alert in ALERTS.values():
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert set(alert["annotations"]) == {"summary", "description"}


@pytest.mark.parametrize(
    "path", [*RULES, RULES[0].parents[1] / "prometheus.yml"], ids=lambda p: p.name
)
def test_the_files_are_valid(promtool: str, path: Path) -> None:
    what = "config" if path.name == "prometheus.yml" else "rules"
    completed = subprocess.run(
        [promtool, "check", what, path], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_when_it_should_and_only_then(
    promtool: str, tmp_path: Path, alert: str
) -> None:
    minutes, step, fires, not_ = CASES[alert]
    tests = [case(alert, minutes, step, series, fires=True) for series in fires] + [
        case(alert, minutes, step, series, fires=False) for series in not_
    ]
    file = tmp_path / "tests.yml"
    file.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(path) for path in RULES],
                "evaluation_interval": f"{step}m",
                "tests": tests,
            }
        )
    )
    completed = subprocess.run(
        [promtool, "test", "rules", file], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


def case(
    alert: str, minutes: int, step: int, series: Mapping[str, str], *, fires: bool
) -> dict[str, Any]:
    """Return a test in promtool's form: whether the alert fires at the end of the series."""
    labels = (
        {"job": "pooltasks"}
        if OF_THE_SERVER & series.keys()
        else {"job": "pooltasks", "pool": "code"}
    )
    name, severity = f'alertname="{alert}"', f'severity="{ALERTS[alert]["labels"]["severity"]}"'
    firing = ", ".join([name, 'alertstate="firing"', severity, *_pairs(labels)])
    return {
        "interval": f"{step}m",
        "name": f"{'fires' if fires else 'does not fire'}: {series}",
        "input_series": [
            {
                "series": _labelled(name, labels),
                "values": values.replace("{n}", str(minutes // step)),
            }
            for name, values in series.items()
        ],
        "promql_expr_test": [
            {
                "expr": f"ALERTS{{{name}, alertstate='firing'}}",
                "eval_time": f"{minutes}m",
                "exp_samples": [{"labels": f"ALERTS{{{firing}}}", "value": 1}] if fires else [],
            }
        ],
    }


def _labelled(series: str, labels: Mapping[str, str]) -> str:
    name, _, own = series.rstrip("}").partition("{")
    return f"{name}{{{', '.join([*([own] if own else []), *_pairs(labels)])}}}"


def _pairs(labels: Mapping[str, str]) -> list[str]:
    return [f'{name}="{value}"' for name, value in labels.items()]
