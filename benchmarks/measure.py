"""One round of one system: its processes, the questions to them, and the server's counts."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from benchmarks.system import URL_VARIABLE
from pooltasks.embedded import tied_to_this_process

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

ROOT: Final = Path(__file__).resolve().parent.parent
CONFIG: Final = ROOT / "benchmarks" / "systems" / "pools.toml"
ENVIRONMENTS: Final = {
    "library": ROOT / ".venv",
    "peers": ROOT / ".venv-bench" / "peers",
    "arq": ROOT / ".venv-bench" / "arq",  # it needs an older redis-py than the others run on
}

_TIMEOUT: Final = 120.0  # seconds for one answer
_STOP_TIMEOUT: Final = 5.0
_WARM_UP: Final = 100  # operations that are sent before those that are timed
_UNCOUNTED: Final = 0.1  # of a drain: not all processes start at the same moment
_SHOWN_LINES: Final = 3


class Candidate(NamedTuple):
    """A system under test."""

    name: str
    module: str
    environment: str


CANDIDATES: Final = (
    Candidate("pooltasks", "ours", "library"),
    Candidate("celery", "stock", "library"),
    Candidate("celery, acks late", "stock_late", "library"),
    Candidate("huey", "huey", "peers"),
    Candidate("taskiq", "taskiq", "peers"),
    Candidate("saq", "saq", "peers"),
    Candidate("dramatiq", "dramatiq", "peers"),
    Candidate("arq", "arq", "arq"),
    Candidate("streaq", "streaq", "peers"),
    Candidate("rq", "rq", "peers"),
)


class BrokenRoundError(Exception):
    """A system did not do its task; the message describes the failure."""


@dataclass(frozen=True)
class Round:
    """The measurements of one round of one system."""

    drain: float
    """Operations a second."""
    enqueue: float
    """Operations a second, sent one by one."""
    batch: float | None
    """Operations a second, sent many at once; None when the system cannot."""
    round_trip_p50: float
    """Seconds."""
    round_trip_p99: float
    """Seconds."""
    cpu: float
    """CPU seconds of the workers and their parents for an operation, in the drain."""
    commands: float
    """Commands that the server ran for an operation, from sending it to its result."""


class Size(NamedTuple):
    """The size of a round."""

    operations: int
    round_trips: int


class Producer:
    """The process that sends to one system (``benchmarks.producer``).

    Args:
        candidate: The system.
        url: The server.
        folder: For its log.
        **variables: Of its environment, and of that of the workers.
    """

    def __init__(self, candidate: Candidate, url: str, folder: Path, **variables: str) -> None:
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("POOLTASKS_")},
            URL_VARIABLE: url,
            "POOLTASKS_REDIS_URL": url,
            "POOLTASKS_CONFIG": str(CONFIG),
            "PYTHONPATH": str(ROOT),
            **variables,
        }
        self.log = folder / "producer.log"
        python = ENVIRONMENTS[candidate.environment] / "bin" / "python"
        if not python.exists():
            raise BrokenRoundError(f"there is no {python}: scripts/bench makes it")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                tied_to_this_process([str(python), "-m", "benchmarks.producer", candidate.module]),
                cwd=folder,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.asked = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def introduction(self) -> dict[str, Any]:
        """Return the commands of the workers, and the versions of the measured packages."""
        answer: dict[str, Any] = self._answer("start")
        return answer

    def ask(self, question: str, argument: Any) -> Any:
        """Ask one of ``benchmarks.producer.QUESTIONS``."""
        assert self._process.stdin is not None  # noqa: S101  for mypy: a pipe
        print(json.dumps([question, argument]), file=self._process.stdin, flush=True)
        answer = self._answer(question)
        self.asked = answer["asked"]
        return answer["value"]

    def _answer(self, question: str) -> Any:
        assert self._process.stdout is not None  # noqa: S101  for mypy: a pipe
        ready, _, _ = select.select([self._process.stdout], [], [], _TIMEOUT)
        line = self._process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        what = "ended" if ready else f"gave no answer in {_TIMEOUT:g} s"
        raise BrokenRoundError(f"its producer {what} at {question}{_end_of(self.log)}")


@contextmanager
def running(
    commands: list[list[str]], environment: dict[str, str], folder: Path
) -> Iterator[list[int]]:
    """Run the workers; yield the sessions that they lead; none is left afterwards.

    Raises:
        BrokenRoundError: One of them ended by itself.
    """
    log_path = folder / "workers.log"
    with log_path.open("wb") as log:
        processes = [
            subprocess.Popen(
                tied_to_this_process(command),
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            for command in commands
        ]
    try:
        yield [process.pid for process in processes]
    except BrokenRoundError as error:
        raise BrokenRoundError(f"{error}; its workers{_end_of(log_path)}") from error
    finally:
        codes = [process.poll() for process in processes]
        for process in processes:
            process.terminate()
        _wait_until_gone(processes)
    if any(code is not None for code in codes):
        raise BrokenRoundError(f"a worker ended with code {codes}{_end_of(log_path)}")


def cpu_seconds(sessions: list[int]) -> float:
    """Return the CPU time so far of all live processes of some sessions."""
    return sum(seconds for _, session, seconds in processes() if session in sessions)


def processes() -> Iterator[tuple[int, int, float]]:
    """Yield id, session and CPU seconds of each process.

    The scheduler's statistics are exact; those of proc_pid_stat(5) count hundredths.
    """
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            session = os.getsid(int(entry.name))
            threads = [its.read_text("ascii") for its in entry.glob("task/*/schedstat")]
        except OSError:  # it ended meanwhile
            continue
        yield int(entry.name), session, sum(int(its.split()[0]) for its in threads) / 1e9


def _wait_until_gone(processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _STOP_TIMEOUT
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:
            # Processes that it has forked, too: it leads a session of its own.
            _kill_session(process.pid)
            process.wait()


def _kill_session(pid: int) -> None:
    try:
        os.killpg(pid, 9)
    except ProcessLookupError:
        return


def measure(
    candidate: Candidate, size: Size, server: redis.Redis, url: str, folder: Path
) -> tuple[Round, dict[str, str]]:
    """Measure one round on an emptied server; return it with the versions of the packages.

    Raises:
        BrokenRoundError: The system did not do its task.
    """
    server.flushall()
    with Producer(candidate, url, folder) as producer:
        introduction = producer.introduction()
        sent = _WARM_UP + size.operations
        before = _commands(server)
        producer.ask("enqueue", _WARM_UP)
        enqueued = producer.ask("enqueue", size.operations)
        with running(introduction["workers"], producer.environment, folder) as sessions:
            started, already = producer.ask("drain", round(_UNCOUNTED * sent))
            cpu_before = cpu_seconds(sessions)
            ended, done = producer.ask("drain", sent)
            cpu = cpu_seconds(sessions) - cpu_before
            commands = (_commands(server) - before - producer.asked) / sent
            producer.ask("round_trips", _WARM_UP // 2)
            seconds = sorted(producer.ask("round_trips", size.round_trips))
        batched = producer.ask("enqueue_batch", _WARM_UP)
        if batched is not None:
            batched = producer.ask("enqueue_batch", size.operations)
    measured = Round(
        drain=(done - already) / (ended - started),
        enqueue=size.operations / enqueued,
        batch=batched and size.operations / batched,
        round_trip_p50=seconds[len(seconds) // 2],
        round_trip_p99=seconds[len(seconds) * 99 // 100],
        cpu=cpu / (done - already),
        commands=commands,
    )
    return measured, introduction["versions"]


def _commands(server: redis.Redis) -> int:
    """Return how many commands the server has run, those inside scripts counted too."""
    statistics: dict[str, dict[str, int]] = server.info("commandstats")
    # The benchmark's own INFO commands are none of the system's.
    return sum(numbers["calls"] for name, numbers in statistics.items() if name != "cmdstat_info")


def _end_of(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").splitlines()[-_SHOWN_LINES:]
    return f": {' / '.join(lines)}" if lines else ""
