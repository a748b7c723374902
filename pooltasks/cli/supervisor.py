"""Programs that run together on one machine: started, watched, restarted, stopped.

Shows their output as honcho and foreman do. ``honcho.manager.Manager`` itself
does not serve: it stops everything as soon as one program ends, and its
programs outlive it when it is killed.

One thread waits, in one selector, for output, for deaths (pidfd_open(2)) and
for the request to stop; between those events it sleeps.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TextIO

from pooltasks.embedded import tied_to_this_process
from pooltasks.errors import PooltasksError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_FIRST_BACKOFF: Final = 0.5  # seconds until a program that died starts again; then doubled
_LONGEST_BACKOFF: Final = 30.0
_STEADY: Final = 10.0  # seconds of running after which the next backoff is the first again
_STOP_TIMEOUT: Final = 10.0  # seconds, as docker stop
_LONGEST_LINE: Final = 65536  # bytes; a longer one is shown in pieces
_OWN_NAME: Final = "pooltasks"
_COLORS: Final = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # SGR foregrounds; red stays for errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One program and how it is run."""

    name: str
    """The prefix of each line of its output."""
    argv: Sequence[str]
    env: Mapping[str, str]
    """The whole environment, not additions to ours."""
    ready_text: str = ""
    """Part of the line that it prints once it serves; with none it is up as soon as it runs."""
    note: str = ""
    """Printed when it is up: its address."""
    notice: Callable[[str], str | None] | None = None
    """Reads each line of its output; returns a notice to print, None for none."""
    is_foundation: bool = False
    """Whether the other programs need it: they start once it is up, and it stops after them."""
    pass_fds: tuple[int, ...] = ()
    """File descriptors that it inherits besides standard input, output and error."""


@dataclass(slots=True, eq=False)
class _Child:
    """A program's present process, if any, and its restarts."""

    program: Program
    prefix: str
    process: subprocess.Popen[bytes] | None = None
    pid: int = 0
    pidfd: int = -1
    pending: bytes = b""
    is_up: bool = False
    was_up: bool = False
    started_at: float = 0.0
    backoff: float = _FIRST_BACKOFF
    restart_at: float | None = None


