"""A pool's slots as workers of its nodes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooltasks.optimizer.splitting import Capacity, split


def capacity(ceiling=16, *, floor=1, room=None, size=1):
    return Capacity(floor, ceiling, ceiling if room is None else room, size)


nodes_of_any_kind = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.builds(
        lambda floor, more, room, size: Capacity(floor, floor + more, room, size),
        st.integers(1, 4),
        st.integers(0, 30),
        st.integers(0, 40),
        st.integers(0, 40),
    ),
    min_size=1,
)


@pytest.mark.parametrize(
    ("slots", "per_worker", "ceilings", "expected"),
    [
        (6, 1, [16, 16], [3, 3]),
        (7, 1, [16, 16], [4, 3]),
        (9, 1, [32, 16], [6, 3]),
        (9, 4, [16, 16], [2, 1]),  # three workers of four slots
        (0, 1, [16, 16], [1, 1]),
        (99, 1, [16, 4], [16, 4]),
    ],
)
def test_slots_are_shared_by_capacity(slots, per_worker, ceilings, expected):
    nodes = {f"n{number}": capacity(ceiling) for number, ceiling in enumerate(ceilings)}
    assert list(split(slots, per_worker, nodes).values()) == expected


def test_a_node_without_room_gets_no_more_and_gives_none_up():
    nodes = {"full": capacity(room=0, size=5), "roomy": capacity()}
    assert split(20, 1, nodes) == {"full": 5, "roomy": 15}


@given(nodes_of_any_kind, st.integers(0, 300), st.integers(1, 8))
def test_no_node_is_below_its_floor_or_above_its_most_and_no_slot_is_forgotten(
    nodes, slots, per_worker
):
    workers = split(slots, per_worker, nodes)
    assert workers.keys() == nodes.keys()
    for name, node in nodes.items():
        assert node.floor <= workers[name] <= node.most
    total = sum(workers.values()) * per_worker
    if total < slots:
        assert all(workers[name] == node.most for name, node in nodes.items())
    if total >= slots + per_worker:
        assert all(workers[name] == node.floor for name, node in nodes.items())


@given(nodes_of_any_kind, st.integers(0, 100))
def test_one_slot_more_takes_a_worker_from_no_node(nodes, slots):
    before, after = split(slots, 1, nodes), split(slots + 1, 1, nodes)
    assert all(after[name] >= before[name] for name in nodes)
    assert sum(after.values()) - sum(before.values()) in {0, 1}
