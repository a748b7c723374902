from __future__ import annotations

import os

from pooltasks.node.turn import Turn


def test_the_node_sees_what_its_worker_has_begun() -> None:
    turn = Turn()
    pid = os.fork()
    if pid == 0:
        begun = turn.begin(1)
        turn.end()
        os._exit(not (begun and turn.begin(2)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    number, since = turn.now()
    assert number == 2
    assert since is not None


def test_what_has_ended_does_not_run() -> None:
    turn = Turn()
    assert turn.begin(1)
    turn.end()
    assert turn.now() == (1, None)


def test_what_was_taken_back_does_not_begin_and_what_came_later_does() -> None:
    turn = Turn()
    assert turn.begin(1)
    turn.recall(3)
    assert not turn.begin(2)
    assert not turn.begin(3)
    assert turn.begin(4)


def test_a_signal_is_for_one_operation() -> None:
    turn = Turn()
    turn.begin(1)
    turn.interrupt(1)
    assert turn.is_target()
    turn.end()
    assert not turn.is_target()
    turn.begin(2)
    assert not turn.is_target()
