"""Uniqueness: what ``@operation`` refuses, and what makes two calls the same."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pooltasks import operation
from pooltasks.broker.uniqueness import Unique, lasts_until, unique_of
from pooltasks.errors import ConfigurationError


def function(order_id, items=(), *, note=None):
    return order_id, items, note


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unique": "order"}, "unique names 'order'; allowed: True, or arguments of function"),
        ({"unique": ("order_id", "x")}, "unique names 'x'"),
        ({"unique": ()}, "unique names no argument"),
        ({"unique": "order_id", "bind": True}, "allowed: .* items, note"),
        ({"unique": True, "unique_until": "end"}, "unique_until is 'end'; allowed"),
        ({"unique": True, "unique_for": 0}, "unique_for is 0; allowed"),
        ({"unique_for": 5}, "unique does not say what"),
        ({"unique": True, "queue": "celery"}, "plain workers serve"),
        ({"unique": True, "acks_late": False}, "hears of no end"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        operation(**options)(function)


def test_what_makes_sense_is_taken():
    def of(unique, until="finish", seconds=None):
        return unique_of(function, unique, until, seconds, is_method=False)

    assert of(False) is None
    assert of(True, "start", 5) == Unique(None, "start", 5)
    assert of("order_id") == Unique(("order_id",))
    assert of(("order_id", "note")) == Unique(("order_id", "note"))


def test_calls_with_the_same_arguments_are_the_same_however_they_are_given():
    its = SimpleNamespace(run=function, name="orders.process")
    every, one = Unique(None), Unique(("order_id",))
    digest = every.digest(its, (1, [2]), {})
    assert len(digest) == 32
    assert digest == every.digest(its, (), {"items": (2,), "order_id": 1, "note": None})
    assert digest != every.digest(its, (1, [3]), {})
    assert one.digest(its, (1, [2]), {}) == one.digest(its, (1, [3]), {"note": "x"})
    other = SimpleNamespace(run=function, name="orders.cancel")
    assert digest != every.digest(other, (1, [2]), {})
    with pytest.raises(TypeError):
        every.digest(its, (), {})


def test_a_lock_lasts_until_its_operation_can_neither_start_nor_run():
    def until(**headers):
        return lasts_until({"deadline": 1000.0, "unique": ["x", 0, "finish"], **headers})

    assert until() == 1070.0
    assert until(timelimit=[None, None]) == 1070.0
    assert until(timelimit=[600, None]) == 1660.0
    assert until(unique=["x", 5_000_000, "finish"]) == 5000.0
