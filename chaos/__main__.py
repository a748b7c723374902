"""The command ``scripts/chaos``."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import click

from chaos.fuzz import fuzz
from chaos.kill import Plan, kill
from chaos.recovery import recovery
from chaos.restart import CONSUMPTION_BOUND, restart
from chaos.server import MortalServer


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
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
        document = {**found._asdict(), **asdict(account), "lost": len(account.lost)}
        del document["account"]
        click.echo(json.dumps({**document, "holds": found.holds}, indent=2))
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
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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


if __name__ == "__main__":
    main(prog_name="scripts/chaos")
