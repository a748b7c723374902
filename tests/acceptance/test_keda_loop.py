"""Nodes that KEDA starts and ends under load: a small version of ``scripts/chaos keda``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
MINUTES = [20] * 10 + [50] * 40 + [20] * 150
"""Requests: a crowd that comes and goes within hours, each of which takes six seconds."""


def test_nodes_come_and_go_with_the_load_and_nobody_notices(tmp_path: Path) -> None:
    trace = tmp_path / "crowd.csv"
    rows = (f"1998-06-10 {m // 60:02}:{m % 60:02}:00,{count}" for m, count in enumerate(MINUTES))
    trace.write_text("\n".join(["period,count", *rows]))
    seconds = len(MINUTES) / 10
    command = ["keda", f"--trace={trace}", f"--seconds={seconds:g}", "--seed=2"]
    completed = subprocess.run(
        [sys.executable, "-m", "chaos", *command, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    found = json.loads(completed.stdout)
    assert found["accepted"] == found["done"] > 200
    assert found["lost"] == found["interrupted"] == found["repeated"] == 0
    assert found["killed"] == found["refused"] == found["restarts"] == 0
    assert found["badly_ended"] == []
    assert found["most"] >= 3
    assert found["grown"] >= 1
    assert found["shrunk"] >= 1
    assert found["ended"] >= 2
    assert found["nodes"][-1][1] == 1
