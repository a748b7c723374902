"""The operation class: what is published, what is refused, what is retried."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from celery import Task
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import EncodeError

from pooltasks.ages import taken
from pooltasks.broker.serialization import MAX_MESSAGE_BYTES, SERIALIZER
from pooltasks.errors import (
    Category,
    CheckoutTimeout,
    ConfigurationError,
    DeadlineExceeded,
    MessageTooLargeError,
    OperationRefusedError,
    OperationTimeout,
)
from pooltasks.task import RETRIES, Operation, retry_delay

POOLS = {
    "code": {"checkout_timeout": 10, "operation_timeout": 20},
    "other": {"checkout_timeout": 1, "operation_timeout": 2},
}


@pytest.fixture
def app(make_app):
    return make_app(pools=POOLS)


@pytest.fixture
def sent(app, monkeypatch):
    """The options of every message that the application would send."""
    messages = []
    monkeypatch.setattr(app, "send_task", lambda *_, **options: messages.append(options))
    return messages


def give_back(*args, **kwargs):
    return args, kwargs


def make(app, function=give_back, **options):
    options = {"name": "test.operation", "pool": "code", "serializer": SERIALIZER, **options}
    return app.task(base=Operation, typing=False, shared=False, **options)(function)


def run(task, *args, queue="pool.code", redelivered=False, **request):
    """Run the operation as a worker does."""
    task.push_request(
        id="1",
        args=args,
        kwargs={},
        called_directly=False,
        delivery_info={"routing_key": queue, "redelivered": redelivered},
        **request,
    )
    try:
        return task(*args)
    finally:
        task.pop_request()


def raising(error):
    def function():
        raise error

    return function


# How long a retry waits

WAITING = [Category.INITIALIZATION, Category.CONNECTION, Category.TIMEOUT, Category.RESOURCE]


@given(st.sampled_from(WAITING), st.integers(min_value=0, max_value=100_000))
def test_the_delay_is_within_its_bounds(category, retries):
    assert 0.0 <= retry_delay(category, retries) <= min(30.0, 0.1 * 2.0 ** min(retries, 20))


@given(st.integers(min_value=0, max_value=1000))
def test_what_does_not_pass_with_time_is_retried_at_once(retries):
    for category in (Category.COMMUNICATION, Category.SESSION, Category.PYTHON):
        assert retry_delay(category, retries) == 0.0


def test_the_delays_are_spread_over_their_range():
    delays = [retry_delay(Category.CONNECTION, 20) for _ in range(200)]
    assert min(delays) < 10
    assert max(delays) > 20


def test_every_category_has_a_number_of_retries():
    assert set(RETRIES) == set(Category)


# Publishing


def test_an_operation_goes_to_its_pool_with_its_deadline(app, sent):
    make(app).apply_async((1,), {"a": 2})
    (message,) = sent
    assert message["queue"] == "pool.code"
    published_at = message["headers"]["published_at"]
    assert published_at == pytest.approx(time.time(), abs=5)
    assert message["headers"]["deadline"] == pytest.approx(published_at + 30)


def test_the_operation_s_own_times_make_its_deadline(app, sent):
    make(app, timeout=3, checkout_timeout=4).delay()
    headers = sent[0]["headers"]
    assert headers["deadline"] - headers["published_at"] == pytest.approx(7)


def test_the_times_are_those_of_the_queue_that_is_named(app, sent):
    make(app).apply_async(queue="pool.other")
    headers = sent[0]["headers"]
    assert headers["deadline"] - headers["published_at"] == pytest.approx(3)


def test_the_caller_may_set_the_deadline(app, sent):
    make(app).apply_async(deadline=0.5)
    headers = sent[0]["headers"]
    assert headers["deadline"] - headers["published_at"] == pytest.approx(0.5)
    assert "deadline" not in sent[0]


def test_an_operation_for_later_counts_from_when_it_is_due(app, sent):
    now = time.time()
    make(app).apply_async(countdown=100)
    make(app).apply_async(eta=datetime.now(UTC) + timedelta(seconds=100))
    make(app).apply_async(eta=datetime.now(UTC) - timedelta(seconds=100))
    published = [message["headers"]["published_at"] - now for message in sent]
    assert published == pytest.approx([100, 100, 0], abs=5)
    assert all(
        message["headers"]["deadline"] - message["headers"]["published_at"] == pytest.approx(30)
        for message in sent
    )


def test_the_caller_s_headers_are_kept_and_not_changed(app, sent):
    headers = {"x-request": "7"}
    make(app).apply_async(headers=headers)
    assert sent[0]["headers"]["x-request"] == "7"
    assert headers == {"x-request": "7"}


def test_an_unknown_pool_is_refused_before_anything_is_sent(app, sent):
    with pytest.raises(ConfigurationError, match=r"no pool 'cod'\. Pools: code, other"):
        make(app).apply_async(queue="pool.cod")
    assert sent == []


def test_an_operation_for_any_pool_must_be_told_which(app, sent):
    with pytest.raises(OperationRefusedError, match=r"none is named.*Pools: code, other\."):
        make(app, pool=None).delay()
    assert sent == []
    make(app, pool=None).apply_async(queue="pool.other")
    assert sent[0]["queue"] == "pool.other"


def test_without_any_pool_the_refusal_says_so(make_app):
    with pytest.raises(OperationRefusedError, match="Pools: none configured"):
        make(make_app(), pool=None).delay()


def test_an_operation_for_any_pool_goes_to_the_only_one(make_app, monkeypatch):
    app = make_app(pools={"only": {}})
    queues = []
    monkeypatch.setattr(app, "send_task", lambda *_, queue, **__: queues.append(queue))
    make(app, pool=None).delay()
    assert queues == ["pool.only"]


def test_an_operation_for_any_pool_stays_in_the_pool_of_its_worker(app, sent):
    app.pooltasks.pool = "other"
    make(app, pool=None).delay()
    assert sent[0]["queue"] == "pool.other"


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        (object(), EncodeError, "not JSON serializable"),
        ("x" * MAX_MESSAGE_BYTES, MessageTooLargeError, "the limit is 8,388,608"),
    ],
)
def test_arguments_that_no_message_can_carry_are_refused(app, argument, error, message):
    app.conf.broker_url = "memory://"
    with pytest.raises(error, match=message):
        make(app, ignore_result=True).delay(argument)


# Another attempt


def test_another_attempt_keeps_the_deadline_that_the_caller_gave(app):
    task = make(app)
    its = {"deadline": 12345.0, "deadline_given": True}
    task.push_request(id="1", args=(), kwargs={}, called_directly=False, **its)
    signature = task.signature_from_request(countdown=1, headers={"x": 1})
    task.pop_request()
    assert signature.options["headers"] == {"x": 1, **its}


def test_another_attempt_has_a_deadline_of_its_own_if_the_caller_gave_none(app, sent):
    def function():
        raise task.retry(countdown=65)

    task = make(app, function)
    now = time.time()
    with pytest.raises(Retry):
        run(task, published_at=now, deadline=now + 30)
    headers = sent[0]["headers"]
    assert headers["deadline"] == pytest.approx(now + 65 + 30, abs=5)
    assert headers["published_at"] == pytest.approx(now + 65, abs=5)
    assert headers["submitted_at"] == now


def test_a_latency_begins_before_the_first_attempt():
    assert taken({"submitted_at": 10.0, "published_at": 15.0}, 18.0) == 8.0
    assert taken({"published_at": 15.0}, 18.0) == 3.0
    assert taken({}, 18.0) is None


def test_a_given_deadline_travels_from_attempt_to_attempt(app, sent):
    def function():
        raise task.retry(countdown=1)

    task = make(app, function)
    task.apply_async(deadline=60)
    for retries in (0, 1):
        its = {name: sent[-1]["headers"][name] for name in ("deadline", "deadline_given")}
        with pytest.raises(Retry):
            run(task, retries=retries, published_at=time.time(), **its)
    assert len({message["headers"]["deadline"] for message in sent}) == 1
    assert all(message["headers"]["deadline_given"] is True for message in sent)


def test_time_limits_that_contradict_each_other_are_refused_as_celery_does(make_app):
    task = make(make_app(pools=POOLS), soft_time_limit=3, time_limit=2)
    message = "soft_time_limit must be less than or equal to time_limit"
    with pytest.raises(ValueError, match=message):
        task.delay()
    with pytest.raises(ValueError, match=message):
        Task.apply_async(task)


def test_another_attempt_of_a_stock_client_s_message_has_no_deadline_to_keep(app):
    task = make(app)
    task.push_request(id="1", args=(), kwargs={}, called_directly=False)
    signature = task.signature_from_request(task.request)
    task.pop_request()
    assert "deadline" not in (signature.options.get("headers") or {})


# Running


def test_a_direct_call_runs_the_function_and_checks_nothing(app):
    assert make(app)(1, a=2) == ((1,), {"a": 2})


def test_what_a_stock_client_published_is_run(app):
    assert run(make(app), 1) == ((1,), {})


def test_the_wait_is_noted_and_never_negative(app):
    seen = []

    def look(self):
        seen.append(self.request.wait_seconds)

    task = make(app, look, bind=True)
    run(task, published_at=time.time() - 3)
    run(task, published_at=time.time() + 3)
    assert seen == pytest.approx([3, 0], abs=1)
    assert seen[1] == 0


def test_what_waited_too_long_is_not_run(app):
    runs = []

    def count():
        runs.append(1)

    task = make(app, count)
    with pytest.raises(CheckoutTimeout, match=r"test\.operation waited 1[12]\..*timeout of 10 s"):
        run(task, published_at=time.time() - 11)
    assert runs == []


def test_the_operation_s_own_checkout_timeout_stands_over_the_pool_s(app):
    with pytest.raises(CheckoutTimeout, match="timeout of 2 s"):
        run(make(app, checkout_timeout=2), published_at=time.time() - 3)
    run(make(app, name="test.patient", checkout_timeout=20), published_at=time.time() - 11)


def test_the_checkout_timeout_is_that_of_the_queue_it_came_from(app):
    with pytest.raises(CheckoutTimeout, match="timeout of 1 s"):
        run(make(app), queue="pool.other", published_at=time.time() - 3)


def test_without_a_queue_the_checkout_timeout_is_that_of_its_own_pool(app):
    with pytest.raises(CheckoutTimeout, match="timeout of 10 s"):
        run(make(app), queue=None, published_at=time.time() - 11)


def test_what_comes_back_from_a_dead_worker_had_been_checked_out_in_time(app):
    assert run(make(app), redelivered=True, published_at=time.time() - 11) == ((), {})


def test_what_comes_after_its_deadline_is_not_run(app):
    now = time.time()
    with pytest.raises(DeadlineExceeded, match=r"reached a worker [12]\..* s after its deadline"):
        run(make(app), redelivered=True, published_at=now - 11, deadline=now - 1)
    assert run(make(app), published_at=now, deadline=now + 10) == ((), {})


@pytest.mark.parametrize("error", [Ignore("x"), Reject("x"), Retry("x")])
def test_celery_s_own_exceptions_pass(app, sent, error):
    with pytest.raises(type(error)) as raised:
        run(make(app, raising(error), retries_by_category=dict(RETRIES)))
    assert raised.value is error
    assert sent == []


def test_an_error_is_raised_as_it_is_where_nothing_is_retried(app, sent):
    error = ValueError("x")
    with pytest.raises(ValueError, match="x") as raised:
        run(make(app, raising(error)), retries=0)
    assert raised.value is error
    assert sent == []


def test_the_soft_limit_is_an_operation_timeout(app, sent):
    with pytest.raises(OperationTimeout, match=r"test\.operation was stopped after running for 0"):
        run(make(app, raising(SoftTimeLimitExceeded())))
    assert sent == []


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (ValueError("x"), Category.PYTHON),
        (ConnectionError("x"), Category.CONNECTION),
        (SoftTimeLimitExceeded(), Category.TIMEOUT),
    ],
)
def test_an_error_is_retried_as_often_as_its_category_allows(app, sent, error, category):
    task = make(app, raising(error), retries_by_category={category: 2}, max_retries=0)
    deadline = time.time() + 60
    for retries in (0, 1):
        with pytest.raises(Retry):
            run(task, retries=retries, deadline=deadline, deadline_given=True)
    assert [message["retries"] for message in sent] == [1, 2]
    assert all(message["headers"]["deadline"] == deadline for message in sent)
    with pytest.raises((ValueError, ConnectionError, OperationTimeout)):
        run(task, retries=2, deadline=deadline)
    assert len(sent) == 2


def test_no_retry_is_due_after_the_deadline(app, sent, monkeypatch):
    monkeypatch.setattr("pooltasks.task.retry_delay", lambda *_: 5.0)
    task = make(app, raising(ConnectionError("x")), retries_by_category={Category.CONNECTION: 2})
    now = time.time()
    with pytest.raises(ConnectionError):
        run(task, retries=0, published_at=now, deadline=now + 2, deadline_given=True)
    assert sent == []
    with pytest.raises(Retry):
        run(task, retries=0, published_at=now, deadline=now + 20, deadline_given=True)
    assert sent[0]["countdown"] == 5.0


def test_a_retry_that_is_due_after_the_default_deadline_has_another(app, sent, monkeypatch):
    monkeypatch.setattr("pooltasks.task.retry_delay", lambda *_: 5.0)
    task = make(app, raising(ConnectionError("x")), retries_by_category={Category.CONNECTION: 2})
    now = time.time()
    with pytest.raises(Retry):
        run(task, retries=0, published_at=now, deadline=now + 2)
    assert sent[0]["headers"]["deadline"] == pytest.approx(now + 5 + 30, abs=5)
