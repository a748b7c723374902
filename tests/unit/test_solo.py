"""What counts against the limits of an operation that a debugger may stop."""

from __future__ import annotations

import os
import pdb  # noqa: T100  a thread is held in it
import threading

import pytest

from pooltasks.node.debugging.one_worker import Clock
from pooltasks.node.debugging.solo_worker import is_held


def test_the_clock_stands_while_a_debugger_waits_for_its_user():
    clock = Clock(soft=0.1, hard=0.2, looked_at=10.0)
    clock.look(10.06, is_held=False)
    clock.look(99.0, is_held=True)
    assert not clock.is_soft_due()
    clock.look(99.05, is_held=False)
    assert clock.is_soft_due()
    assert not clock.is_soft_due()  # once
    assert not clock.is_hard_due()
    clock.look(99.15, is_held=False)
    assert clock.is_hard_due()


def test_a_gap_between_two_looks_is_one_of_the_whole_process():
    """As a debugger makes it that stops all threads."""
    clock = Clock(soft=1.0, hard=None, looked_at=0.0)
    clock.look(3600.0, is_held=False)
    assert clock.elapsed == pytest.approx(0.1)
    assert not clock.is_hard_due()


def test_a_thread_in_pdb_is_held_until_its_user_goes_on():
    reader, writer = os.pipe()
    begun, ended = threading.Event(), threading.Event()

    def work():
        with os.fdopen(reader) as stdin, open(os.devnull, "w") as stdout:  # noqa: PTH123
            begun.set()
            debugger = pdb.Pdb(stdin=stdin, stdout=stdout, nosigint=True)
            debugger.set_trace()
            ended.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(10)
    while not is_held(thread.ident):
        assert thread.is_alive()
    os.write(writer, b"continue\n")
    os.close(writer)
    while is_held(thread.ident):
        assert thread.is_alive()
    ended.set()
    thread.join(10)
    assert not is_held(thread.ident)
