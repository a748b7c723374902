"""Temporary workers as a lever of the optimizer: what nodes may have, and who has to be told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pooltasks.optimizer.allowances import AGAIN, noted, share, to_tell


def nodes(**numbers: int) -> Any:
    return {
        name: SimpleNamespace(sample=SimpleNamespace(number=number))
        for name, number in numbers.items()
    }


@pytest.mark.parametrize(
    ("slots", "per_worker", "each"), [(6, 1, 3), (7, 1, 4), (7, 4, 1), (0, 1, 0)]
)
def test_slots_become_workers_of_each_node(slots: int, per_worker: int, each: int) -> None:
    assert share(slots, per_worker, 2) == each


def test_a_node_that_has_what_it_may_have_is_not_told() -> None:
    assert to_tell(3, nodes(a=5, b=5), {}, default=3, now=0.0) == []
    assert to_tell(4, nodes(a=5, b=5), {}, default=3, now=0.0) == ["a", "b"]
    assert noted(3, nodes(a=5, b=5), {}, default=3, now=0.0) == {}


def test_a_node_is_told_once_and_again_when_it_may_have_forgotten() -> None:
    told = noted(2, nodes(a=5, b=5), {}, default=0, now=100.0)

    def ask(now: float, **numbers: int) -> list[str]:
        return to_tell(2, nodes(**numbers), told, default=0, now=now)

    assert ask(101.0, a=6, b=6) == []
    assert ask(101.0, a=6, b=0) == ["b"]  # it has started again
    assert ask(100.0 + AGAIN, a=66, b=66) == ["a", "b"]


def test_a_policy_that_says_nothing_gives_back_what_another_allowed() -> None:
    told = noted(4, nodes(a=5), {}, default=1, now=100.0)
    assert to_tell(1, nodes(a=6), told, default=1, now=101.0) == ["a"]
    assert noted(1, nodes(a=6), told, default=1, now=101.0) == {}
    assert noted(4, {}, told, default=1, now=101.0) == {}  # it is gone
