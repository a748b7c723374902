"""Batches: what ``@operation`` refuses, what a function gets, and what its calls get."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Retry

import pooltasks
from pooltasks import operation
from pooltasks.batching import DEFAULT_WAIT, batching_of
from pooltasks.errors import ConfigurationError
from pooltasks.node.workforce.batches import Gatherer
from pooltasks.node.workforce.jobs import Blame
from pooltasks.testing import inline

pytestmark = pytest.mark.usefixtures("bare_environment")

runs: list[Any] = []


@pytest.fixture(autouse=True)
def no_runs():
    runs.clear()


def function(row, table="t"):
    runs.append((row, table))
    return [{"bad": ValueError("bad"), "again": Retry(when=0)}.get(one, one) for one in row]


store = operation(pool="code", batch=10, name="test_batching.store")(function)


@operation(pool="code", batch=10, retry={"python": 2}, name="test_batching.flaky")
def flaky(row: list[str]) -> list[Any]:
    runs.append(row)
    return row if len(runs) > 2 else [RuntimeError("not yet") for _ in row]


@operation(pool="code", batch=10, name="test_batching.later")
async def later(row: list[str]) -> list[str]:
    return row


@operation(pool="code", batch=10, name="test_batching.wrong")
def wrong(made: list[Any]) -> Any:
    return made[0]


@operation(pool="code", batch=10, key="tenant", concurrency=1, name="test_batching.keyed")
def keyed(tenant: list[str], *, rows: list[int]) -> None:
    runs.append((tenant, rows))


def everything(*rows):
    return rows


def nothing():
    """Take no argument."""


@pytest.mark.parametrize(
    ("function_", "options", "message"),
    [
        (function, {"batch": 0}, "batch is 0; allowed: 1 to 10000 calls"),
        (function, {"batch": 10_001}, "batch is 10001"),
        (function, {"batch_wait": 1}, "batch does not say how many"),
        (function, {"batch": 5, "batch_wait": -1}, "batch_wait is -1; allowed: 0 to 60 seconds"),
        (function, {"batch": 5, "batch_wait": 61}, "batch_wait is 61"),
        (function, {"batch": 5, "bind": True}, "bind=True belongs to one call"),
        (function, {"batch": 5, "acks_late": False}, "acks_late=False the calls of a batch"),
        (function, {"batch": 5, "queue": "celery"}, "plain workers serve the queue 'celery'"),
        (everything, {"batch": 5}, "each parameter of everything becomes a list"),
        (nothing, {"batch": 5}, "it needs at least one"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(function_, options, message):
    with pytest.raises(ConfigurationError, match=message):
        operation(**options)(function_)


def test_what_makes_sense_is_taken():
    assert batching_of(function, None, None, None, {}) is None
    assert batching_of(function, 5, None, None, {})[:2] == (5, DEFAULT_WAIT)
    assert batching_of(function, 5, 0, None, {})[:2] == (5, 0.0)


def test_the_function_gets_a_list_for_each_parameter():
    assert store(["a", "b"], ["t", "u"]) == ["a", "b"]  # called directly, it is the function
    its = batching_of(function, 5, None, None, {})
    calls = [its.bound((("a",), {})), its.bound(((), {"table": "u", "row": "b"}))]
    assert its.run(SimpleNamespace(perform=function), calls) == ["a", "b"]
    assert runs[-1] == (["a", "b"], ["t", "u"])


def test_inline_a_call_is_a_batch_of_one():
    with inline(pooltasks.app):
        assert store.delay("a").get() == "a"
        assert later.delay("b").get() == "b"
        assert keyed.delay("ann", rows=1).get() is None
        with pytest.raises(ValueError, match="bad"):
            store.delay("bad").get()
        with pytest.raises(TypeError):
            store.delay()
    assert runs == [(["a"], ["t"]), (["ann"], [1]), (["bad"], ["t"])]


def test_each_call_is_tried_again():
    with inline(pooltasks.app):
        assert flaky.delay("a").get() == "a"
    assert runs == [["a"]] * 3


def test_a_function_may_ask_for_another_attempt_of_a_call():
    with inline(pooltasks.app):
        result = store.delay("again")
        with pytest.raises(Exception, match="Can't retry"):
            result.get()
    assert len(runs) == 4


def test_eager_calls_are_batches_of_one_too():
    assert store.apply(("a",)).get() == "a"
    assert isinstance(store.apply(("bad",)).result, ValueError)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"a": 1}, "test_batching.wrong returned a dict for a batch; allowed: a list"),
        ([1, 2], "test_batching.wrong returned 2 results for a batch of 1 calls"),
    ],
)
def test_what_is_no_list_of_results_fails_every_call(made, message):
    with inline(pooltasks.app), pytest.raises(TypeError, match=message):
        wrong.delay(made).get()


class Hub:
    """An event loop whose timers go off when a test says so."""

    def __init__(self):
        self.timers = []

    def call_later(self, _seconds, function_, *arguments):
        self.timers.append(lambda: function_(*arguments))

    def go_off(self):
        timers, self.timers = self.timers, []
        for timer in timers:
            timer()


class Job:
    is_terminated = False
    is_over = False

    def is_wanted(self):
        return not self.is_over

    def terminate(self, _signal):
        self.is_terminated = True

    @staticmethod
    def safe_apply_callback(function_, *arguments):
        function_(*arguments)


class Request:
    """A call's request, which notes what it hears."""

    name = "shop.store"
    time_limits = (11.0, 10.0)

    def __init__(self):
        self.heard = []
        self.is_revoked = False

    def revoked(self):
        return self.is_revoked

    def has_listener(self):
        return False

    def __getattr__(self, name):
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *arguments: self.heard.append((name, *arguments))


