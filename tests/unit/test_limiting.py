"""Limits: what ``@operation`` refuses, how a rate is read, and what a key looks like."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pooltasks import operation
from pooltasks.broker.limiting import Limits, flow_of, is_marked, limits_of, marked, per_second
from pooltasks.errors import ConfigurationError


def function(tenant, number=0):
    return tenant, number


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"key": "tenants", "concurrency": 1},
            "key is 'tenants'; allowed: an argument of function",
        ),
        ({"key": "tenant", "bind": True}, "allowed: an argument of function: number"),
        ({"concurrency": 0}, "concurrency is 0; allowed: 1 or more"),
        ({"rate": "fast"}, "'fast' is no rate; allowed"),
        ({"rate": "0/s"}, "'0/s' is no rate"),
        ({"burst": 3}, "burst is part of a rate"),
        ({"rate": "1/s", "burst": 0}, "burst is 0"),
        ({"fair": True}, "fair=True needs the key"),
        ({"key": "tenant", "weights": {"gold": 4}}, "weights are of turns"),
        ({"key": "tenant", "fair": True, "weights": {"gold": 0}}, "weight of 'gold' is 0; allowed"),
        ({"key": "tenant", "fair": True, "weights": {7: 101}}, "weight of 7 is 101; allowed"),
        ({"key": "tenant", "fair": True, "queue": "celery"}, "plain workers serve"),
        ({"concurrency": 1, "queue": "celery"}, "plain workers serve"),
        ({"concurrency": 1, "acks_late": False}, "hears of no end"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        operation(**options)(function)


def test_what_makes_sense_is_taken():
    assert limits_of(function, None, None, None, None, is_method=False) is None
    taken = limits_of(function, "tenant", 10, "100/s", 7, is_method=False)
    assert taken == Limits("tenant", 10, 100.0, 7)
    assert (per_second("90/m"), per_second("0.5/s"), per_second("36/h")) == (1.5, 0.5, 0.01)


def test_the_server_has_them_as_text():
    assert Limits("tenant").text() == "- - -"
    assert Limits(concurrency=3).text() == "3 - -"
    assert Limits(rate=100.0).text() == "- 10.000000 10"
    assert Limits(rate=0.5).text() == "- 2000.000000 1"
    assert Limits(rate=0.5, burst=4).text() == "- 2000.000000 4"
    assert Limits("tenant", concurrency=3, fair=True).text() == "3 - - 1"


def test_weights_are_told_by_the_value_as_it_stands_in_a_key():
    weights = {"gold": 4, 7: 0.5, "b c": 2}
    limits = limits_of(
        function, "tenant", None, None, None, fair=True, weights=weights, is_method=False
    )
    assert limits is not None
    assert limits.fields("shop.a b") == {
        "code shop.a%20b": "- - - 1",
        "weights shop.a%20b": " gold;4 7;0.5 b%20c;2",
    }
    # Those of the code before are gone with them.
    assert Limits("tenant", fair=True).fields("shop.run")["weights shop.run"] == ""
    assert Limits("tenant").fields("shop.run") == {"code shop.run": "- - -"}


def test_a_key_has_the_operation_and_the_value_and_nothing_that_json_escapes():
    its = SimpleNamespace(run=function, name="shop.call")
    limits = Limits("tenant")
    assert limits.flow(its, ("acme",), {}) == "shop.call/acme"
    assert limits.flow(its, (), {"tenant": 17}) == "shop.call/17"
    assert limits.flow(its, ('a"\\/\0é',), {}) == "shop.call/a%22%5C%2F%00%C3%A9"
    assert Limits(concurrency=1).flow(its, ("acme",), {}) == "shop.call/"
    assert len(flow_of("shop.call", "x" * 1000)) < 100
    assert flow_of("shop.call", "x" * 1000) != flow_of("shop.call", "x" * 1001)


def test_a_key_stands_behind_the_number_of_deliveries_which_scripts_look_for_at_the_head():
    text = marked(b'{"deliveries": 2,"body": "", "headers": {}}', "jobs.run/a")
    assert text.startswith(b'{"deliveries": 2,"flow": "jobs.run/a", "body"')
    assert is_marked(text)
