"""Extensions of Celery, each with its real package."""

from __future__ import annotations

import json

import pytest
import redis
from celery import Celery, Task
from celery.exceptions import SoftTimeLimitExceeded
from project import Project

import pooltasks
from pooltasks import Pool, operation
from pooltasks.errors import ConfigurationError, OperationTimeout
from pooltasks.optimizer.beat import schedule_ticks
from pooltasks.settings import Settings

singleton = pytest.importorskip("celery_singleton")
once = pytest.importorskip("celery_once")

pytestmark = pytest.mark.usefixtures("bare_environment")


@operation(pool="code", base=singleton.Singleton, name="test_extensions.single")
def single(number):
    return number


@operation(pool="code", base=once.QueueOnce, once={"graceful": True}, name="test_extensions.once")
def queued_once(number):
    return number


class Named(Task):
    """A project's own class of tasks."""

    abstract = True
    called = ()

    def before_start(self, task_id, args, kwargs):  # noqa: ARG002  Celery's arguments
        type(self).called += (args,)

    def shout(self):
        return self.name.upper()


@operation(pool="code", name="test_extensions.named")
def named(number):
    return number


def project(url, **options):
    app = Celery("project", broker=url, backend=url, **options)
    app.conf.singleton_backend_url = url
    app.conf.ONCE = {"backend": "celery_once.backends.Redis", "settings": {"url": url}}
    return pooltasks.install(app, Settings(pools={"code": {}}))


@pytest.fixture
def length(valkey_url):
    with redis.Redis.from_url(valkey_url) as client:
        yield lambda: client.llen("pool.code")


def test_a_singleton_is_queued_once_however_it_is_submitted(valkey_url, length):
    app = project(valkey_url)
    first, second = single.delay(1), single.delay(1)
    assert first.id == second.id
    pool = Pool("code", app)
    assert pool.submit(single, [1]).id == first.id
    assert {each.id for each in pool.submit_many(single, [[1], [1]])} == {first.id}
    assert length() == 1
    single.apply([1])  # its end gives the lock back
    assert single.delay(1).id != first.id
    assert length() == 2


def test_what_is_queued_once_is_given_free_by_its_end(valkey_url, length):
    project(valkey_url)
    queued_once.delay(1)
    assert queued_once.delay(1).state == "REJECTED"
    queued_once.delay(2)
    assert length() == 2
    queued_once.apply([1])
    queued_once.delay(1)
    assert length() == 3


async def _awaited():
    await single.adelay(1)


def test_what_its_base_class_publishes_is_refused_on_an_event_loop(valkey_url):
    import asyncio  # noqa: PLC0415  for this one

    app = project(valkey_url)
    with pytest.raises(ConfigurationError, match="published by its base class Singleton"):
        asyncio.run(_awaited())
    with pytest.raises(ConfigurationError, match="in a thread"):
        asyncio.run(Pool("code", app).asubmit_many(single, [[1]]))


def test_operations_are_of_the_applications_own_class_of_tasks_too(valkey_url):
    app = project(valkey_url, task_cls=Named)
    assert named.shout() == "TEST_EXTENSIONS.NAMED"
    assert isinstance(named, pooltasks.task.Operation)
    assert named.apply([3]).get() == 3
    assert type(app.tasks[named.name]).called == ([3],)
    other = pooltasks.install(
        Celery("other", broker=valkey_url, set_as_current=False), Settings(pools={"code": {}})
    )
    assert not hasattr(other.tasks[named.name], "shout")


class InContext(Task):
    """As Flask's guide writes it: without ``super()``."""

    abstract = True
    depth = 0

    def __call__(self, *args, **kwargs):
        type(self).depth += 1
        return self.run(*args, **kwargs)


@operation(pool="code", name="test_extensions.strict")
def strict(number):
    if not number:
        raise SoftTimeLimitExceeded
    return number


