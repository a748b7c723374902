"""The main job: measure every Python file under a folder with the pool ``code``.

Starts the whole reference deployment with ``pooltasks up`` on a server and a data
folder of its own, and sends each file as one operation, twice: as fast as the pool
can take them, and then at a rate that leaves it room, as users would. Prints the
throughput of the first, and for the second the objective and the measured waits.
Run it with ``scripts/run``, which makes the environment first.
"""

from __future__ import annotations

import heapq
import io
import math
import os
import random
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import tokenize
from collections import Counter, deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
from celery.exceptions import TimeoutError as NoResultYet

from pooltasks import Pool, app
from pooltasks.embedded import tied_to_this_process
from pooltasks.errors import PooltasksError
from workers.code import FunctionComplexity, UnparsableSourceError, analyze

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from celery.result import AsyncResult

    from pooltasks.metrics.view import HistoryPoint

ROOT: Final = Path(__file__).resolve().parent.parent
POOL: Final = "code"
IN_FLIGHT: Final = 100  # keeps every worker busy; few enough that the last ones end soon
FAIR_SHARE: Final = 0.25  # of what the pool could take: the rest is room for chance and for others
FAIR_SECONDS: Final = 45.0
FLOOD: Final = 0.25  # of the time
START_TIMEOUT: Final = 90.0  # seconds from starting to the first result
RESULT_TIMEOUT: Final = 150.0  # seconds without a result: longer than one may wait and run
STOP_TIMEOUT: Final = 30.0  # seconds; `pooltasks up` needs at most 20
POLL: Final = 0.5  # seconds between looks at whether the deployment still runs
LOG_TAIL_LINES: Final = 30
MOST_COMPLEX: Final = 10

_OF_ONE_PROCESS = ("POOLTASKS_REDIS_URL", "POOLTASKS_CONFIG", "POOLTASKS_POOL")
_SERVER_URL = re.compile(r"POOLTASKS_REDIS_URL=(\S+)")


class Sent(NamedTuple):
    """An operation under way: the file's name, and the result to come."""

    name: str
    result: AsyncResult


@contextmanager
def given_up_at_the_end(waiting: Iterable[Sent]) -> Iterator[None]:
    """Give up the results that are left in ``waiting`` at the end, also after an error."""
    try:
        yield
    finally:
        for sent in waiting:
            # Or it would unsubscribe when it is collected: from a server that is gone.
            sent.result.backend = None


