"""The scenarios of ``pooltasks bench``, each on a deployment that is made for it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import click

from benchmarks.deployment import POOL, running
from benchmarks.sleeping import sleep
from pooltasks import Pool, app
from pooltasks.cli.bench.command import judge, load_options

_RECYCLED = 5000
"""Operations after which a worker makes room for a new one."""


class _Plan(NamedTuple):
    """The defaults of a scenario, for two cores."""

    what: str
    rate: float
    seconds: int
    kills: int = 0
    node_kills: int = 0
    run_ms: float = 5.0
    settle: int = 5
    size: int = 4
    """Workers that a node starts with."""
    peak: float | None = None
    pool: dict[str, object] = {}  # noqa: RUF012  nobody changes it
    """Settings of the pool beside those of all."""


PLANS = {
    "targets": _Plan(
        "Judge the eight goals of the requirements document.",
        600,
        60,
        12,
        3,
        peak=1050,
        # A node that dies leaves its work to one that has as many workers again at hand.
        size=2,
        pool={"spares": 2, "max_overflow": 4},
        settle=20,
    ),
    "load": _Plan(
        "Find the highest rate that the pool stands.",
        2000,
        80,
        settle=20,
        pool={"max_overflow": 8},
    ),
    "latency": _Plan("Judge latencies, and show where they come from.", 600, 30),
    "memory": _Plan("Measure a worker, a node and a waiting operation.", 200, 20),
    "recovery": _Plan("Judge how soon others take the place of the dead.", 300, 60, 10, 3),
    "scale": _Plan(
        "Judge how the size follows the rate.",
        400,
        150,
        run_ms=20,
        settle=20,
        pool={"max_overflow": 8},
    ),
    "soak": _Plan(
        "Judge whether anything grows.",
        600,
        1700,
        settle=330,  # a page that is open has five minutes in memory
        pool={"recycle_operations": _RECYCLED},
    ),
}


def command(name: str) -> click.Command:
    """Return the command of a scenario."""
    plan = PLANS[name]

    @click.command(
        name,
        help=f"{plan.what} See pooltasks bench --help; this makes the deployment, too: a server, "
        "nodes that sleep for each operation, the optimizer and a dashboard.",
    )
    @click.option(
        "--rate",
        type=click.FloatRange(min=0, min_open=True),
        default=plan.rate,
        show_default=True,
        help="Operations a second.",
    )
    @click.option(
        "--run-ms",
        type=click.FloatRange(min=0),
        default=plan.run_ms,
        show_default=True,
        help="How long each sleeps.",
    )
    @click.option("--nodes", type=click.IntRange(min=1), default=2, show_default=True)
    @click.option(
        "--workers",
        type=click.IntRange(min=1),
        default=16,
        show_default=True,
        help="The most that a node may have.",
    )
    @load_options(
        seconds=plan.seconds,
        settle=plan.settle,
        kills=plan.kills,
        node_kills=plan.node_kills,
        peak=plan.peak,
    )
    def run(*, rate: float, run_ms: float, nodes: int, workers: int, **options: Any) -> None:
        pool = {
            "imports": '["benchmarks.sleeping"]',
            "pool_size": min(plan.size, workers),
            "min_pool_size": 1,
            "max_pool_size": workers,
            **plan.pool,
        }
        with (
            tempfile.TemporaryDirectory(prefix="pooltasks-bench-") as folder,
            running(Path(folder), pool, nodes) as beside,
        ):
            # Only now: a name is the application's, which then reads the address of the server.
            call = f"{sleep.name} {json.dumps([run_ms / 1000])}"
            judge(app, Pool(POOL), name, rate, call, beside=beside, **options)

    return run
