"""The command ``scripts/chaos``."""

from __future__ import annotations

import tempfile
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chaos.cuts import cuts
from chaos.delayed import Plan as DelayedPlan
from chaos.delayed import delayed
from chaos.fleet import fleet
from chaos.fuzz import fuzz
from chaos.keda import Plan as KedaPlan
from chaos.keda import keda
from chaos.kill import Plan, kill
from chaos.limits import limits
from chaos.points import Outcome, points
from chaos.recovery import recovery
from chaos.reporting import show
from chaos.restart import restart
from chaos.server import MortalServer
from chaos.stops import stops
from chaos.unique import unique
from pooltasks.cli.options import json_option
from pooltasks.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Iterator

_OF_A_SEED = 25

seed_option = click.option("--seed", type=int, default=1, show_default=True)


@contextmanager
def _empty_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pooltasks-chaos-") as folder:
        yield Path(folder)


@click.group()
def main() -> None:
    """Break a deployment on purpose, and account for every operation afterwards."""


@main.command("kill")
@click.option("--operations", type=click.IntRange(min=1), default=10_000, show_default=True)
@click.option("--node-kills", type=click.IntRange(min=0), default=10, show_default=True)
@click.option("--worker-kills", type=click.IntRange(min=0), default=30, show_default=True)
@click.option(
    "--freezes",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="SIGSTOP of a node or a worker, for up to 7 s.",
)
@click.option(
    "--cuts",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Of all connections of the second host and of the producer.",
)
@click.option(
    "--other-kills",
    type=click.IntRange(min=0),
    default=4,
    show_default=True,
    help="SIGKILL of the control node or of beat.",
)
@click.option("--transport", type=click.Choice(["pooltasks", "stock"]), default="pooltasks")
@seed_option
@json_option
def kill_(  # noqa: PLR0917  click passes an argument for each option
    operations: int,
    node_kills: int,
    worker_kills: int,
    freezes: int,
    cuts: int,
    other_kills: int,
    transport: str,
    seed: int,
    as_json: bool,
) -> None:
    """Kill, freeze and cut at random while operations run on four nodes.

    Exits with 1 when an accepted operation is neither done nor failed nor a
    dead letter at the end.
    """
    plan = Plan(operations, node_kills, worker_kills, freezes, cuts, other_kills)
    with _empty_folder() as folder:
        show(kill(folder, plan, transport, seed), as_json=as_json)


