"""The command ``pool bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pooltasks.cli.calls import parse_call
from pooltasks.cli.options import json_option

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from celery import Celery
    from celery.bin.base import CLIContext

    from pooltasks.cli.bench.loaded import Subject

NAMES = ("targets", "load", "latency", "memory", "recovery", "scale", "soak")

_Function = TypeVar("_Function", bound="Callable[..., Any]")


def _earlier(
    _: click.Context, __: click.Parameter, path: Path | None
) -> Mapping[str, float | None] | None:
    """Return the numbers of an earlier run, by what they are."""
    from pooltasks.cli.bench.report import read_earlier

    return None if path is None else read_earlier(path)


def load_options(
    *,
    seconds: int = 30,
    settle: int = 5,
    kills: int = 0,
    node_kills: int = 0,
    peak: float | None = None,
) -> Callable[[_Function], _Function]:
    """Return a decorator with the options of a load and of its report; :func:`judge` takes them.

    Args:
        seconds: The default.
        settle: The same.
        kills: The same.
        node_kills: The same.
        peak: The same.
    """
    kill = click.IntRange(min=0)
    options = (
        click.option(
            "--seconds",
            type=click.IntRange(2, 86400),
            default=seconds,
            show_default=True,
            help="That count.",
        ),
        click.option(
            "--settle",
            type=click.IntRange(0, 3600),
            default=settle,
            show_default=True,
            help="Seconds of the load before those.",
        ),
        click.option(
            "--kill",
            "kills",
            type=kill,
            default=kills,
            show_default=True,
            help="Kill so many workers on this host meanwhile, to measure recovery.",
        ),
        click.option(
            "--kill-nodes",
            "node_kills",
            type=kill,
            default=node_kills,
            show_default=True,
            help="The same of nodes; something has to start them again.",
        ),
        click.option(
            "--peak",
            type=click.FloatRange(min=0, min_open=True),
            default=peak,
            show_default=peak is not None,
            help="targets: operations a second that follow, with nobody killed: the throughput is "
            "judged there.",
        ),
        click.option(
            "--compare",
            "earlier",
            callback=_earlier,
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="What --json wrote of an earlier run.",
        ),
        click.option(
            "--picture",
            type=click.Path(dir_okay=False, writable=True, path_type=Path),
            help="Draw the load's seconds into this SVG file.",
        ),
        json_option,
    )

    def decorate(function: _Function) -> _Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@click.command()
@click.option("--pool", "name", required=True, help="The pool; its nodes have to run.")
@click.option(
    "--scenario",
    type=click.Choice(NAMES),
    default="targets",
    show_default=True,
    help="What is measured.",
)
@click.option(
    "--rate",
    required=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Operations a second, at random as callers come (Poisson).",
)
@click.option(
    "--operation",
    default="ping",
    show_default=True,
    metavar="OPERATION [JSON]",
    help="What is sent, with its arguments (a list or an object); ping is built in.",
)
@load_options()
@click.pass_obj
def bench(
    context: CLIContext, /, *, name: str, scenario: str, rate: float, operation: str, **options: Any
) -> None:
    """Put a pool that runs under load, and judge what is measured.

    \b
    targets   all eight goals of the requirements document at once
    load      the highest rate that the pool stands: a quarter of --rate, a half, …
    latency   latencies at --rate, and where they come from
    memory    what a worker, a node and a waiting operation need, as the pool grows;
              its nodes take nothing for a moment
    recovery  how soon others take the place of workers (5, or --kill) and nodes that die
    scale     whether the size follows a rate that goes up and down
    soak      whether anything grows, at a quarter above and below --rate in turn: the
              last tenth of --seconds beside the first

    The figures include other work that the pool does meanwhile. Exits with 1 if a goal is
    missed; one that is not known, as recovery where no worker died, is not missed.
    """  # noqa: D301  click's mark for lines that it leaves as they are
    from pooltasks import Pool

    judge(context.app, Pool(name, context.app), scenario, rate, operation, **options)


def judge(
    app: Celery,
    pool: Any,
    scenario: str,
    rate: float,
    operation: str,
    *,
    seconds: int,
    settle: int,
    kills: int,
    node_kills: int,
    peak: float | None,
    earlier: Mapping[str, float | None] | None,
    picture: Path | None,
    as_json: bool,
    beside: Mapping[str, int] | None = None,
) -> None:
    """Run a scenario on a pool, and print its report.

    Args:
        app: The application.
        pool: The pool.
        scenario: One of :data:`NAMES`.
        rate: Operations a second.
        operation: As :func:`pooltasks.cli.calls.parse_call` reads it.
        seconds: Of the load, that count.
        settle: Seconds of the load before those.
        kills: Workers to kill.
        node_kills: Nodes to kill.
        peak: Operations a second at which ``targets`` judges the throughput.
        earlier: Numbers of an earlier run, by what they are.
        picture: Where to draw it.
        as_json: Whether to print JSON.
        beside: Ids of other processes that belong to the deployment, by name.

    Raises:
        click.ClickException: No node of the pool answers, or there are too few to kill.
        SystemExit: With 1, if a goal is missed.
    """
    # A node loads this module too.
    from pooltasks import remote
    from pooltasks.cli.bench.loaded import Subject
    from pooltasks.cli.bench.picture import svg
    from pooltasks.cli.bench.scenarios import SCENARIOS
    from pooltasks.cli.bench.watch import nodes_of

    nodes = nodes_of(pool, remote.ask(app, "pool_status"))
    if not nodes:
        raise click.ClickException(
            f"No node of {pool.name} answers. Start one: celery -A pooltasks worker -Q {pool.queue}"
        )
    subject = Subject(
        pool=pool,
        nodes=nodes,
        call=parse_call(operation),
        rate=rate,
        seconds=seconds,
        settle=settle,
        tell=lambda line: click.echo(line, err=True),
        kills=kills,
        node_kills=node_kills,
        peak=peak,
        beside=beside or {},
    )
    _refuse_kills(subject)
    subject.tell(
        f"{scenario}: {rate:g} operations a second for {settle} + {seconds} s to {pool.queue}"
    )
    report = SCENARIOS[scenario](subject)
    if as_json:
        document = {"scenario": scenario, **report.as_json()}
        click.echo(json.dumps({**document, "earlier": earlier}, indent=2))
    else:
        for line in report.lines(earlier):
            click.echo(line)
    for line in report.warnings():
        subject.tell(line)
    if picture:
        picture.write_text(svg(report.charts, report.loaded.load.seconds), "utf-8")
    if report.is_missed:
        raise SystemExit(1)


def _refuse_kills(subject: Subject) -> None:
    """Refuse to kill where nothing can be killed: those of other hosts are out of reach."""
    from pooltasks.cli.bench.victims import warm_workers

    here = list(warm_workers(subject.nodes))
    if subject.kills and not here:
        raise click.ClickException("Workers are to be killed, and no warm one is on this host.")
    if subject.node_kills and len({node for node, _ in here}) < min(2, subject.node_kills + 1):
        raise click.ClickException(
            "Nodes are to be killed, and the pool has fewer than two on this host: nothing would "
            "take the operations of the one."
        )
