"""Which list a message of a priority lies on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.transport.redis import Channel

from pooltasks.broker.queues import list_of


class KombusChannel:
    """As much of kombu's channel as chooses a list."""

    sep = "\x06\x16"
    priority = Channel.priority
    _q_for_pri = Channel._q_for_pri

    def __init__(self, steps):
        self.priority_steps = steps


@given(
    st.lists(st.integers(1, 9), unique=True).map(lambda steps: (0, *sorted(steps))),
    st.integers(0, 9),
)
def test_a_list_is_the_one_that_kombu_uses(steps, priority):
    kombus = KombusChannel(steps)._q_for_pri("pool.code", priority)
    assert list_of("pool.code", priority, steps) == kombus


@pytest.mark.parametrize("priority", [0, 3, 9])
def test_without_priorities_everything_lies_on_the_plain_list(priority):
    assert list_of("pool.code", priority, ()) == "pool.code"


def test_what_is_below_all_steps_lies_on_the_list_of_the_smallest():
    assert list_of("pool.code", 1, (3, 6)) == "pool.code\x06\x163"