@main.command("recovery")
@click.option("--times", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--freezes", type=click.IntRange(min=1), default=5, show_default=True)
@json_option
def recovery_(times: int, freezes: int, as_json: bool) -> None:
    """Measure how soon what ran in a killed or frozen process runs again.

    Exits with 1 when a bound does not hold.
    """
    with _empty_folder() as folder:
        show(recovery(folder, times, freezes), as_json=as_json)


@main.command("delayed")
@click.option("--later", type=click.IntRange(min=0), default=1_000_000, show_default=True)
@click.option("--due", type=click.IntRange(min=1), default=100_000, show_default=True)
@click.option("--window", type=click.FloatRange(min=0.1), default=10.0, show_default=True)
@click.option("--drained", type=click.IntRange(min=1), default=20_000, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@json_option
def delayed_(as_json: bool, **plan: Any) -> None:
    """Measure what operations cost that are not due, and whether others start on time.

    Exits with 1 when a bound does not hold.
    """
    with _empty_folder() as folder:
        show(delayed(folder, DelayedPlan(**plan)), as_json=as_json)


@main.command("fleet")
@click.option("--nodes", type=click.IntRange(min=2), default=1000, show_default=True)
@click.option("--pools", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=10.0,
    show_default=True,
    help="How long the idle fleet is looked at, twice.",
)
@click.option("--kills", type=click.IntRange(min=1), default=5, show_default=True)
@json_option
def fleet_(nodes: int, pools: int, seconds: float, kills: int, as_json: bool) -> None:
    """Measure a fleet of many nodes on one server: its cost, deaths, a restart of the server.

    Exits with 1 when a target is missed.
    """
    with _empty_folder() as folder:
        show(fleet(folder, nodes, pools, seconds, kills), as_json=as_json)


@main.command("cuts")
@click.option("--times", type=click.IntRange(min=1), default=100, show_default=True)
@seed_option
@json_option
def cuts_(times: int, seed: int, as_json: bool) -> None:
    """Cut connections of living nodes at random, one at a time.

    Exits with 1 when an operation is lost or starts twice, when a cut counts as a delivery,
    or when a node ends.
    """
    with _empty_folder() as folder:
        show(cuts(folder, times, seed), as_json=as_json)


@main.command("stops")
@click.option("--times", type=click.IntRange(min=1), default=200, show_default=True)
@seed_option
@json_option
def stops_(times: int, seed: int, as_json: bool) -> None:
    """Stop nodes in every way under load: SIGTERM, SIGQUIT, Ctrl-C, soft, SIGKILL after SIGTERM.

    Exits with 1 when an operation is lost, when a stop counts as a delivery, or when
    something ran twice that nothing had interrupted.
    """
    with _empty_folder() as folder:
        show(stops(folder, times, seed), as_json=as_json)


@main.command("keda")
@click.option(
    "--trace",
    "trace_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A CSV file with a count for each minute.  [default: days that rise and fall as a sine]",
)
@click.option("--seconds", type=click.FloatRange(min=1), default=300.0, show_default=True)
@click.option(
    "--compression",
    type=click.FloatRange(min=1, max=600),
    default=600.0,
    show_default=True,
    help="How many times faster than their time the arrivals come.",
)
@click.option(
    "--haste",
    # Nodes at rest write a sample each 4 s: in less than that nothing can have lasted.
    type=click.FloatRange(min=1, max=10),
    default=10.0,
    show_default=True,
    help="How many times sooner than usual the optimizer and the autoscaler act.",
)
@seed_option
@json_option
def keda_(as_json: bool, **plan: Any) -> None:
    """Play days of traffic on nodes that KEDA starts and ends, as in config/kubernetes.

    Exits with 1 when an operation is lost, interrupted or run twice, or when a node has to be
    killed.
    """
    with _empty_folder() as folder:
        show(keda(folder, KedaPlan(**plan)), as_json=as_json)


@main.command("restart")
@click.option("--times", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--nodes", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--server",
    "program",
    type=click.Choice(["valkey", "redis"]),
    default="valkey",
    show_default=True,
    help="The embedded Valkey, or redis-server on PATH.",
)
@click.option(
    "--appendfsync",
    type=click.Choice(["always", "everysec"]),
    default="always",
    show_default=True,
    help="When an accepted write is on disk.",
)
@seed_option
@json_option
def restart_(  # noqa: PLR0917  click passes an argument for each option
    times: int, nodes: int, program: str, appendfsync: str, seed: int, as_json: bool
) -> None:
    """Kill the server under load and start it again on its append-only file.

    Exits with 1 when a node does not consume within 2 s of its return, when an
    accepted operation is lost, or when a node or a producer fails.
    """
    with _empty_folder() as folder:
        server = MortalServer(folder / "data", program=program, appendfsync=appendfsync)
        show(restart(folder, times, server, nodes, seed), as_json=as_json)


@main.command("fuzz")
@click.option("--messages", type=click.IntRange(min=1), default=10_000, show_default=True)
@seed_option
@json_option
def fuzz_(messages: int, seed: int, as_json: bool) -> None:
    """Push hostile messages with good ones between them to a pool of two nodes.

    Exits with 1 when a node dies, a good message does not complete, or a
    hostile one is neither a dead letter nor an operation with an end. Prints
    the first of the latter.
    """
    with _empty_folder() as folder:
        show(fuzz(folder, messages, seed), as_json=as_json)


@main.command("limits")
@click.option("--operations", type=click.IntRange(min=1), default=5000, show_default=True)
@click.option("--tenants", type=click.IntRange(min=1), default=50, show_default=True)
@click.option(
    "--every",
    type=click.FloatRange(min=0.0),
    default=0.4,
    show_default=True,
    help="Seconds between two tenants.",
)
@click.option("--node-kills", type=click.IntRange(min=0), default=4, show_default=True)
@click.option("--worker-kills", type=click.IntRange(min=0), default=16, show_default=True)
@seed_option
@json_option
def limits_(as_json: bool, **plan: Any) -> None:
    """Kill nodes and workers while tenants use their limits: 10 at once and 100 a second each.

    Judged by the operations' own notes. Exits with 1 when a limit was exceeded, when less
    than 95 % of the permitted rate was used, or when a tenant waited twice as long as its share.
    """
    with _empty_folder() as folder:
        show(limits(folder, **plan), as_json=as_json)


@main.command("unique")
@click.option("--calls", type=click.IntRange(min=30), default=10_000, show_default=True)
@click.option("--keys", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=1.0), default=20.0, show_default=True)
@click.option("--node-kills", type=click.IntRange(min=0), default=4, show_default=True)
@click.option("--worker-kills", type=click.IntRange(min=0), default=16, show_default=True)
@seed_option
@json_option
def unique_(as_json: bool, **plan: Any) -> None:
    """Kill nodes and workers while producers of three kinds call unique operations.

    Exits with 1 when two calls with the same key waited or ran together, or one was lost.
    """
    with _empty_folder() as folder:
        show(unique(folder, **plan), as_json=as_json)


@main.command("model")
@click.option("--examples", type=click.IntRange(min=1), default=500, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=30, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the first 25 examples.")
def model_(examples: int, steps: int, seed: int) -> None:
    """Have anything happen to a model of a pool, over its real scripts and sessions.

    Each 25 examples have a seed of their own. Exits with 1 when an operation
    is lost, runs too often, or is taken from a living node; prints the
    shortest example found.
    """
    # Its examples need packages that only developers have installed.
    from chaos.model.run import run_model  # noqa: PLC0415

    with _empty_folder() as folder, EmbeddedServer(folder) as server:
        for number, done in enumerate(range(0, examples, _OF_A_SEED), seed):
            some = min(_OF_A_SEED, examples - done)
            click.echo(f"seed {number}: {some} examples", err=True)
            try:
                run_model(server.url, examples=some, number=number, steps=steps)
            except Exception as error:  # an error of the core is a finding too
                traceback.print_exc()
                raise SystemExit(1) from error
    click.echo(f"{examples} examples of {steps} steps at the most: nothing is lost")


@main.command("points")
@click.option("--share", type=click.IntRange(min=1), help="How many points; all by default.")
@click.option("--slots", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--paced", is_flag=True, help="Operations come one by one: workers wait at the server."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Which share.")
@json_option
def points_(share: int | None, slots: int, paced: bool, seed: int, as_json: bool) -> None:
    """Kill a node, a worker or a producer before and after each of its writes to the server.

    Exits with 1 when an accepted operation has no end, or runs twice that must not.
    """

    def tell(outcome: Outcome) -> None:
        if not as_json:
            problems = "; ".join(outcome.problems) or "all have an end"
            reached = "" if outcome.was_reached else " (not reached)"
            click.echo(f"{outcome.point}{reached}: {outcome.accepted} accepted, {problems}")

    with _empty_folder() as folder:
        found = points(folder, share, seed, tell, slots=slots, paced=paced)
        show(found, as_json=as_json)


if __name__ == "__main__":
    main(prog_name="scripts/chaos")
