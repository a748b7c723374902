"""What ``import pooltasks`` costs beside Celery with its Redis transport and result backend."""

from __future__ import annotations

import os
import subprocess
import sys
from statistics import median
from typing import Final

from benchmarks.measure import ROOT
from benchmarks.telemetry import Figure

_CELERY: Final = (
    "import celery.app.amqp, celery.app.base, celery.backends.redis, kombu.transport.redis"
)
_OURS: Final = "import pooltasks"
_BOUND: Final = 1.15  # times as long as Celery
_TIMED: Final = """
from resource import RUSAGE_SELF, getrusage
before = getrusage(RUSAGE_SELF)
{}
after = getrusage(RUSAGE_SELF)
print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
"""


def figures(rounds: int) -> list[Figure]:
    """Import one after the other, in a new process each time, ``rounds`` times.

    It is CPU time that counts: what else the machine does is not in it. Bytecode is cached,
    as it is where a package is installed.
    """
    pairs = [(_seconds(_CELERY), _seconds(_OURS)) for _ in range(rounds + 1)]
    # The first round writes the bytecode.
    theirs, ours = (median(its) for its in zip(*pairs[1:], strict=True))
    return [
        Figure("import pooltasks", 1000 * ours, "ms", 1000 * _BOUND * theirs),
        Figure("import pooltasks ÷ import of Celery", ours / theirs, "", _BOUND),
    ]


def _seconds(statement: str) -> float:
    """Return the CPU time of a statement in a new process."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", _TIMED.format(statement)],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)