@pytest.fixture
def node():
    """A node's gatherer, its event loop and what went to its workers."""

    def submit(call, owner, *, limits, correlation_id):
        sent.append((call, owner, limits, correlation_id))
        return Job()

    sent: list[Any] = []
    its = SimpleNamespace(gatherer=Gatherer(submit), hub=Hub(), sent=sent)
    its.gatherer.start(its.hub)
    return its


BATCHING = batching_of(function, 4, 1, None, {})


def gathered(node, number):
    requests = [Request() for _ in range(number)]
    members = [node.gatherer.add(request, b"", BATCHING) for request in requests]
    return requests, members


def test_a_batch_goes_when_it_is_full_and_what_is_left_after_its_wait(node):
    gathered(node, 6)
    assert [len(owner.members) for _, owner, *_ in node.sent] == [4]
    assert not node.gatherer.is_empty()
    node.hub.go_off()
    assert [len(owner.members) for _, owner, *_ in node.sent] == [4, 2]
    assert node.gatherer.is_empty()


def test_a_batch_takes_the_place_of_one_operation_and_more_is_asked_for_while_it_grows(node):
    assert node.gatherer.room() == 0
    gathered(node, 1)
    assert node.gatherer.room() == 1  # as many more as there are
    gathered(node, 1)
    assert node.gatherer.room() == 1 + 2
    gathered(node, 1)
    assert node.gatherer.room() == 2 + 1
    gathered(node, 1)
    assert node.gatherer.room() == 3
    node.sent[0][1].job.is_over = True
    assert node.gatherer.room() == 0


def test_what_is_revoked_while_it_is_gathered_does_not_go(node):
    requests, _ = gathered(node, 2)
    requests[0].is_revoked = True
    node.hub.go_off()
    assert [its.request for its in node.sent[0][1].members.values()] == [requests[1]]
    requests, _ = gathered(node, 1)
    requests[0].is_revoked = True
    node.hub.go_off()
    assert len(node.sent) == 1


def test_the_limits_are_the_longest_of_any_call(node):
    requests, _ = gathered(node, 2)
    requests[0].time_limits = (3.0, 2.0)
    requests[1].time_limits = (5.0, None)
    node.hub.go_off()
    assert node.sent[0][2] == (None, 5.0)


def test_who_dies_with_others_is_a_suspect_and_who_was_alone_is_to_blame(node):
    requests, _ = gathered(node, 2)
    node.hub.go_off()
    node.sent[0][1].on_lost("it died", Blame.CERTAIN)
    assert [its.heard for its in requests] == [[("on_lost", "it died", Blame.SUSPECT)]] * 2
    (alone,), _ = gathered(node, 1)
    node.hub.go_off()
    node.sent[1][1].on_lost("it died", Blame.CERTAIN)
    assert alone.heard == [("on_lost", "it died", Blame.CERTAIN)]
    (innocent, _), _ = gathered(node, 2)
    node.hub.go_off()
    node.sent[2][1].on_lost("its node ends", Blame.INNOCENT)
    assert innocent.heard == [("on_lost", "its node ends", Blame.INNOCENT)]


def test_with_one_that_is_revoked_the_others_are_innocent(node):
    (gone, other), (member, _) = gathered(node, 2)
    node.hub.go_off()
    batch = node.sent[0][1]
    member().terminate(9)
    assert batch.job.is_terminated
    batch.on_terminated("SIGKILL")
    assert gone.heard == [("on_terminated", "SIGKILL")]
    assert [(name, blame) for name, _, blame in other.heard] == [("on_lost", Blame.INNOCENT)]


def test_what_was_gathered_is_forgotten_with_the_rest(node):
    gathered(node, 2)
    node.gatherer.forget()
    node.hub.go_off()
    assert (node.sent, node.gatherer.room()) == ([], 0)


def test_timers_are_set_again_with_a_new_event_loop(node):
    gathered(node, 2)
    node.hub = Hub()
    node.gatherer.start(node.hub)
    node.hub.go_off()
    assert len(node.sent) == 1