class Deployment:
    """A running ``pooltasks up``.

    Args:
        folder: An empty folder for its data and its log.
    """

    def __init__(self, folder: Path) -> None:
        self._log = folder / "up.log"
        self._deadline = time.monotonic() + START_TIMEOUT
        environment = {
            # A server of our own, whatever the caller's environment says.
            **{k: v for k, v in os.environ.items() if k not in _OF_ONE_PROCESS},
            "POOLTASKS_CONFIG": str(ROOT / "config" / "pools.toml"),
            # Nothing is sent to the pool programs, and it needs an extra that may not be here.
            "POOLTASKS_POOLS__PROGRAMS__LAZY": "true",
        }
        program = str(Path(sys.executable).with_name("pooltasks"))
        command = [program, "up", "--no-dashboard", "--data-dir", str(folder / "data")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                # It dies with us even when we are killed, and everything that it runs with it.
                tied_to_this_process(command),
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only us
            )

    def wait_until_ready(self) -> None:
        """Point this process's settings at the server; return once the pool has run an operation.

        Raises:
            ClickException: That took longer than 90 s, or the deployment ended.
        """
        while not (found := _SERVER_URL.search(self._log.read_text("utf-8", "replace"))):
            self.check(self._deadline, f"served nothing within {START_TIMEOUT:g} s")
            time.sleep(POLL / 10)
        os.environ["POOLTASKS_REDIS_URL"] = found.group(1)
        os.environ["POOLTASKS_CONFIG"] = str(ROOT / "config" / "pools.toml")
        os.environ.pop("POOLTASKS_POOL", None)
        first = Sent("<first operation>", analyze.delay("x = 1"))
        with given_up_at_the_end([first]):
            value = self.value_of(first, self._deadline)
        if isinstance(value, BaseException):
            raise value

    def value_of(self, sent: Sent, deadline: float) -> Any:
        """Wait for a result; return its value, or the exception in its place.

        Raises:
            ClickException: There was none until ``deadline``, or the deployment ended.
        """
        while True:
            try:
                return sent.result.get(timeout=POLL, propagate=False)
            except NoResultYet:
                self.check(deadline, f"{sent.name}: no result in time from the pool {POOL!r}")

    def check(self, deadline: float, otherwise: str) -> None:
        """Raise ClickException, with the end of the log, if it ended or ``deadline`` is past."""
        code = self._process.poll()
        if code is not None:
            otherwise = f"`pooltasks up` ended with code {code}"
        elif time.monotonic() < deadline:
            return
        lines = self._log.read_text("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:]
        tail = "\n".join(f"  {line}" for line in lines)
        raise click.ClickException(f"{otherwise}. The end of its output:\n{tail}")

    def stop(self) -> None:
        """Stop everything and return once it is gone."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        finally:
            # Too slow, or a second Ctrl-C; its programs die with it.
            self._process.kill()
            self._process.wait()


@contextmanager
def deployment() -> Iterator[Deployment]:
    """Run a deployment that is ready; nothing of it is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="pooltasks-run-") as folder:
        running = Deployment(Path(folder))
        try:
            running.wait_until_ready()
            yield running
        finally:
            running.stop()


@dataclass
class Outcome:
    """The results of the operations."""

    accepted: int = 0
    finished: list[AsyncResult] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    """Failures by the name of their type; those that were refused when sent included."""
    unexpected: list[str] = field(default_factory=list)
    """One line a failure that is not the file's own fault."""
    functions: list[tuple[FunctionComplexity, str]] = field(default_factory=list)
    """The most complex functions so far, each with its file."""
    seconds: float = 0.0

    @property
    def throughput(self) -> float:
        """Finished operations a second."""
        return len(self.finished) / self.seconds

    def note(self, name: str, value: Any) -> None:
        """Count one result: a report, or the exception in its place."""
        if not isinstance(value, BaseException):
            new = ((function, name) for function in value["most_complex_functions"])
            self.functions = heapq.nlargest(
                MOST_COMPLEX, [*self.functions, *new], key=lambda it: it[0]["complexity"]
            )
            return
        self.errors[type(value).__name__] += 1
        if not isinstance(value, UnparsableSourceError):
            self.unexpected.append(f"{name}: {type(value).__name__}: {value}")


def python_files(path: Path) -> list[Path]:
    """Return every Python file under ``path``, installed packages (site-packages) excepted."""
    if path.is_file():
        return [path]
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(set(folders) - {"site-packages", "dist-packages", "__pycache__"})
        found += [Path(folder, name) for name in sorted(names) if name.endswith(".py")]
    return found


def read_source(path: Path) -> str:
    """Return the text of a Python file, in the encoding that it declares (PEP 263).

    Bytes that are wrong in it become lone surrogates: the operation judges them.
    """
    data = path.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    except SyntaxError:  # declares none that exists
        encoding = "utf-8"
    return data.decode(encoding, "surrogateescape")


