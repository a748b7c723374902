"""``scripts/bench asyncio``: each request of a loop is answered, also when the server hangs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]


def test_requests_of_one_loop_await_operations_and_none_waits_for_a_server_that_hangs(
    tmp_path: Path,
) -> None:
    pytest.importorskip("fastapi")
    figures = tmp_path / "figures.json"
    options = ["--seconds", "1", "--requests", "200", "--json", str(figures)]
    completed = subprocess.run(
        [sys.executable, "-m", "benchmarks", "asyncio", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr  # a wrong answer is an error
    measured = {each["what"]: each["value"] for each in json.loads(figures.read_text("utf-8"))}
    assert measured["operations, from request to answer"] > 0
    assert measured["threads made"] == 0
    assert measured["requests without an answer of a silent server"] == 0
