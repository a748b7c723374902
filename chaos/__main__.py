"""The command ``scripts/chaos``."""

from __future__ import annotations

import json
import tempfile
import traceback
from dataclasses import asdict
from pathlib import Path
from statistics import median_high
from typing import TYPE_CHECKING, Any

import click

from chaos.cuts import cuts
from chaos.delayed import LATE_SECONDS, delayed
from chaos.delayed import Plan as DelayedPlan
from chaos.fleet import DEATH_SECONDS, IDLE_SHARE, RESTART_SECONDS, fleet
from chaos.fuzz import fuzz
from chaos.keda import Plan as KedaPlan
from chaos.keda import keda
from chaos.kill import Plan, kill
from chaos.limits import EARLY_SECONDS, LONGEST_SHARE, USED_SHARE, limits
from chaos.points import Outcome, points
from chaos.recovery import recovery
from chaos.restart import CONSUMPTION_BOUND, restart
from chaos.server import MortalServer
from chaos.stops import WAIT_BOUND, stops
from chaos.unique import unique
from pooltasks.cli.options import json_option
from pooltasks.embedded import EmbeddedServer

if TYPE_CHECKING:
    from chaos.cuts import Report as CutsReport
    from chaos.keda import Report as KedaReport
    from chaos.limits import Report as LimitsReport
    from chaos.restart import Report as RestartReport
    from chaos.stops import Report as StopsReport
    from chaos.unique import Report as UniqueReport

_OF_A_SEED = 25

seed_option = click.option("--seed", type=int, default=1, show_default=True)


def _document(
    found: CutsReport | KedaReport | StopsReport | RestartReport | LimitsReport | UniqueReport,
) -> str:
    """Return a report as JSON: its account beside its own fields, with the number of losses."""
    account = found.account
    document = {**found._asdict(), **asdict(account), "lost": len(account.lost)}
    del document["account"]
    return json.dumps({**document, "holds": found.holds}, indent=2)


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
    with tempfile.TemporaryDirectory(prefix="pooltasks-chaos-") as folder:
        report = kill(Path(folder), plan, transport, seed)
    account = report.account
    if as_json:
        document = {
            **asdict(account),
            "lost": len(account.lost),
            "refused": report.refused,
            "happened": report.happened,
            "seconds": report.seconds,
        }
        click.echo(json.dumps(document, indent=2))
    else:
        happened = ", ".join(f"{count} {what}" for what, count in sorted(report.happened.items()))
        click.echo(f"{happened}; {report.refused} refused; {report.seconds:.0f} s")
        click.echo(
            f"{account.accepted} accepted: {account.done} done, {account.failed} failed, "
            f"{account.dead} dead letters, {account.repeated} runs more than once; "
            f"still waiting {account.waiting}, held by dead nodes {account.reserved}, "
            f"lost {len(account.lost)}"
        )
    if not account.is_whole:
        raise SystemExit(1)