def measure(
    running: Deployment,
    files: Iterable[Path],
    base: Path,
    *,
    seconds: float | None,
    total: int,
    rate: float | None = None,
) -> Outcome:
    """Send ``files`` for at most ``seconds`` s and collect every result.

    Args:
        running: The deployment.
        files: The files to send.
        base: The folder from which they are named.
        seconds: No file is sent later; None for no such limit.
        total: Number of files that are sent without a limit of time, for the progress bar.
        rate: Files a second, at random moments (Poisson). None: as fast as the pool takes them.

    Raises:
        ClickException: The deployment ended.
    """
    outcome = Outcome()
    waiting: deque[Sent] = deque()
    started = time.monotonic()
    due = started
    chance = random.Random(1)  # noqa: S311  the same moments each time
    with progress(total, seconds) as advance, given_up_at_the_end(waiting):

        def collect() -> None:
            value = running.value_of(waiting[0], time.monotonic() + RESULT_TIMEOUT)
            name, result = waiting.popleft()
            outcome.finished.append(result)
            outcome.note(name, value)
            advance()

        for file in files:
            if seconds is not None and time.monotonic() - started >= seconds:
                break
            if len(waiting) >= IN_FLIGHT:
                collect()
            if rate is not None:
                due += chance.expovariate(rate)
                time.sleep(max(0.0, due - time.monotonic()))
            name = str(file.relative_to(base))
            try:
                result = analyze.delay(read_source(file), name)
            except (OSError, PooltasksError) as error:  # not readable; refused, such as too large
                outcome.note(name, error)
                continue
            outcome.accepted += 1
            waiting.append(Sent(name, result))
        while waiting:
            collect()
        outcome.seconds = time.monotonic() - started
    return outcome


@contextmanager
def progress(total: int, seconds: float | None) -> Iterator[Callable[[], None]]:
    """Show progress on standard error: a bar on a terminal, else a line every tenth.

    Args:
        total: Number of files to measure, if ``seconds`` is None.
        seconds: Time that it takes, however many files that is.

    Yields:
        A function to call with each file that was measured.
    """
    bar = click.progressbar(
        range(100),  # percent
        label="Measuring",
        item_show_func=lambda count: f"{count:,} done" if count else None,
        file=sys.stderr,
        hidden=not sys.stderr.isatty(),
    )
    started = time.monotonic()
    done = shown = 0

    def advance() -> None:
        nonlocal done, shown
        done += 1
        share = done / total if seconds is None else (time.monotonic() - started) / seconds
        percent = min(100, int(100 * share))
        if bar.hidden and percent // 10 > shown // 10:
            click.echo(f"measured {done:,} files, {percent} %", err=True)
        bar.update(percent - shown, done)
        bar.render_progress()  # the number of files changes within a percent, too
        shown = percent

    with bar:
        yield advance


def timing(result: AsyncResult) -> tuple[float, float]:
    """Return the seconds that a finished operation waited, and those that it ran."""
    times = app.backend.get_task_meta(result.id)["timing"]
    return times["wait"], times["run"]


def print_flood(outcome: Outcome) -> None:
    """Print the throughput of the pool, and the most complex functions."""
    runs = [timing(result)[1] for result in outcome.finished]
    failures = ", ".join(f"{count:,} {name}" for name, count in outcome.errors.most_common())
    click.echo(f"\nThe {len(outcome.functions)} most complex functions\n")
    for function, name in outcome.functions:
        click.echo(f"{function['complexity']:>5}  {function['name']}  {name}:{function['line']}")
    click.echo("\nAs fast as the pool can take them\n")
    _print_rows(
        ("throughput", f"{outcome.throughput:,.0f} operations a second"),
        ("operations", f"{outcome.accepted:,}, {len(outcome.finished):,} finished"),
        ("failures", failures or "none"),
        ("run p50 / p99", f"{_quantile(runs, 0.5)} / {_quantile(runs, 0.99)}"),
    )
    if UnparsableSourceError.__name__ in outcome.errors:
        click.echo("UnparsableSourceError: a file that is not Python of this version, as expected.")