def test_a_call_of_the_applications_class_runs_within_ours(valkey_url):
    app = project(valkey_url, task_cls=InContext)
    app.finalize()
    task = app.tasks["test_extensions.strict"]
    assert strict(1) == 1  # called directly
    assert type(task).depth == 1
    assert strict.apply([2]).get() == 2
    assert type(task).depth == 2
    assert isinstance(strict.apply([0]).result, OperationTimeout)  # as ours tells of a limit
    assert type(task).depth == 3


def test_a_base_that_is_no_task_is_an_error():
    with pytest.raises(ConfigurationError, match="base is <class 'int'>; allowed: a subclass"):
        operation(pool="code", base=int)(print)


def test_redbeat_keeps_the_tick_and_sends_it(valkey_url):
    schedulers = pytest.importorskip("redbeat.schedulers")
    app = Celery("project", broker=valkey_url, backend=valkey_url)
    app.conf.redbeat_redis_url = valkey_url
    app.conf.redbeat_lock_key = None
    pooltasks.install(app, Settings(pools={"code": {}}))
    schedule_ticks(app)
    scheduler = schedulers.RedBeatScheduler(app, lazy=True)
    scheduler.setup_schedule()
    entry = scheduler.schedule.get("pooltasks.optimizer") or schedulers.RedBeatSchedulerEntry(
        "pooltasks.optimizer", app=app
    ).from_key("redbeat:pooltasks.optimizer", app=app)
    assert entry.schedule.run_every.total_seconds() == 1.0
    scheduler.apply_async(entry)
    with redis.Redis.from_url(valkey_url) as client:
        assert client.llen("pool.control") == 1


SENTRY = """
import json
import sentry_sdk
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport

class Kept(Transport):
    events = []
    def capture_envelope(self, envelope):
        self.events += [item.payload.json for item in envelope.items]

sentry_sdk.init(
    "http://key@127.0.0.1:1/1",
    traces_sample_rate=1.0,
    transport=Kept,
    integrations=[CeleryIntegration()],
    auto_enabling_integrations=False,  # they import whatever is installed here
)

import redis
from celery import Celery
from celery.app.trace import setup_worker_optimizations
from celery.app import trace
import pooltasks
from pooltasks.optimizer import tick
from pooltasks.settings import Settings

URL = {url!r}
app = pooltasks.install(Celery("p", broker=URL, backend=URL), Settings(pools={{"code": {{}}}}))

@pooltasks.operation(pool="code", name="work")
def work(number):
    return 1 / number

tick.optimized = lambda _: []
with sentry_sdk.start_transaction(name="request") as request:
    work.delay(0)
    tick.tick.delay()

app.finalize()
app.pooltasks.pool = "code"
for name in ("work", "pooltasks.optimizer.tick"):
    task = app.tasks[name]
    task.__trace__ = trace.build_tracer(name, task, app.loader, "h", app=app)
setup_worker_optimizations(app, "h")
server = redis.Redis.from_url(URL)
for queue, name in (("pool.code", "work"), ("pool.control", "pooltasks.optimizer.tick")):
    message = json.loads(server.rpop(queue))
    headers = message["headers"]
    trace.fast_trace_task(
        name, headers["id"], {{**headers, "delivery_info": {{"routing_key": queue}}}},
        ([0] if name == "work" else [], {{}}, None), None, None)
sentry_sdk.flush()
for event in Kept.events:
    error = event.get("exception", {{}}).get("values", [{{}}])[0].get("type")
    kind = error or event.get("transaction")
    print(json.dumps([kind, event["contexts"]["trace"]["trace_id"] == request.trace_id]))
"""


def test_sentry_sees_operations_with_their_trace_and_no_ticks(tmp_path, valkey_url):
    pytest.importorskip("sentry_sdk")
    with Project(tmp_path, {}) as project:
        seen = [json.loads(line) for line in project.python(SENTRY.format(url=valkey_url))]
    assert sorted(seen) == [["ZeroDivisionError", True], ["request", True], ["work", True]]
