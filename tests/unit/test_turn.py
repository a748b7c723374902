from __future__ import annotations

import os

from pooltasks.node.worker.turn import Turn


def test_the_node_sees_what_its_worker_has_begun() -> None:
    turn = Turn()
    pid = os.fork()
    if pid == 0:
        begun = turn.begin(1)
        turn.end()
        os._exit(not (begun and turn.begin(2)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert turn.last() == 2
    assert [*turn.running()] == [2]


def test_an_operation_has_begun_until_the_node_was_told_of_its_end() -> None:
    turn = Turn()
    assert turn.begin(1)
    turn.end()
    assert turn.last() == 1
    assert [*turn.running()] == [1]
    assert turn.slot_of(1) is None
    turn.told()
    assert not turn.running()


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
    assert turn.targets() == {0: 1}
    turn.end()
    assert not turn.targets()
    turn.begin(2)
    assert not turn.targets()


def test_each_slot_tells_what_it_runs() -> None:
    turn = Turn(3)
    for number, slot in ((1, 2), (2, 0), (3, 1)):
        turn.begin(number, slot)
    turn.end(0)
    turn.told(0)
    assert sorted(turn.running()) == [1, 3]
    assert turn.last() == 3
    assert (turn.slot_of(1), turn.slot_of(2), turn.slot_of(3)) == (2, None, 1)
    turn.interrupt(3)
    assert turn.targets() == {1: 3}
