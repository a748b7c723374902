"""The main job: measure every Python file under a folder with the pool ``code``.

Starts the whole reference deployment with ``pooltasks up`` on a server and a data
folder of its own, sends each file as one operation, and prints what that took.
Run it with ``scripts/run``, which makes the environment first.
"""

from __future__ import annotations

import heapq
import io
import math
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import tokenize
from collections import Counter, deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
from celery.exceptions import TimeoutError as NoResultYet

from pooltasks import app
from pooltasks.cli.nodes import statuses
from pooltasks.embedded import tied_to_this_process
from pooltasks.errors import PooltasksError
from workers.code import FunctionComplexity, UnparsableSourceError, analyze

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from celery.result import AsyncResult

ROOT: Final = Path(__file__).resolve().parent.parent
POOL: Final = "code"
IN_FLIGHT: Final = 100  # keeps every worker busy; few enough that the last ones end soon
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
    """Give up what is still in ``waiting`` at the end, whatever ends it."""
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
            # Too slow, or a second Ctrl-C; what it runs is tied to it.
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
    """What became of the operations."""

    accepted: int = 0
    finished: list[AsyncResult] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    """Failures by the name of their type; those that were refused when sent included."""
    unexpected: list[str] = field(default_factory=list)
    """One line a failure that is not the file's own fault."""
    functions: list[tuple[FunctionComplexity, str]] = field(default_factory=list)
    """The most complex functions so far, each with its file."""
    seconds: float = 0.0

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
    running: Deployment, files: Sequence[Path], base: Path, seconds: float | None
) -> Outcome:
    """Send ``files`` for at most ``seconds`` s and collect every result.

    Raises:
        ClickException: The deployment ended.
    """
    outcome = Outcome()
    waiting: deque[Sent] = deque()
    started = time.monotonic()
    with progress(len(files)) as advance, given_up_at_the_end(waiting):

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
def progress(total: int) -> Iterator[Callable[[], None]]:
    """Show progress on standard error: a bar on a terminal, else a line every tenth."""
    if sys.stderr.isatty():
        with click.progressbar(
            length=total, label="Measuring", show_pos=True, file=sys.stderr
        ) as bar:
            yield lambda: bar.update(1)
        return
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done * 10 // total > (done - 1) * 10 // total:
            click.echo(f"measured {done:,} of {total:,} files", err=True)

    yield advance


def timing(result: AsyncResult) -> tuple[float, float]:
    """Return the seconds that a finished operation waited, and those that it ran."""
    times = app.backend.get_task_meta(result.id)["timing"]
    return times["wait"], times["run"]


def memory_of_workers() -> list[tuple[float, float]]:
    """Return RSS and PSS of each worker of the pool, in MB (10^6 bytes).

    PSS counts a page that n processes share as 1/n of it (proc(5), smaps_rollup).
    """
    memory = []
    for node in statuses(app, (POOL,)).values():
        for worker in node["workers"]:
            # A worker may end between the node's answer and this.
            with suppress(FileNotFoundError, ProcessLookupError):
                lines = Path(f"/proc/{worker['pid']}/smaps_rollup").read_text("ascii").splitlines()
                kib = {key: int(value.split()[0]) for key, _, value in map(_split, lines[1:])}
                memory.append((kib["Rss"] * 1024 / 1e6, kib["Pss"] * 1024 / 1e6))
    return memory


def print_summary(outcome: Outcome, memory: Sequence[tuple[float, float]]) -> None:
    """Print what the operations took, and the most complex functions."""
    times = [timing(result) for result in outcome.finished]
    failures = ", ".join(f"{count:,} {name}" for name, count in outcome.errors.most_common())
    rows = [
        ("operations", f"{outcome.accepted:,}, {len(outcome.finished):,} finished"),
        ("failures", failures or "none"),
        ("wait p50 / p99", _quantiles([wait for wait, _ in times])),
        ("run p50 / p99", _quantiles([run for _, run in times])),
        (
            "throughput",
            f"{len(outcome.finished) / outcome.seconds:,.1f}/s for {outcome.seconds:.1f} s",
        ),
        ("workers", f"{len(memory)}"),
        ("memory a worker", ", ".join(f"{rss:.1f} MB RSS ({pss:.1f} PSS)" for rss, pss in memory)),
    ]
    click.echo()
    for label, text in rows:
        click.echo(f"{label:<16}  {text}")
    click.echo(
        f"\nUp to {IN_FLIGHT} operations were under way at once, so that no worker was idle: "
        "most of the wait is for earlier ones."
    )
    if UnparsableSourceError.__name__ in outcome.errors:
        click.echo("UnparsableSourceError: a file that is not Python of this version, as expected.")
    click.echo(f"\nThe {len(outcome.functions)} most complex functions\n")
    for function, name in outcome.functions:
        click.echo(f"{function['complexity']:>5}  {function['name']}  {name}:{function['line']}")


def _quantiles(seconds: list[float]) -> str:
    """Return the median and the 99th percentile, by nearest rank, in ms."""
    if not seconds:
        return "none finished"
    ordered = sorted(seconds)
    p50, p99 = (1000 * ordered[math.ceil(q * len(ordered)) - 1] for q in (0.5, 0.99))
    return f"{p50:,.1f} / {p99:,.1f} ms"


def _split(line: str) -> tuple[str, str, str]:
    return line.partition(":")


@click.command()
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Send no more files after this many seconds; without it, or when the files end "
    "earlier, all are sent. What was sent is always finished.",
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
    with deployment() as running:
        base = path if path.is_dir() else path.parent
        outcome = measure(running, files, base, seconds)
        print_summary(outcome, memory_of_workers())
    for line in outcome.unexpected:
        click.echo(f"failed: {line}", err=True)
    if outcome.unexpected or len(outcome.finished) != outcome.accepted:
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="scripts/run")
