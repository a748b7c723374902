"""The command ``scripts/bench``."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
import redis

from benchmarks import event_loop, importing
from benchmarks import fairness as turns
from benchmarks import flow as controlled
from benchmarks import resizing as following
from benchmarks import telemetry as observed
from benchmarks import traffic as single
from benchmarks.measure import CANDIDATES, BrokenRoundError, Candidate, Round, Size, measure
from benchmarks.report import table, targets, typical
from benchmarks.scenarios import PLANS, command
from benchmarks.simulated import policies, tuning
from benchmarks.system import PROCESSES_VARIABLE
from pooltasks.embedded import EmbeddedServer, tied_to_this_process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.report import Rounds, Target
    from benchmarks.telemetry import Figure

NAMES = tuple(candidate.name for candidate in CANDIDATES)
MEASURES = tuple(field.name for field in fields(Round))


def chosen(_: click.Context, __: click.Parameter, value: str | None) -> list[Candidate]:
    """Return the systems that ``--only`` names, all by default."""
    if value is None:
        return list(CANDIDATES)
    modules = {candidate.module: candidate for candidate in CANDIDATES}
    names = value.split(",")
    if unknown := [name for name in names if name not in modules]:
        raise click.BadParameter(f"{unknown[0]!r} is none of: {', '.join(modules)}")
    return [modules[name] for name in names]


delay_option = click.option(
    "--delay-ms",
    type=click.FloatRange(0, 1000),
    default=0,
    show_default=True,
    help="By which a proxy delays what goes to the server, and what comes from it.",
)
json_file_option = click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write all figures to this file."
)


@contextmanager
def _server() -> Iterator[tuple[Path, EmbeddedServer]]:
    """Run an empty server; yield a folder for what else there is, and the server."""
    with (
        tempfile.TemporaryDirectory(prefix="pooltasks-bench-") as name,
        EmbeddedServer(Path(name) / "data") as server,
    ):
        yield Path(name), server


def _tell(progress: str) -> None:
    click.echo(progress, err=True)


def _documents(judged: Sequence[Figure | Target]) -> list[dict[str, Any]]:
    return [{**it._asdict(), "holds": it.holds} for it in judged]


def _write(path: Path | None, document: Any) -> None:
    if path is not None:
        path.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


@contextmanager
def delayed(server: EmbeddedServer, milliseconds: float) -> Iterator[str]:
    """Yield the address of a server, or of a proxy that delays each way to it."""
    if not milliseconds:
        yield server.url
        return
    address = urlsplit(server.url)
    with subprocess.Popen(
        tied_to_this_process(
            [sys.executable, "-m", "chaos.proxy", str(address.port), str(milliseconds)]
        ),
        stdout=subprocess.PIPE,
        text=True,
    ) as proxy:
        assert proxy.stdout is not None  # noqa: S101  for mypy: a pipe
        try:
            yield server.url.replace(f":{address.port}", f":{int(proxy.stdout.readline())}")
        finally:
            proxy.terminate()


@click.group()
def main() -> None:
    """Measure pooltasks beside others."""


@main.command()
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--operations",
    type=click.IntRange(min=100),
    default=4000,
    show_default=True,
    help="Sent and drained in a round.",
)
@click.option(
    "--round-trips",
    type=click.IntRange(min=100),
    default=300,
    show_default=True,
    help="On the idle pool, in a round.",
)
@click.option(
    "--only",
    "candidates",
    callback=chosen,
    metavar="A,B",
    help=f"Only these systems: {', '.join(candidate.module for candidate in CANDIDATES)}.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="Worker processes of each system.",
)
@delay_option
@json_file_option
def broker(
    *,
    rounds: int,
    operations: int,
    round_trips: int,
    processes: int,
    candidates: list[Candidate],
    delay_ms: float,
    json_path: Path | None,
) -> None:
    """Measure the way of an operation through the broker, and back.

    All systems run in turn, round by round, on one server. A system that fails
    is measured no more, and its reason is shown. Exits with 0 when every system
    could be measured, whether the targets hold or not.
    """
    measured: list[Rounds] = []
    versions: dict[str, dict[str, str]] = {}
    failures: dict[str, str] = {}
    size = Size(operations, round_trips)
    os.environ[PROCESSES_VARIABLE] = str(processes)
    with (
        _server() as (folder, server),
        redis.Redis.from_url(server.url) as client,
        delayed(server, delay_ms) as url,
    ):
        server_version = client.info("server").get("valkey_version")
        for number in range(1, rounds + 1):
            measured.append({})
            for candidate in candidates:
                if candidate.name in failures:
                    continue
                click.echo(f"round {number} of {rounds}: {candidate.name}", err=True)
                try:
                    result, versions[candidate.name] = measure(candidate, size, client, url, folder)
                except BrokenRoundError as error:
                    failures[candidate.name] = str(error)
                else:
                    measured[-1][candidate.name] = result
    reached = targets(measured)
    click.echo(table(measured, [candidate.name for candidate in candidates], failures))
    click.echo("\nTargets\n" + "\n".join(map(str, reached)))
    document = {
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "valkey": server_version,
        },
        "size": size._asdict(),
        "versions": versions,
        "systems": {
            name: {each: typical(measured, name, each) for each in MEASURES} for name in versions
        },
        "rounds": [{name: asdict(it) for name, it in each.items()} for each in measured],
        "targets": _documents(reached),
        "failures": failures,
    }
    _write(json_path, document)
    if failures:
        raise SystemExit(1)


@main.command()
@click.option("--rounds", type=click.IntRange(min=1), default=6, show_default=True)
@click.option(
    "--operations",
    type=click.IntRange(min=100),
    default=12_000,
    show_default=True,
    help="Drained in a round, with telemetry and without.",
)
@click.option("--only-costs", is_flag=True, help="Leave out the rounds.")
@json_file_option
def telemetry(rounds: int, operations: int, only_costs: bool, json_path: Path | None) -> None:
    """Measure what telemetry and metrics cost: throughput, memory, time."""
    with _server() as (folder, server), redis.Redis.from_url(server.url) as client:
        figures = [
            observed.event(),
            *observed.stored(client, server.url),
            *observed.scrape(client, server.url),
        ]
        document: dict[str, Any] = {}
        if not only_costs:
            size = Size(operations, round_trips=100)
            measured = observed.throughput(rounds, size, client, server.url, folder)
            figures = [*measured.figures(), *figures]
            document["rounds"] = asdict(measured)
    click.echo("\n".join(map(str, figures)))
    _write(json_path, {**document, "figures": _documents(figures)})


@main.command()
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True)
def resizing(rounds: int) -> None:
    """Measure how fast a node forks on command, and how fast a spare takes over."""
    with _server() as (folder, server):
        click.echo("\n".join(map(str, following.figures(rounds, server.url, folder))))


@main.command()
@click.option("--seconds", type=click.IntRange(2, 3600), default=40, show_default=True)
@click.option("--flood", type=click.IntRange(min=1), default=100_000, show_default=True)
@click.option(
    "--run-ms",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    help="How long each call takes.",
)
@click.option("--workers", type=click.IntRange(min=1), default=4, show_default=True)
def fairness(seconds: int, flood: int, run_ms: float, workers: int) -> None:
    """Measure what a tenant's flood does to the waits of 49 others with one call a second."""
    with _server() as (folder, server):
        lines_ = turns.report(
            server.url,
            folder,
            seconds=seconds,
            flood=flood,
            run=run_ms / 1000,
            workers=workers,
        )
        click.echo("\n".join(lines_))


