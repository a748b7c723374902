"""A process that is killed before or after any of its writes to the server loses nothing.

A share of ``scripts/chaos points``, of another seed each time; it is printed.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SHARE = 3


@pytest.mark.parametrize("how", ["--slots=1", "--slots=2", "--paced"])
def test_every_operation_has_an_end_wherever_a_process_is_killed(how):
    seed = random.SystemRandom().randrange(10**6)
    command = ["points", f"--share={SHARE}", how, f"--seed={seed}", "--json"]
    print("scripts/chaos", *command)  # noqa: T201  shown when it fails
    completed = subprocess.run(
        [sys.executable, "-m", "chaos", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=115,
        check=False,
    )
    assert completed.stdout, completed.stderr
    found = json.loads(completed.stdout)
    assert found["failed"] == []
    assert found["points"] == SHARE
