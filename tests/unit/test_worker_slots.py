"""Slots: the main thread of a worker takes them, and their threads give them back."""

from __future__ import annotations

import threading

from pooltasks.node.worker.outcome import Run, too_late
from pooltasks.node.worker.slots import Slots


def test_the_node_may_hear_of_an_end_before_its_slot_is_given_back() -> None:
    """A worker ended with an IndexError then, and what it ran beside was run twice."""
    slots: Slots
    told, may_give_back = threading.Event(), threading.Event()

    def operate(place: int, _: int) -> Run | None:
        told.set()  # from here on the node may write another operation
        may_give_back.wait(10)
        slots.give_back(place)
        return None

    slots = Slots(1, operate, too_late)
    place = slots.take()
    slots.start(place, 1)
    assert told.wait(10)
    timer = threading.Timer(0.05, may_give_back.set)
    timer.start()
    assert slots.take() == place
    timer.join()
    slots.give_back(place)
    slots.finish()


def test_the_slot_used_last_goes_first() -> None:
    slots = Slots(3, print, too_late)
    first, second = slots.take(), slots.take()
    slots.give_back(first)
    assert (first, second, slots.take()) == (0, 1, 0)