@main.command()
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--operations",
    type=click.IntRange(min=1000),
    default=100_000,
    show_default=True,
    help="Drained each time; with fewer there are as many keys at the most.",
)
def flow(rounds: int, operations: int) -> None:
    """Measure what keys cost: drains of operations with limits or turns, beside plain ones.

    Exits with 0 whether the bounds hold or not.
    """
    with _server() as (folder, server):
        for line in controlled.measure(rounds, operations, server.url, folder, _tell):
            click.echo(line)


for name in PLANS:
    main.add_command(command(name))


@main.command()
@click.option(
    "--rates",
    default="50,500",
    show_default=True,
    callback=lambda _, __, value: [float(its) for its in value.split(",")],
    help="Operations a second, separated by commas.",
)
@click.option(
    "--run-ms",
    default="5",
    show_default=True,
    callback=lambda _, __, value: [float(its) / 1000 for its in value.split(",")],
    help="How long each sleeps, separated by commas.",
)
@click.option("--seconds", type=click.IntRange(1, 3600), default=20, show_default=True)
@click.option("--processes", type=click.IntRange(1, 64), default=4, show_default=True)
@click.option(
    "--only",
    "candidates",
    default="ours,stock,huey,dramatiq",
    show_default=True,
    callback=chosen,
    help="Systems, separated by commas.",
)
@delay_option
@click.option(
    "--picture",
    "picture_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw CPU and latencies by rate into this file (SVG).",
)
@click.option(
    "--compare",
    "earlier",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Show what has changed since the run of this file, which --json wrote.",
)
@json_file_option
def traffic(
    *,
    rates: list[float],
    run_ms: list[float],
    seconds: int,
    processes: int,
    candidates: list[Candidate],
    delay_ms: float,
    picture_path: Path | None,
    earlier: Path | None,
    json_path: Path | None,
) -> None:
    """Measure operations that come one by one, beside others: CPU and latency of each.

    Rates rise. Of a system that does not keep up with one the higher ones are left out.

    Exits with 0 whether the bounds hold or not.
    """
    loads = [single.Load(rate, run, seconds) for run in run_ms for rate in sorted(rates)]
    costs: list[single.Cost] = []
    with _server() as (folder, server), delayed(server, delay_ms) as url:
        assert server.pid is not None  # noqa: S101  it has been started
        client = redis.Redis.from_url(server.url)
        for candidate in candidates:
            click.echo(f"{candidate.name}: {len(loads)} loads of {seconds} s", err=True)
            try:
                costs += single.measure(
                    candidate,
                    loads,
                    workers=processes,
                    server=client,
                    server_pid=server.pid,
                    url=url,
                    folder=folder,
                )
            except BrokenRoundError as error:
                raise click.ClickException(f"{candidate.name}: {error}") from error
    compared = single.changes(costs, earlier) if earlier is not None else ()
    for line in chain(single.table(costs), single.targets(costs), single.ceilings(costs), compared):
        click.echo(line)
    if picture_path is not None:
        picture_path.write_text(single.picture(costs), "utf-8")
    _write(json_path, [its.as_json() for its in costs])


