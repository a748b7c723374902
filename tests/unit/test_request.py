"""What a node makes of one message: its time limits, and whether it can be run at all."""

from __future__ import annotations

import time

import pytest
from celery.app.task import Task
from celery.worker.request import Request

from pooltasks.errors import ConfigurationError
from pooltasks.node.intake.acceptance import Refusal
from pooltasks.node.intake.request import OperationRequest
from pooltasks.node.intake.request_class import check_requests, use_our_requests
from pooltasks.task import Operation


@pytest.fixture
def requested(make_app):
    """Return the request of an operation with these options, as a node would see it."""
    app = make_app(pools={"code": {"operation_timeout": 20}, "slow": {"operation_timeout": 500}})

    def of(queue="pool.code", headers=None, body=((), {}, {}), base=Operation, **options):
        task = app.task(base=base, shared=False, name=f"test.{len(app.tasks)}", **options)(run)
        message = type("Message", (), {"delivery_info": {"routing_key": queue}, "properties": {}})
        return OperationRequest(
            message,
            app=app,
            task=task,
            body=body,
            headers={"id": "1", "task": task.name, **(headers or {})},
            decoded=True,
        )

    return of


@pytest.fixture
def limits(requested):
    """Return (hard, soft) of an operation with these options."""
    return lambda *args, **options: requested(*args, **options).time_limits


def run():
    pass


def test_the_pool_s_timeout_is_the_soft_limit(limits):
    assert limits() == (22.0, 20.0)
    assert limits(queue="pool.slow") == (510.0, 500.0)


def test_a_plain_celery_task_has_the_limits_of_celery(limits):
    assert limits(base=Task) == (None, None)
    assert limits(base=Task, time_limit=7, soft_time_limit=5) == (7, 5)
    assert limits(base=Task, time_limit=7, headers={"timelimit": [3, None]}) == (3, None)


def test_the_control_pool_has_limits_too(limits):
    assert limits(queue="pool.control") == (66.0, 60.0)


def test_the_operation_s_timeout_stands_over_the_pool_s(limits):
    assert limits(timeout=40) == (44.0, 40)
    assert limits(soft_time_limit=30) == (33.0, 30)
    assert limits(timeout=40, soft_time_limit=30) == (44.0, 40)


def test_the_caller_s_limits_stand_over_the_operation_s(limits):
    assert limits(timeout=40, headers={"timelimit": [None, 5]}) == (6.0, 5)
    assert limits(timeout=40, headers={"timelimit": [50, 5]}) == (50, 5)
    assert limits(timeout=40, headers={"timelimit": [None, None]}) == (44.0, 40)


@pytest.mark.parametrize(
    ("soft", "hard"), [(0.1, 1.1), (10, 11), (50, 55), (100, 110), (1000, 1010)]
)
def test_the_hard_limit_follows_by_a_tenth_of_a_second_to_ten(limits, soft, hard):
    assert limits(timeout=soft) == pytest.approx((hard, soft))


def test_the_operation_s_hard_limit_acts_alone_if_it_comes_first(limits):
    assert limits(timeout=10, time_limit=60) == (60, 10)
    assert limits(timeout=10, time_limit=10) == (10, None)
    assert limits(timeout=10, time_limit=5) == (5, None)
    assert limits(timeout=10, headers={"timelimit": [5, None]}) == (5, None)


def test_no_run_outlasts_its_deadline(limits):
    hard, soft = limits(headers={"deadline": time.time() + 3})
    assert 2 < soft <= 3
    assert hard == pytest.approx(soft + 1)
    hard, soft = limits(headers={"timelimit": [None, 15], "deadline": time.time() + 3})
    assert 2 < soft <= 3
    assert limits(headers={"deadline": time.time() + 300})[1] == 20


def test_a_deadline_that_has_passed_leaves_a_limit_because_celery_reads_0_as_none(limits):
    hard, soft = limits(headers={"deadline": time.time() - 3})
    assert 0 < soft <= 0.1
    assert hard > 1


@pytest.mark.parametrize("deadline", [None, "soon", [1]])
def test_a_deadline_that_is_no_number_is_none(limits, deadline):
    assert limits(headers={"deadline": deadline}) == (22.0, 20.0)


def test_every_operation_has_such_a_request():
    assert Operation.Request == f"{OperationRequest.__module__}:{OperationRequest.__name__}"
    assert Task.Request != Operation.Request


@pytest.mark.parametrize(
    "body",
    [({}, {}, {}), ("", {}, {}), ((), [], {}), ((), None, {}), ((), {}, [None]), ((), {}, 1)],
)
def test_a_body_of_another_shape_is_no_operation(requested, body):
    with pytest.raises(Refusal, match="the body is no list"):
        requested(body=body)


def test_what_celery_takes_for_nothing_embedded_is_an_operation(requested):
    assert requested(body=([], {}, None)).name


def test_every_task_of_a_node_has_such_a_request_and_one_of_its_own_is_refused(make_app):
    app = make_app(pools={"code": {}})
    app.task(shared=False, name="plain")(run)
    pool = object()
    use_our_requests(app, pool)
    assert issubclass(app.tasks["plain"].Request, OperationRequest)
    assert app.tasks["plain"].Request.pool is pool
    app.task(shared=False, name="own", Request="celery.worker.request:Request")(run)
    check_requests(app, [__name__])
    own = type("OwnRequest", (Request,), {})
    app.task(shared=False, name="batches", Request=own)(run)
    with pytest.raises(ConfigurationError, match=r"batches has a Request class .*OwnRequest"):
        check_requests(app, [__name__])


class Gathering(Task):
    """As the base class of celery-batches: it takes its messages itself."""

    abstract = True

    def Strategy(self, *_):  # noqa: N802  Celery's name
        raise AssertionError


def test_a_task_that_takes_its_messages_itself_is_refused_by_the_node_of_its_pool(make_app):
    app = make_app(pools={"code": {}})
    app.task(shared=False, name="jobs.count", base=Gathering)(run)
    why = "jobs.count takes its messages itself, with the Strategy of test_request.Gathering"
    with pytest.raises(ConfigurationError, match=why):
        check_requests(app, ["jobs"])
    check_requests(app, ["others"])  # a plain worker's: it hinders no pool
    assert why in use_our_requests(app, object())["jobs.count"]
