"""Operations find their application: in any thread, whatever was imported first, among several."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery, shared_task
from celery.contrib.testing.app import TestApp, setup_default_app
from celery.exceptions import SoftTimeLimitExceeded

import pooltasks
from pooltasks import Pool, operation
from pooltasks.errors import ConfigurationError, OperationTimeout
from pooltasks.settings import Settings
from pooltasks.task import _delay

pytestmark = pytest.mark.usefixtures("bare_environment")

BROKER = "redis://127.0.0.1:1/0"


@operation(pool="code", name="test_applications.work")
def work(a=1):
    return a


@operation(name="test_applications.anywhere")
def anywhere():
    pass


@operation(queue="plain", name="test_applications.in_a_plain_queue")
def in_a_plain_queue():
    return "done"


def project(name="project", pools=("code",), **options):
    app = Celery(name, broker=BROKER, **options)
    return pooltasks.install(app, Settings(pools={pool: {} for pool in pools}))


@shared_task(name="create_task")
def create_task(a):
    return a


@operation(pool="code", name="test_applications.waits")
def waits():
    raise OperationTimeout("the other one")


def in_a_thread(function):
    answers = []

    def run():
        try:
            answers.append(function())
        except Exception as error:  # noqa: BLE001  it is handed on
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return answers[0]


def test_a_thread_finds_the_only_application_with_pools():
    app = project()
    assert work.app is app
    assert in_a_thread(lambda: work.app) is app
    assert in_a_thread(lambda: Pool("code").app) is app


def test_each_pool_belongs_to_its_application_in_every_thread():
    one, two = project("one", ["code"]), project("two", ["other"])
    for ask in (lambda f: f(), in_a_thread):
        assert ask(lambda: work.app) is one
        assert ask(lambda: Pool("code").app) is one
        assert ask(lambda: Pool("other").app) is two
    two.set_current()
    assert anywhere.app is two


def test_what_several_applications_could_run_goes_to_the_current_or_default_one():
    one, two = project("one"), project("two")
    assert work.app is two  # the last one made is current, as Celery has it
    one.set_current()
    assert work.app is one
    assert in_a_thread(lambda: work.app) is one  # pooltasks' own was default until it came
    two.set_default()
    assert in_a_thread(lambda: work.app) is two


def test_if_nothing_says_which_of_several_the_error_says_what_to_do(monkeypatch):
    project("one")
    project("two")
    monkeypatch.setattr("celery._state.default_app", None)
    error = in_a_thread(lambda: work.delay)
    assert isinstance(error, ConfigurationError)
    assert "'one', 'two'" in str(error)
    assert "set_default()" in str(error)


def test_a_process_without_another_application_uses_ours():
    assert work.app is pooltasks.app
    assert in_a_thread(lambda: work.app) is pooltasks.app


def test_an_application_without_pools_is_passed_by_and_that_is_said_once(caplog):
    Celery("theirs", broker=BROKER)
    assert work.app is pooltasks.app
    assert work.app is pooltasks.app
    assert [r.getMessage() for r in caplog.records if "'theirs' has no pools" in r.getMessage()]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("first", ["import pooltasks", "import celery; app = celery.Celery('p')"])
def test_in_a_web_server_s_thread_whatever_was_imported_first(first):
    code = f"""
import threading
{first}
from celery import Celery
app = globals().get("app") or Celery("p")
app.conf.broker_url = "{BROKER}"
import pooltasks
pooltasks.install(app, pooltasks.settings.Settings(pools={{"code": {{}}}}))
@pooltasks.operation(pool="code")
def work(): pass
def run():
    print(work.app.main, pooltasks.Pool("code").app.main, work.s().app.main)
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""
    output = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60)
    assert output == "p p p\n"


# Applications of tests


def test_celerys_application_for_tests_runs_operations_as_it_runs_tasks():
    project()
    app = TestApp(set_as_current=True)
    with setup_default_app(app):
        app.set_current()
        result = work.delay(2)
        assert result.app is app
        with app.connection_for_read() as connection:
            queue = connection.SimpleQueue(app.amqp.queues["pool.code"])
            assert queue.get(timeout=5).headers["id"] == result.id
            queue.close()


