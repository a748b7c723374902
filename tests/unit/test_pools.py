"""Pool: what a producer sends, and what it gets back."""

from __future__ import annotations

import time

import celery.exceptions
import pytest
from celery import Celery

from pooltasks import Pool
from pooltasks.errors import ConfigurationError
from pooltasks.task import Operation

POOLS = {"code": {"checkout_timeout": 10, "operation_timeout": 20}, "other": {}}


class Result:
    """A result that is there, or an error."""

    def __init__(self, value):
        self.value = value
        self.timeout = None
        self.forgotten = False

    def get(self, timeout):
        self.timeout = timeout
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def forget(self):
        self.forgotten = True


class Sender:
    """In place of ``Celery.send_task``: notes the messages, and answers with a result."""

    def __init__(self):
        self.messages = []
        self.result = Result("value")

    def __call__(self, name, args, kwargs, **options):
        self.messages.append((name, args, kwargs, options))
        return self.result


@pytest.fixture
def app(make_app):
    return make_app(pools=POOLS)


@pytest.fixture
def sent(app, monkeypatch):
    sender = Sender()
    monkeypatch.setattr(app, "send_task", sender)
    return sender


@pytest.fixture
def pool(app):
    return Pool("code", app=app)


def test_a_pool_knows_its_queue_and_its_settings(pool):
    assert pool.queue == "pool.code"
    assert pool.settings.checkout_timeout == 10
    assert repr(pool) == "<Pool code>"


def test_a_pool_is_of_the_current_application_by_default(app, monkeypatch):
    monkeypatch.setattr("celery._state._tls.current_app", app, raising=False)
    assert Pool("code").app is app


def test_an_unknown_pool_is_refused(app):
    with pytest.raises(ConfigurationError, match=r"no pool 'cod'\. Pools: code, other"):
        Pool("cod", app=app)


def test_an_application_without_pools_is_refused():
    with pytest.raises(ConfigurationError, match="not installed"):
        Pool("code", app=Celery("plain", set_as_current=False))


def test_a_built_in_operation_goes_by_its_short_name(pool, sent):
    pool.submit("ping")
    name, args, kwargs, options = sent.messages[0]
    assert (name, args, kwargs) == ("pooltasks.operations.ping", [], {})
    assert options["queue"] == "pool.code"


def test_an_operation_that_is_not_imported_here_is_sent_unchecked(pool, sent):
    result = pool.submit("jobs.run", (1,), {"a": 2}, timeout=3)
    assert result is sent.result
    name, args, kwargs, options = sent.messages[0]
    assert (name, args, kwargs) == ("jobs.run", [1], {"a": 2})
    assert options["queue"] == "pool.code"
    assert options["serializer"] == "pooltasks-json"
    headers = options["headers"]
    assert headers["deadline"] - headers["published_at"] == pytest.approx(3)
    assert "jobs.run" not in pool.app.tasks


def test_an_operation_is_named_by_itself_too(app, pool, sent):
    @app.task(base=Operation, name="jobs.known", pool="other", shared=False)
    def known(a):
        return a

    assert pool.submit(known, [1]) is sent.result
    assert pool.execute(known, [2]) == "value"
    assert [message[:2] for message in sent.messages] == [("jobs.known", [1]), ("jobs.known", [2])]


@pytest.mark.parametrize("other", [len, None, 5])
def test_what_is_no_operation_is_refused(pool, sent, other):
    with pytest.raises(TypeError, match="is no operation: decorate it with @operation"):
        pool.submit(other)
    with pytest.raises(TypeError, match="is no operation"):
        pool.submit_many(other, [()])
    assert not sent.messages


def test_arguments_are_checked_where_the_operation_is_known(app, pool, sent):
    @app.task(base=Operation, name="jobs.known", pool="other", shared=False)
    def known(a):
        return a

    with pytest.raises(TypeError, match="argument"):
        pool.submit("jobs.known")
    with pytest.raises(TypeError, match="argument"):
        pool.submit("ping", (1,))
    assert sent.messages == []
    pool.submit("jobs.known", (1,))
    assert sent.messages[0][3]["queue"] == "pool.code"


def test_without_a_timeout_the_deadline_is_the_pool_s(pool, sent):
    pool.submit("jobs.run")
    headers = sent.messages[0][3]["headers"]
    assert headers["deadline"] - headers["published_at"] == pytest.approx(30)


@pytest.mark.parametrize(("timeout", "budget"), [(None, 30), (5, 5)])
def test_execute_waits_a_little_longer_than_the_deadline(pool, sent, timeout, budget):
    assert pool.execute("ping", timeout=timeout) == "value"
    headers = sent.messages[0][3]["headers"]
    assert headers["deadline"] == pytest.approx(time.time() + budget, abs=1)
    assert budget < sent.result.timeout <= budget + 5
    assert sent.result.forgotten


@pytest.mark.parametrize("error", [ValueError("x"), celery.exceptions.TimeoutError("x")])
def test_execute_raises_what_the_operation_raised(pool, sent, error):
    sent.result.value = error
    with pytest.raises(type(error)) as raised:
        pool.execute("ping")
    assert raised.value is error
    assert sent.result.forgotten


@pytest.mark.parametrize(
    ("args", "positional", "keywords"),
    [
        ((), [], {}),
        (["p", {"x": 1}], ["p", {"x": 1}], {}),
        ({"program_id": "p"}, [], {"program_id": "p"}),
        ({}, [], {}),
    ],
)
def test_a_session_goes_with_the_arguments_of_either_kind(pool, sent, args, positional, keywords):
    assert pool.execute_in_session("s", "jobs.run", args, timeout=5) == "value"
    _, sent_args, sent_keywords, options = sent.messages[0]
    assert sent_args == positional
    assert sent_keywords == {**keywords, "session_id": "s"}
    headers = options["headers"]
    assert headers["deadline"] - headers["published_at"] == pytest.approx(5)
    assert "session_id" not in args