def print_fair(outcome: Outcome, rate: float, since: float) -> None:
    """Print how the pool served a load that leaves it room.

    Args:
        outcome: The results of the load.
        rate: Operations a second.
        since: Monotonic seconds from which on the pool's size is of interest.
    """
    pool = Pool(POOL)
    goal = pool.settings.objective
    waits = [timing(result)[0] for result in outcome.finished]
    within = sum(wait * 1000 < goal.wait_ms for wait in waits) / max(1, len(waits))
    verdict = "held" if within >= goal.quantile else "missed: is this machine busy?"
    load = pool.metrics().load
    click.echo(f"\nAt {rate:,.0f} operations a second, as users would send them\n")
    _print_rows(
        ("wait p50 / p99", f"{_quantile(waits, 0.5)} / {_quantile(waits, 0.99)}"),
        ("objective", f"{goal.quantile:.0%} wait less than {goal.wait_ms:g} ms: {verdict}"),
        ("", f"{within:.1%} of {len(waits):,} did"),
        ("workers", _sizes(pool.history(time.monotonic() - since))),
        (
            "memory",
            f"{load.memory / 1e6:,.0f} MB, the node and its workers" if load.memory else "–",
        ),
    )
    click.echo(_NEXT)


def _print_rows(*rows: tuple[str, str]) -> None:
    for label, text in rows:
        click.echo(f"{label:<18}  {text}")


def _sizes(history: Iterable[HistoryPoint]) -> str:
    """Return the sizes that a pool had, each with its time."""
    shown: list[tuple[float, int]] = []
    began = None
    for point in history:
        if point.load.size is None:
            continue
        began = point.at if began is None else began
        if not shown or shown[-1][1] != point.load.size:
            shown.append((point.at - began, point.load.size))
    return ", ".join(f"{size} at {after:.0f} s" for after, size in shown) or "–"


def _quantile(seconds: Sequence[float], quantile: float) -> str:
    """Return a quantile by nearest rank, in ms."""
    if not seconds:
        return "–"
    return f"{1000 * sorted(seconds)[math.ceil(quantile * len(seconds)) - 1]:,.1f} ms"


_NEXT = """
Where to look next
  README.md, "Make a pool"    a pool of your own, with its live page
  workers/code.py             the operation that ran here
  config/pools.toml           its pool: sizes, objective, warm-up
  scripts/docs                builds the documentation into the folder site"""


@click.command()
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help=f"Send for this many seconds, {FLOOD:.0%} of them at full speed. Without it all files are "
    f"sent at full speed, and then some for {FAIR_SECONDS:g} s. What was sent is always finished.",
)
@click.argument(
    "path",
    type=click.Path(exists=True, path_type=Path),
    default=lambda: sysconfig.get_path("stdlib"),
)
def main(path: Path, seconds: float | None) -> None:
    """Measure every Python file under PATH (default: the standard library).

    Installed packages (site-packages) under PATH are left out. Exits with 0 when
    every operation has finished and none failed but for a file that is not Python.
    """
    files = python_files(path)
    if not files:
        raise click.ClickException(f"There is no Python file under {path}.")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    click.echo(f"Starting pooltasks for {len(files):,} files under {path}", err=True)
    base = path if path.is_dir() else path.parent
    flooding = None if seconds is None else FLOOD * seconds
    calm = FAIR_SECONDS if seconds is None else seconds - FLOOD * seconds
    with deployment() as running:
        since = time.monotonic()
        flood = measure(running, files, base, seconds=flooding, total=len(files))
        print_flood(flood)
        rate = max(1.0, FAIR_SHARE * flood.throughput)
        shuffled = random.Random(1).sample(files, len(files))  # noqa: S311  the same order each time
        fair = measure(
            running,
            cycle(shuffled),
            base,
            seconds=calm,
            total=round(rate * calm),
            rate=rate,
        )
        print_fair(fair, rate, since)
    for line in (*flood.unexpected, *fair.unexpected):
        click.echo(f"failed: {line}", err=True)
    if any(it.unexpected or len(it.finished) != it.accepted for it in (flood, fair)):
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="scripts/run")
