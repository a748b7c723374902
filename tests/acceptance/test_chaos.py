"""Small versions of what ``scripts/chaos`` does at full size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]


def chaos(*arguments: str, strict: bool = True) -> dict[str, Any]:
    """Run the command; return what it found. If ``strict``, it must say that all is in order."""
    completed = subprocess.run(
        [sys.executable, "-m", "chaos", *arguments, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    # It exits with 1 when not all is in order, and for an error of its own without a document.
    is_in_order = completed.returncode == 0 or (not strict and completed.stdout.startswith("{"))
    assert is_in_order, completed.stdout + completed.stderr
    return json.loads(completed.stdout)


def test_nothing_is_lost_when_nodes_and_workers_are_killed_frozen_and_cut_off() -> None:
    found = chaos(
        "kill",
        "--operations=800",
        "--node-kills=2",
        "--worker-kills=4",
        "--freezes=1",
        "--cuts=2",
        "--other-kills=1",
    )
    assert found["lost"] == found["waiting"] == found["reserved"] == 0
    assert found["done"] + found["failed"] + found["dead"] == found["accepted"]
    assert found["failed"] >= 2
    happened = found["happened"]
    assert (happened["node kills"], happened["worker kills"], happened["cuts"]) == (2, 4, 2)


def test_no_hostile_message_ends_a_node_or_a_good_one_and_each_has_an_end() -> None:
    found = chaos("fuzz", "--messages=500", "--seed=7")
    assert found["unaccounted"] == []
    assert found["node_deaths"] == found["good_unfinished"] == 0
    assert sum(found[end] for end in ("dead", "ended", "ran", "scheduled")) == 500
    assert found["dead"] > 200


def test_any_one_connection_of_a_living_node_may_be_cut() -> None:
    found = chaos("cuts", "--times=20", "--seed=3")
    assert found["lost"] == found["waiting"] == found["reserved"] == 0
    assert found["repeated"] == found["dead"] == found["node_deaths"] == 0
    assert found["done"] == found["accepted"] > 50


def test_a_small_fleet_costs_little_and_outlives_its_server() -> None:
    # The targets are for a machine that has nothing else to do.
    found = chaos("fleet", "--nodes=60", "--seconds=3", "--kills=2", strict=False)
    assert found["taken_for_dead"] == 0
    assert found["idle"] < 0.1
    assert max(found["deaths"]) < 2.0
    assert found["restart"] < 15
    assert found["joined"] == found["left"] > 0


def test_nothing_is_lost_when_the_server_is_killed_and_started_again() -> None:
    # The bound of 2 s is for a machine that has nothing else to do.
    found = chaos("restart", "--times=1", "--nodes=2", strict=False)
    assert found["lost"] == found["waiting"] == found["reserved"] == 0
    assert found["done"] == found["accepted"] > 50
    assert found["node_deaths"] == 0
    assert found["unexpected"] == []
    assert max(max(seconds) for seconds in found["back"].values()) < 15


def test_limits_of_tenants_hold_while_nodes_and_workers_are_killed() -> None:
    # How much of the rate is used is for a machine that has nothing else to do.
    found = chaos(
        *("limits", "--operations=300", "--tenants=6", "--node-kills=1", "--worker-kills=3"),
        strict=False,
    )
    assert found["lost"] == found["waiting"] == found["reserved"] == found["dead"] == 0
    assert found["done"] == found["accepted"] == 300
    assert 1 < found["most_at_once"] <= 10
    assert found["too_early"] < 0.5
    assert found["used"] > 0


def test_no_two_calls_of_a_key_wait_or_run_while_nodes_and_workers_are_killed() -> None:
    found = chaos(
        *("unique", "--calls=600", "--keys=20", "--seconds=4"),
        *("--node-kills=1", "--worker-kills=3"),
    )
    assert found["together"] == found["too_soon"] == found["seen_together"] == 0
    assert found["done"] == found["accepted"]
    assert found["accepted"] + found["duplicates"] == found["calls"] == 600
    assert found["duplicates"] > 20
    assert found["looks"] > 10
