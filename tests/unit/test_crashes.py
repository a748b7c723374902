"""What a worker died of."""

from __future__ import annotations

import signal

import pytest

from pooltasks.node.workforce.crashes import Cause, Crashes


@pytest.mark.parametrize(
    ("exitcode", "cause"),
    [
        (-signal.SIGSEGV, Cause.SEGFAULT),
        (-signal.SIGBUS, Cause.SEGFAULT),
        (-signal.SIGABRT, Cause.ABORT),
        (-signal.SIGKILL, Cause.KILLED),
        (-signal.SIGTERM, Cause.SIGNAL),
        (-35, Cause.SIGNAL),
        (1, Cause.EXIT),
        (None, Cause.EXIT),
    ],
)
def test_by_its_exit_code(exitcode, cause):
    assert Crashes().cause(exitcode) == cause


def test_a_kill_while_the_kernel_counts_one_is_for_want_of_memory(tmp_path):
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\noom 3\noom_kill 3\n")
    crashes = Crashes((tmp_path / "no such file", counter))
    assert crashes.cause(-signal.SIGKILL) == Cause.KILLED
    counter.write_text("low 0\noom 4\noom_kill 4\n")
    assert crashes.cause(-signal.SIGSEGV) == Cause.SEGFAULT
    assert crashes.cause(-signal.SIGKILL) == Cause.OUT_OF_MEMORY
    assert crashes.cause(-signal.SIGKILL) == Cause.KILLED
    counter.write_text("oom_kill 5\n")
    crashes.forget()
    assert crashes.cause(-signal.SIGKILL) == Cause.KILLED
