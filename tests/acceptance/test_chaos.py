"""Small versions of what ``scripts/chaos`` does at full size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    assert completed.returncode == 0 or not strict, completed.stdout + completed.stderr
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


def test_nothing_is_lost_when_the_server_is_killed_and_started_again() -> None:
    # The bound of 2 s is for a machine that has nothing else to do.
    found = chaos("restart", "--times=1", "--nodes=2", strict=False)
    assert found["lost"] == found["waiting"] == found["reserved"] == 0
    assert found["done"] == found["accepted"] > 50
    assert found["node_deaths"] == 0
    assert found["unexpected"] == []
    assert max(max(seconds) for seconds in found["back"].values()) < 15