@main.command("recovery")
@click.option("--times", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--freezes", type=click.IntRange(min=1), default=5, show_default=True)
@json_option
def recovery_(times: int, freezes: int, as_json: bool) -> None:
    """Measure how soon what ran in a killed or frozen process runs again.

    Exits with 1 when a bound does not hold.
    """
    with tempfile.TemporaryDirectory(prefix="pooltasks-chaos-") as folder:
        scenarios = recovery(Path(folder), times, freezes)
    if as_json:
        click.echo(json.dumps([scenario._asdict() for scenario in scenarios], indent=2))
    else:
        click.echo(
            "what                        times  median ms  longest ms  bounds ms       holds"
        )
        for each in scenarios:
            bounds = f"{1000 * each.median_bound:.0f} / {1000 * each.bound:.0f}"
            click.echo(
                f"{each.name:<27} {len(each.times):5} {1000 * each.median:10.0f} "
                f"{1000 * max(each.times):11.0f}  {bounds:<15} {'yes' if each.holds else 'no'}"
            )
    if not all(scenario.holds for scenario in scenarios):
        raise SystemExit(1)


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
    its = DelayedPlan(**plan)
    with tempfile.TemporaryDirectory(prefix="pooltasks-chaos-") as folder:
        found = delayed(Path(folder), its)
    if as_json:
        click.echo(json.dumps({**found._asdict(), "holds": found.holds}, indent=2))
    else:
        for name, rates in (("without", found.drain_before), ("with", found.drain_with)):
            shown = ", ".join(f"{rate:.0f}" for rate in sorted(rates))
            click.echo(f"operations a second {name} {its.later} due in an hour: {shown}")
        click.echo(
            f"a node and its workers: {found.memory_before:.1f} MB without them, "
            f"{found.memory_with:.1f} MB with them"
        )
        click.echo(
            f"{its.due} due within {its.window:g} s: the latest started "
            f"{1000 * found.late:.0f} ms after its time, target {1000 * LATE_SECONDS:.0f} ms; "
            f"{found.missing} missing"
        )
    if not found.holds:
        raise SystemExit(1)


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
    with tempfile.TemporaryDirectory(prefix="pooltasks-chaos-") as folder:
        found = fleet(Path(folder), nodes, pools, seconds, kills)
    if as_json:
        click.echo(json.dumps({**found._asdict(), "holds": found.holds}, indent=2))
    else:
        click.echo(f"{found.nodes} nodes in {found.pools} pools")
        click.echo(f"idle: {found.idle:.1%} of a core of the server, target {IDLE_SHARE:.0%}")
        click.echo(f"idle, nodes come and go: {found.idle_with_churn:.1%} of a core")
        click.echo(f"a node: {1000 * found.node:.1f} ms of its processor a second")
        for name, (calls, used) in sorted(found.commands.items(), key=lambda each: -each[1][1]):
            click.echo(f"    {name:<20} {calls:8.0f} a second {1000 * used:8.2f} ms")
        median = median_high(found.deaths)
        click.echo(
            f"death of a node until all it had reserved runs again: median {1000 * median:.0f} ms, "
            f"longest {1000 * max(found.deaths):.0f} ms, target {1000 * DEATH_SECONDS:.0f} ms"
        )
        click.echo(
            f"restart of the server until every node consumes: {found.restart:.1f} s, "
            f"target {RESTART_SECONDS:g} s"
        )
        click.echo(
            f"{found.joined} nodes joined, {found.left} left, "
            f"{found.taken_for_dead} were taken for dead"
        )
    if not found.holds:
        raise SystemExit(1)


@main.command("cuts")
@click.option("--times", type=click.IntRange(min=1), default=100, show_default=True)
@seed_option
@json_option
def cuts_(times: int, seed: int, as_json: bool) -> None:
    """Cut connections of living nodes at random, one at a time.

    Exits with 1 when an operation is lost or starts twice, when a cut counts as a delivery,
    or when a node ends.
    """
    with tempfile.TemporaryDirectory(prefix="pooltasks-chaos-") as folder:
        found = cuts(Path(folder), times, seed)
    account = found.account
    if as_json:
        click.echo(_document(found))
    else:
        what = ", ".join(f"{count} at {name}" for name, count in found.cuts.most_common())
        click.echo(f"{found.cuts.total()} cuts: {what}")
        click.echo(
            f"{account.accepted} accepted: {account.done} done, {account.dead} dead letters, "
            f"{account.repeated} started more than once, lost {len(account.lost)}; longest wait "
            f"{found.longest_wait:.2f} s; {found.node_deaths} nodes ended; {found.seconds:.0f} s"
        )
    if not found.holds:
        raise SystemExit(1)


@main.command("stops")
@click.option("--times", type=click.IntRange(min=1), default=200, show_default=True)
@seed_option
@json_option
def stops_(times: int, seed: int, as_json: bool) -> None:
    """Stop nodes in every way under load: SIGTERM, SIGQUIT, Ctrl-C, soft, SIGKILL after SIGTERM.

    Exits with 1 when an operation is lost, when a stop counts as a delivery, or when
    something ran twice that nothing had interrupted.
    """
    with tempfile.TemporaryDirectory(prefix="pooltasks-chaos-") as folder:
        found = stops(Path(folder), times, seed)
    account = found.account
    if as_json:
        click.echo(_document(found))
    else:
        click.echo(", ".join(f"{name}: {count}" for name, count in found.stops.items()))
        click.echo(
            f"{account.accepted} accepted: {account.done} done, {account.dead} dead letters, "
            f"{account.repeated} interrupted and run again, {len(found.unjustified)} run again "
            f"without need, lost {len(account.lost)}; longest wait {found.longest_wait:.2f} s, "
            f"{found.late} longer than {WAIT_BOUND:g} s; {found.seconds:.0f} s"
        )
    if not found.holds:
        raise SystemExit(1)


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
    with tempfile.TemporaryDirectory(prefix="pooltasks-chaos-") as folder:
        found = keda(Path(folder), KedaPlan(**plan))
    account = found.account
    if as_json:
        click.echo(_document(found))
    else:
        for since, nodes in found.nodes:
            click.echo(f"{since:6.1f} s  {nodes:2} {'#' * nodes}")
        click.echo(
            f"{account.accepted} accepted: {account.done} done, {account.failed} failed, "
            f"{account.dead} dead letters, {found.interrupted} interrupted, {account.repeated} "
            f"run again, lost {len(account.lost)}; {found.refused} refused; longest wait "
            f"{found.longest_wait:.2f} s"
        )
        click.echo(
            f"{found.grown} times more nodes, {found.shrunk} times fewer, "
            f"{found.most} at the most; {found.ended} nodes were told to end while "
            f"{found.running} operations ran in them: the longest took {found.longest_end:.2f} s, "
            f"{found.killed} had to be killed; {found.restarts} processes ended untold; "
            f"{found.seconds:.0f} s"
        )
        for failure in found.badly_ended:
            click.echo(failure, err=True)
    if not found.holds:
        raise SystemExit(1)


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
    with tempfile.TemporaryDirectory(prefix="pooltasks-chaos-") as name:
        folder = Path(name)
        server = MortalServer(folder / "data", program=program, appendfsync=appendfsync)
        found = restart(folder, times, server, nodes, seed)
    account = found.account
    if as_json:
        click.echo(_document(found))
    else:
        click.echo("seconds after the server's return      median  longest")
        for what, seconds in sorted(found.back.items(), key=lambda each: max(each[1])):
            median = sorted(seconds)[len(seconds) // 2]
            bound = f"  bound {CONSUMPTION_BOUND:g}" if "consumes" in what else ""
            click.echo(f"{what:<38} {median:6.2f} {max(seconds):8.2f}{bound}")
        refused = ", ".join(f"{count} of {what}" for what, count in found.refused.items())
        click.echo(
            f"{times} outages of {min(found.outages):.1f} to {max(found.outages):.1f} s; "
            f"{account.accepted} accepted: {account.done} done, {account.failed} failed, "
            f"{account.dead} dead letters, {account.repeated} runs more than once, "
            f"lost {len(account.lost)}; refused: {refused or 'none'}; {found.node_deaths} nodes "
            f"died; {found.seconds:.0f} s"
        )
        for error in found.unexpected[:5]:
            click.echo(error, err=True)
    if not found.holds:
        raise SystemExit(1)


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
    with tempfile.TemporaryDirectory(prefix="pooltasks-chaos-") as folder:
        found = fuzz(Path(folder), messages, seed)
    missing = [message.decode(errors="backslashreplace") for message in found.unaccounted]
    if as_json:
        click.echo(json.dumps({**found._asdict(), "unaccounted": missing}, indent=2))
    else:
        click.echo(
            f"{found.hostile} hostile messages: {found.dead} dead letters, "
            f"{found.ended} operations with a result, {found.ran} that ran and leave none, "
            f"{found.scheduled} held for later, {len(missing)} unaccounted; "
            f"{found.good} good ones between them, {found.good_unfinished} unfinished; "
            f"{found.node_deaths} nodes died"
        )
        for message in missing[:5]:
            click.echo(message, err=True)
    if not found.is_whole:
        raise SystemExit(1)


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
    with tempfile.TemporaryDirectory(prefix="pooltasks-chaos-") as folder:
        found = limits(Path(folder), **plan)
    if as_json:
        click.echo(_document(found))
    else:
        happened = ", ".join(f"{count} {what}" for what, count in sorted(found.happened.items()))
        click.echo(
            f"{happened}; {found.account.accepted} accepted: {found.account.done} done, "
            f"{found.account.dead} dead letters; {found.seconds:.0f} s"
        )
        click.echo(
            f"at most {found.most_at_once} of a tenant at once; a start came "
            f"{1000 * found.too_early:.0f} ms too early for the rate at the most, bound "
            f"{1000 * EARLY_SECONDS:.0f} ms; {found.used:.1%} of the permitted rate was used, "
            f"target {USED_SHARE:.0%}; a tenant waited {found.longest:.2f} times as long as its "
            f"share at the most, target {LONGEST_SHARE:g}"
        )
    if not found.holds:
        raise SystemExit(1)


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
    with tempfile.TemporaryDirectory(prefix="pooltasks-chaos-") as folder:
        found = unique(Path(folder), **plan)
    if as_json:
        click.echo(_document(found))
    else:
        happened = ", ".join(f"{count} {what}" for what, count in sorted(found.happened.items()))
        click.echo(f"{happened}; {found.calls} calls; {found.seconds:.0f} s")
        click.echo(
            f"{found.account.accepted} accepted: {found.account.done} done; "
            f"{found.duplicates} got the result of another call; {found.rerun} ran again after a "
            f"death; {found.together} ran together with another one, {found.too_soon} were "
            f"accepted before the one before had ended; {found.seen_together} seen together at "
            f"the server in {found.looks} looks"
        )
    if not found.holds:
        raise SystemExit(1)


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

    with (
        tempfile.TemporaryDirectory(prefix="pooltasks-chaos-") as folder,
        EmbeddedServer(Path(folder)) as server,
    ):
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
@click.option("--seed", type=int, default=1, show_default=True, help="Which share.")
@json_option
def points_(share: int | None, slots: int, seed: int, as_json: bool) -> None:
    """Kill a node, a worker or a producer before and after each of its writes to the server.

    Exits with 1 when an accepted operation has no end, or runs twice that must not.
    """

    def tell(outcome: Outcome) -> None:
        if not as_json:
            problems = "; ".join(outcome.problems) or "all have an end"
            reached = "" if outcome.was_reached else " (not reached)"
            click.echo(f"{outcome.point}{reached}: {outcome.accepted} accepted, {problems}")

    with tempfile.TemporaryDirectory(prefix="pooltasks-chaos-") as folder:
        outcomes = list(points(Path(folder), share, seed, slots, tell))
    failed = [outcome for outcome in outcomes if outcome.problems]
    reached = sum(outcome.was_reached for outcome in outcomes)
    if as_json:
        document = {
            "points": len(outcomes),
            "reached": reached,
            "failed": [{"point": str(each.point), "problems": each.problems} for each in failed],
        }
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(f"{len(outcomes)} points, {reached} reached, {len(failed)} with a problem")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="scripts/chaos")