@main.command(name="asyncio")
@click.option("--seconds", type=click.IntRange(1, 3600), default=10, show_default=True)
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="In flight at any moment.",
)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True)
@json_file_option
def from_a_loop(seconds: int, requests: int, workers: int, json_path: Path | None) -> None:
    """Measure requests of one event loop that await operations, with a server that hangs at last.

    Exits with 0 whether the bounds hold or not.
    """
    with _server() as (folder, server):
        assert server.pid is not None  # noqa: S101  it has been started
        figures = event_loop.measure(
            server.url,
            server.pid,
            folder,
            seconds=seconds,
            requests=requests,
            workers=workers,
        )
    click.echo("\n".join(map(str, figures)))
    _write(json_path, _documents(figures))


@main.command()
@click.option("--rounds", type=click.IntRange(min=1), default=21, show_default=True)
@json_file_option
def imports(rounds: int, json_path: Path | None) -> None:
    """Measure ``import pooltasks`` beside that of Celery with its transport and backend.

    Exits with 0 whether the bound holds or not.
    """
    figures = importing.figures(rounds)
    click.echo("\n".join(map(str, figures)))
    _write(json_path, _documents(figures))


main.add_command(policies)
main.add_command(tuning)


if __name__ == "__main__":
    main(prog_name="scripts/bench")
