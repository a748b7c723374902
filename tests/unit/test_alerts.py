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
        "pooltasks_size": "4x{n}",
        "pooltasks_backlog": backlog,
    }


def nodes(live: str, lost: str) -> dict[str, str]:
    return {
        'pooltasks_nodes{state="live"}': live,
        'pooltasks_nodes{state="lost"}': lost,
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
    "PooltasksOperationsFail": (
        20,
        1,
        [outcomes(94, 6), outcomes(0, 2.1)],
        [outcomes(96, 4), outcomes(0, 1.9), outcomes(96, 0)],
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
        {"job": "pooltasks"} if "pooltasks_up" in series else {"job": "pooltasks", "pool": "code"}
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