@dataclass(slots=True)
class Supervisor:
    """Runs programs until it is told to stop.

    A program that ends, with whatever code, is started again after 0.5 s; the
    pause doubles up to 30 s, and begins anew once the program has run for 10 s.
    Each program has a session of its own, so that Ctrl-C reaches only the
    supervisor. When a program ends, the processes left in its process group are
    killed. Programs die with the supervisor, even when it is killed with SIGKILL.

    Args:
        programs: The programs to run. Names are unique.
        output: Where the programs' lines go; in color when it is a terminal
            and ``NO_COLOR`` is not set.
        stop_timeout: Seconds between SIGTERM and SIGKILL.
        closing: Sentences to print when everything is up, below the output of the programs.
    """

    programs: Sequence[Program]
    output: TextIO = field(default_factory=lambda: sys.stdout)
    stop_timeout: float = _STOP_TIMEOUT
    closing: str = ""
    _children: list[_Child] = field(init=False)
    _own_prefix: str = field(init=False)
    _selector: selectors.BaseSelector = field(init=False)
    _wake_up: int | None = field(default=None, init=False)
    _stop_requests: int = field(default=0, init=False)
    _output_is_gone: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        width = max(len(name) for name in (_OWN_NAME, *(p.name for p in self.programs)))
        in_color = self.output.isatty() and not os.environ.get("NO_COLOR")
        colors = cycle(_COLORS)

        def prefix(name: str) -> str:
            text = f"{name:<{width}} | "
            return f"\x1b[{next(colors)}m{text}\x1b[0m" if in_color else text

        self._own_prefix = prefix(_OWN_NAME)
        self._children = [_Child(program, prefix(program.name)) for program in self.programs]

    def run(self) -> None:
        """Run the programs until SIGINT, SIGTERM, SIGHUP or :meth:`stop`.

        A second request to stop kills what still runs. Call it in the main
        thread, where Python allows signal handlers. No program is left when it
        returns or raises.

        Raises:
            PooltasksError: A foundation ended before it was ever up.
        """
        with ExitStack() as stack:
            self._selector = stack.enter_context(selectors.DefaultSelector())
            stack.enter_context(self._woken_by_stop())
            stack.enter_context(self._stopped_by_signals())
            stack.callback(self._kill_all)
            foundations = [c for c in self._children if c.program.is_foundation]
            others = [c for c in self._children if not c.program.is_foundation]
            if self._start_and_wait(foundations) and self._start_and_wait(others):
                ending = f". {self.closing}" if self.closing else ""
                self._say(f"everything is up; Ctrl-C stops it{ending}")
                self._keep_running(lambda: False)
            self._say("stopping")
            self._end(others)
            self._end(foundations)

    def stop(self) -> None:
        """Ask :meth:`run` to stop everything; from any thread or signal handler."""
        self._stop_requests += 1
        if self._wake_up is not None:
            os.eventfd_write(self._wake_up, 1)

    def _start_and_wait(self, children: list[_Child]) -> bool:
        """Start ``children``; True once each has been up, False when told to stop."""
        for child in children:
            self._start(child)
        return self._keep_running(lambda: all(child.was_up for child in children))

    def _keep_running(self, is_done: Callable[[], bool]) -> bool:
        """Serve all programs until ``is_done`` (True) or told to stop (False)."""
        while not self._stop_requests:
            if is_done():
                return True
            due = [c.restart_at for c in self._children if c.restart_at is not None]
            self._serve_events(min(due) if due else None)
            for child in self._children:
                if child.restart_at is not None and child.restart_at <= time.monotonic():
                    self._start(child)
        return False

    def _serve_events(self, until: float | None) -> None:
        """Wait for events, at most until the time ``until``, and serve them."""
        timeout = None if until is None else max(0.0, until - time.monotonic())
        for key, _ in self._selector.select(timeout):
            serve: Callable[[], None] = key.data
            serve()

    def _start(self, child: _Child) -> None:
        program = child.program
        process = subprocess.Popen(  # noqa: S603  the caller's own command
            tied_to_this_process(program.argv),
            env=program.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            pass_fds=program.pass_fds,
            start_new_session=True,
        )
        child.process = process
        child.restart_at = None
        child.started_at = time.monotonic()
        child.pid = process.pid
        child.pidfd = os.pidfd_open(process.pid)
        output = _output_of(process)
        os.set_blocking(output.fileno(), False)
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._on_death(child))
        self._selector.register(output, selectors.EVENT_READ, lambda: self._on_output(child))
        if not program.ready_text:
            self._mark_up(child)

    def _on_output(self, child: _Child) -> None:
        """Show one piece of output."""
        if child.process is None:  # it ended earlier in this round of events
            return
        output = _output_of(child.process)
        piece = os.read(output.fileno(), _LONGEST_LINE)
        if not piece:  # closed its output: would be readable for ever
            self._selector.unregister(output)
        self._show(child, piece)

    def _on_death(self, child: _Child) -> None:
        """Clear up after a process that has ended, and plan its next start."""
        process = child.process
        if process is None:
            return
        self._kill_group(child)  # before it is reaped: only so long is its id its own
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        code = process.wait()
        self._show_the_rest(child, process)
        child.process = None
        child.is_up = False
        if self._stop_requests:
            return
        ending = f"{child.program.name} ended {_how(code)}"
        if child.program.is_foundation and not child.was_up:
            raise PooltasksError(
                f"{ending} before it was up, and the others need it. Its output above says why."
            )
        now = time.monotonic()
        if now - child.started_at >= _STEADY:
            child.backoff = _FIRST_BACKOFF
        self._say(f"{ending}; it starts again in {child.backoff:g} s")
        child.restart_at = now + child.backoff
        child.backoff = min(2 * child.backoff, _LONGEST_BACKOFF)

    def _show_the_rest(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        output = _output_of(process)
        with suppress(KeyError):  # it had closed its output before
            self._selector.unregister(output)
        # A process that left the process group may hold the pipe open: no end to wait for.
        with suppress(BlockingIOError):
            while piece := os.read(output.fileno(), _LONGEST_LINE):
                self._show(child, piece)
        if child.pending:
            self._show(child, b"\n")
        output.close()

    def _show(self, child: _Child, piece: bytes) -> None:
        *lines, child.pending = (child.pending + piece).split(b"\n")
        if len(child.pending) > _LONGEST_LINE:
            lines.append(child.pending)
            child.pending = b""
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip("\r")
            self._write(child.prefix + text)
            if child.program.notice and (said := child.program.notice(text)):
                self._say(said, alarm=True)
            if not child.is_up and child.program.ready_text in text:
                self._mark_up(child)

    def _mark_up(self, child: _Child) -> None:
        child.is_up = child.was_up = True
        note = f": {child.program.note}" if child.program.note else ""
        self._say(f"{child.program.name} is up (process {child.pid}){note}")

    def _say(self, text: str, *, alarm: bool = False) -> None:
        if alarm and self._own_prefix.startswith("\x1b"):
            text = f"\x1b[31m{text}\x1b[0m"
        self._write(self._own_prefix + text)

    def _write(self, line: str) -> None:
        if self._output_is_gone:
            return
        try:
            self.output.write(line + "\n")
            self.output.flush()
        except OSError:  # the terminal is closed, or the reader of the pipe has left
            self._output_is_gone = True
            self.stop()

    def _end(self, children: list[_Child]) -> None:
        """SIGTERM to ``children``, SIGKILL to their groups when time is up or asked again."""
        for child in children:
            child.restart_at = None
            if child.process is not None:
                child.process.terminate()
        deadline = time.monotonic() + self.stop_timeout
        while any(c.process for c in children):
            if time.monotonic() >= deadline or self._stop_requests > 1:
                for child in children:
                    self._kill_group(child)
                deadline = float("inf")
            self._serve_events(None if deadline == float("inf") else deadline)

    def _kill_all(self) -> None:
        """Leave no process, even after an error."""
        for child in self._children:
            if child.process is not None:
                self._kill_group(child)
                child.process.wait()
                os.close(child.pidfd)
                _output_of(child.process).close()
                child.process = None

    def _kill_group(self, child: _Child) -> None:
        """SIGKILL the process and all processes that it started; it leads its session (setsid)."""
        if child.process is not None:
            # Found before the first is killed: a node's workers die with it, and each worker
            # leads a group of the processes that its operations have started.
            for group in {child.pid, *_groups_of(child.pid)}:
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)

    @contextmanager
    def _woken_by_stop(self) -> Iterator[None]:
        wake_up = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(wake_up, selectors.EVENT_READ, lambda: os.eventfd_read(wake_up))
        self._wake_up = wake_up
        try:
            yield
        finally:
            self._wake_up = None
            os.close(wake_up)

    @contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        before = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
                before[number] = signal.signal(number, lambda *_: self.stop())
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _groups_of(session: int) -> Iterator[int]:
    """Return the process groups of a session."""
    for directory in Path("/proc").glob("[0-9]*"):
        pid = int(directory.name)
        with suppress(ProcessLookupError):  # it has just ended
            if os.getsid(pid) == session:
                yield os.getpgid(pid)


def _output_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None  # noqa: S101  for mypy: every program starts with a pipe
    return process.stdout


def _how(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