@pytest.mark.parametrize("broker_url", [None, "redis://127.0.0.1:1/0", "amqp://"])
def test_operations_are_applied_eagerly_where_tasks_are(broker_url):
    app = Celery("eager", broker=broker_url)
    app.conf.task_always_eager = True
    pooltasks.install(app, Settings(pools={"code": {}}))
    assert work.delay(5).get() == 5
    assert Pool("code").execute(work, [6]) == 6


def test_an_application_without_a_broker_says_so_at_the_call():
    app = Celery("nowhere")
    pooltasks.install(app, Settings(pools={"code": {}}))
    with pytest.raises(ConfigurationError, match=r"broker_url is still not set.*before install"):
        work.delay()
    app.conf.broker_url = BROKER
    with pytest.raises(ConfigurationError, match=r"broker_url is now redis.*before install"):
        work.delay()


# Plain tasks, and plain queues


def test_a_task_whose_name_has_no_module_goes_to_the_pool_of_its_module():
    app = Celery("project", broker=BROKER)
    pooltasks.install(app, Settings(pools={"code": {"imports": [__name__]}}))

    def queue_of(task):
        return app.amqp.router.route({}, task.name, (), {}, task)["queue"].name

    assert queue_of(app.tasks["create_task"]) == "pool.code"
    assert app.amqp.router.route({}, "create_task")["queue"].name == "celery"


def test_a_pool_executes_the_very_task_it_is_given(monkeypatch):
    app = Celery("project", broker=BROKER)
    app.conf.task_always_eager = True
    pooltasks.install(app, Settings(pools={"code": {}}))

    pool = Pool("code")
    assert pool.execute(create_task, [1]) == 1
    assert pool.execute("create_task", [2]) == 2
    assert [result.get() for result in pool.submit_many(create_task, [[3], [4]])] == [3, 4]
    remote = pool._task("unknown")
    assert remote.name == "unknown"
    assert pool._task("ping").name == "pooltasks.operations.ping"
    sent = {}
    monkeypatch.setattr(
        type(app.tasks["create_task"]), "apply_async", lambda *_, **k: sent.update(k)
    )
    pool.submit(create_task, [1], timeout=9)
    assert sent == {"queue": "pool.code", "expires": 9}


def test_an_operation_may_have_a_plain_queue():
    app = Celery("project", broker=BROKER)
    pooltasks.install(app, Settings(pools={"code": {}}))
    app.pooltasks.clock.observe(1e9, 0, 0)
    options = in_a_plain_queue.addressed({}, None)
    assert options["queue"] == "plain"
    assert "deadline" not in options["headers"]
    assert "deadline" in in_a_plain_queue.addressed({}, 5.0)["headers"]
    assert app.amqp.router.route(options, in_a_plain_queue.name)["queue"].name == "plain"
    app.conf.task_always_eager = True
    assert in_a_plain_queue.delay().get() == "done"
    with pytest.raises(ConfigurationError, match="no pool 'cod'"):
        work.addressed({"queue": "pool.cod"}, None)


# What Celery's users expect


def test_an_operations_timeout_is_a_soft_time_limit():
    with pytest.raises(SoftTimeLimitExceeded):
        raise OperationTimeout
    assert str(OperationTimeout("stopped")) == "stopped"
    with pytest.raises(TimeoutError):
        raise OperationTimeout


def test_the_timeout_of_an_operation_that_is_waited_for_is_not_that_of_the_one_that_waits():
    app = Celery("project")
    app.conf.task_always_eager = True
    pooltasks.install(app, Settings(pools={"code": {}}))

    result = waits.delay()
    with pytest.raises(OperationTimeout, match="the other one"):
        result.get()


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_an_eta_is_what_it_is_to_celery(monkeypatch, zone):
    import time  # noqa: PLC0415  for the zone

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    app = Celery("project", broker=BROKER, timezone=zone)
    pooltasks.install(app, Settings(pools={"code": {}}))
    due = datetime.now(UTC) + timedelta(seconds=100)
    naive = due.replace(tzinfo=None)
    try:
        for eta in (due, naive, due.isoformat(), naive.isoformat(), due.isoformat()[:19] + "Z"):
            assert _delay({"eta": eta}) == pytest.approx(100, abs=2)
        assert _delay({"eta": None}) == _delay({}) == 0
        assert _delay({"countdown": 7, "eta": due}) == 7
    finally:
        monkeypatch.undo()
        time.tzset()
