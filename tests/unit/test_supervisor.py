"""The supervisor, with small real programs."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from pooltasks.cli import supervisor as module
from pooltasks.cli.supervisor import Program, Supervisor
from pooltasks.errors import PooltasksError

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE = 20.0  # seconds

WAIT_FOR_EVER = "import signal; print('waiting', flush=True); signal.pause()"
SAY_GOODBYE = """
import signal, sys
def end(*_):
    print('goodbye', flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, end)
print('ready', flush=True)
signal.pause()
"""
IGNORE_SIGTERM = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('deaf', os.getpid(), flush=True)
while True:
    signal.pause()
"""
LEAVE_A_CHILD = """
import os, signal, sys
child = os.fork()
if child:
    print('left', child, flush=True)
    sys.exit({code})
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.pause()
"""

LEAVE_A_GROUP = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    os.setpgid(child, child)
    print('left', child, flush=True)
while True:
    signal.pause()
"""


class Output(io.StringIO):
    """Remembers what is written and calls ``then`` as soon as ``pattern`` is in it."""

    def __init__(self, pattern: str, then: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.pattern = re.compile(pattern)
        self.then = then

    def write(self, text: str) -> int:
        length = super().write(text)
        if self.then is not None and self.pattern.search(self.getvalue()):
            then, self.then = self.then, None
            then()
        return length


def python(name: str, code: str, **options) -> Program:
    return Program(name=name, argv=[sys.executable, "-c", code], env=os.environ, **options)


def run_until(
    pattern: str, *programs: Program, stop_timeout: float = DEADLINE, closing: str = ""
) -> str:
    """Run ``programs`` until ``pattern`` is in the output; return the output."""
    output = Output(pattern)
    supervisor = Supervisor(programs, output=output, stop_timeout=stop_timeout, closing=closing)
    output.then = supervisor.stop
    supervisor.run()
    assert output.then is None, output.getvalue()
    return output.getvalue()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE} s"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def number_after(word: str, text: str) -> int:
    found = re.search(rf"{word} (\d+)", text)
    assert found, text
    return int(found[1])


def children_and_descriptors() -> tuple[set[int], int]:
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    return children, len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(autouse=True)
def _no_process_and_no_descriptor_is_left():
    children, descriptors = children_and_descriptors()
    yield
    children_now, descriptors_now = children_and_descriptors()
    assert children_now <= children
    assert descriptors_now <= descriptors


def test_each_line_of_output_and_error_has_the_name_of_its_program_before_it():
    code = "import sys; print('to out', flush=True); print('to err', file=sys.stderr)"
    shown = run_until("longer ended", python("a", WAIT_FOR_EVER), python("longer", code))
    lines = shown.splitlines()
    assert "longer    | to out" in lines
    assert "longer    | to err" in lines


def test_a_last_line_without_its_end_is_shown():
    assert "a         | half" in run_until("ended", python("a", "print('half', end='')"))


def test_bytes_that_are_no_text_do_not_stop_the_output():
    code = "import os; os.write(1, b'\\xff\\xfe broken\\n')"
    assert "broken" in run_until("ended", python("a", code))


def test_a_very_long_line_is_shown_in_pieces_instead_of_being_kept():
    code = "import os; [os.write(1, b'x' * 65536) for _ in range(4)]"
    shown = run_until("ended", python("a", code))
    assert shown.count("x") == 4 * 65536
    assert shown.count("a         | x") > 1


def test_names_are_in_colour_on_a_terminal_only(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    output = Output("waiting")
    supervisor = Supervisor([python("a", WAIT_FOR_EVER)], output=output)
    output.then = supervisor.stop
    supervisor.run()
    assert "\x1b[" not in output.getvalue()

    output = Output("waiting")
    output.isatty = lambda: True
    supervisor = Supervisor([python("a", WAIT_FOR_EVER)], output=output)
    output.then = supervisor.stop
    supervisor.run()
    assert "\x1b[33ma         | \x1b[0mwaiting" in output.getvalue()


def test_a_program_that_dies_starts_again_after_a_pause_that_doubles():
    started = time.monotonic()
    shown = run_until("again in 2 s", python("a", "print('hello'); raise SystemExit(3)"))
    assert re.findall(r"a ended with code 3; it starts again in (.*) s", shown) == ["0.5", "1", "2"]
    assert shown.count("| hello") == 3
    assert time.monotonic() - started >= 1.5


def test_the_pause_does_not_grow_beyond_its_limit(monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_BACKOFF", 0.5)
    shown = run_until("(?s)(again.*){3}", python("a", "pass"))
    assert re.findall(r"again in (.*) s", shown) == ["0.5"] * 3


def test_the_pause_is_short_again_once_a_program_has_run_for_a_while(monkeypatch):
    monkeypatch.setattr(module, "_STEADY", 0.0)
    shown = run_until("(?s)(again.*){3}", python("a", "pass"))
    assert re.findall(r"again in (.*) s", shown) == ["0.5"] * 3


def test_a_program_that_a_signal_killed_says_so_and_starts_again():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    assert "a ended by SIGSEGV" in run_until("again in", python("a", code))


def test_a_program_that_is_not_there_is_a_readable_line_and_does_not_stop_the_others():
    absent = Program(name="absent", argv=["/nowhere/program"], env=os.environ)
    shown = run_until("again in 1 s", absent, python("a", WAIT_FOR_EVER))
    assert "absent    | /nowhere/program cannot be started: No such file or directory" in shown
    assert "a ended" not in shown


def test_stopping_lets_a_program_end_by_itself():
    assert "a         | goodbye" in run_until("ready", python("a", SAY_GOODBYE))


def test_a_program_that_does_not_stop_in_time_is_killed():
    shown = run_until("deaf", python("a", IGNORE_SIGTERM), stop_timeout=0.2)
    assert is_gone(number_after("deaf", shown))


def test_a_second_request_to_stop_does_not_wait():
    output = Output("deaf")
    supervisor = Supervisor([python("a", IGNORE_SIGTERM)], output=output, stop_timeout=600.0)

    def stop_twice() -> None:
        supervisor.stop()
        supervisor.stop()

    output.then = stop_twice
    supervisor.run()
    assert is_gone(number_after("deaf", output.getvalue()))


def test_stop_before_run_runs_nothing_that_stays():
    supervisor = Supervisor([python("a", WAIT_FOR_EVER)], output=io.StringIO())
    supervisor.stop()
    supervisor.run()


def test_what_a_program_leaves_behind_is_killed_when_it_ends():
    shown = run_until("again in 1 s", python("a", LEAVE_A_CHILD.format(code=1)))
    for left in re.findall(r"left (\d+)", shown):
        wait_until(lambda pid=int(left): is_gone(pid))


def test_what_a_program_started_in_another_group_is_killed_with_it():
    shown = run_until("left", python("a", LEAVE_A_GROUP), stop_timeout=0.2)
    wait_until(lambda: is_gone(number_after("left", shown)))


def test_a_program_is_up_when_it_prints_its_text_and_its_note_is_said():
    code = (
        "import time; print('starting', flush=True); print('serving', flush=True); time.sleep(60)"
    )
    shown = run_until(
        "everything is up", python("a", code, ready_text="serving", note="http://127.0.0.1:1")
    )
    assert re.search(r"(?s)serving.*a is up \(process \d+\): http://127.0.0.1:1", shown)


def test_the_last_line_says_where_to_go_on():
    shown = run_until("everything is up", python("a", WAIT_FOR_EVER), closing="Dashboard: here")
    assert "everything is up; Ctrl-C stops it. Dashboard: here\n" in shown


def test_the_others_start_after_a_foundation_is_up_and_stop_before_it():
    shown = run_until(
        "everything is up",
        python("node", SAY_GOODBYE, ready_text="ready"),
        python("server", SAY_GOODBYE, ready_text="ready", is_foundation=True),
    )
    said = [line for line in shown.splitlines() if "goodbye" in line or "ready" in line]
    assert said == [
        "server    | ready",
        "node      | ready",
        "node      | goodbye",
        "server    | goodbye",
    ]


def test_a_foundation_that_was_never_up_ends_everything_with_a_clear_error():
    output = io.StringIO()
    broken = python("server", "raise SystemExit(7)", ready_text="ready", is_foundation=True)
    with pytest.raises(PooltasksError, match="server ended with code 7 before it was up"):
        Supervisor([broken, python("a", WAIT_FOR_EVER)], output=output).run()
    assert "a is up" not in output.getvalue()


def test_a_foundation_that_dies_later_starts_again():
    code = "import time; print('ready', flush=True); time.sleep(0.2)"
    shown = run_until(
        "(?s)(server is up.*){2}",
        python("server", code, ready_text="ready", is_foundation=True),
        python("a", WAIT_FOR_EVER),
    )
    assert "server ended with code 0; it starts again in 0.5 s" in shown
    assert "a ended" not in shown


def test_a_reader_that_leaves_stops_everything():
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    Supervisor([python("a", WAIT_FOR_EVER)], output=Closed()).run()


def test_a_program_that_closes_its_output_does_not_make_the_supervisor_spin():
    code = "import os, time; os.close(1); os.close(2); time.sleep(1)"
    before = time.process_time()
    run_until("a ended", python("a", code))
    assert time.process_time() - before < 0.5


def test_the_handlers_of_signals_are_as_before_when_it_returns():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run_until("waiting", python("a", WAIT_FOR_EVER))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


SUPERVISE = """
import os, sys
from pooltasks.cli.supervisor import Program, Supervisor
Supervisor([Program(name="a", argv=[sys.executable, "-c", sys.argv[1]], env=os.environ)]).run()
"""


@pytest.fixture
def supervising():
    """A supervisor in a process of its own, and the process id of its one program."""
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, IGNORE_SIGTERM],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    ) as process:
        pid = next(number_after("deaf", line) for line in process.stdout if "deaf" in line)
        yield process, pid
        process.kill()


def test_no_program_outlives_a_supervisor_that_is_killed(supervising):
    process, pid = supervising
    process.kill()
    wait_until(lambda: is_gone(pid))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_it_and_a_second_one_hurries_it(supervising, number):
    process, pid = supervising
    assert os.getpgid(pid) != os.getpgid(process.pid)
    process.send_signal(number)
    assert any("stopping" in line for line in process.stdout)
    process.send_signal(number)
    assert process.wait(DEADLINE) == 0
    assert is_gone(pid)
