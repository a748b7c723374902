"""Publishing: messages and signals are Celery's own, the connection heals, one command suffices."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest
import redis
from celery import Task, signals
from celery._state import _task_stack
from kombu.exceptions import EncodeError, OperationalError
from tcp_proxy import Proxy

from pooltasks import keys
from pooltasks.app import Extension, PoolApp
from pooltasks.broker import publishing
from pooltasks.broker.serialization import MAX_MESSAGE_BYTES, SERIALIZER
from pooltasks.broker.wire import _JUST_NOW
from pooltasks.errors import MessageTooLargeError
from pooltasks.settings import Settings
from pooltasks.task import Operation

QUEUE = "pool.code"
DEADLINE = 20.0  # seconds


def make_app(url):
    app = PoolApp("publishing", set_as_current=False)
    app._extension = Extension(Settings.load(redis_url=url, pools={"code": {}}))
    return app


def make_operation(app, **options):
    options = {"name": "jobs.run", "pool": "code", "serializer": SERIALIZER, **options}

    @app.task(base=Operation, shared=False, typing=False, **options)
    def run(*args, **kwargs):
        return args, kwargs

    return run._get_current_object()


@pytest.fixture
def app(valkey_url, monkeypatch):
    app = make_app(valkey_url)
    app.conf.broker_transport_options["priority_steps"] = [0, 3]
    monkeypatch.setattr("pooltasks.broker.message._steps", lambda *_: (0, 3))
    yield app
    app.close()


@pytest.fixture
def operation(app):
    return make_operation(app)


@pytest.fixture
def server(valkey_url):
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def pushed(monkeypatch):
    """The ids of what was published here and not by Celery."""
    ids = []
    push = publishing.Publisher.push

    def note(self, form, message, options):
        ids.append(message.id)
        push(self, form, message, options)

    monkeypatch.setattr(publishing.Publisher, "push", note)
    return ids


@pytest.fixture
def by_celery(monkeypatch):
    """Call something with Celery's own publishing."""

    def call(function):
        with monkeypatch.context() as patch:
            patch.setattr("pooltasks.task.publish", lambda *_: None)
            return function()

    return call


def take(server, queue=QUEUE):
    """Return the only message of a list, its body decoded, without what differs each time."""
    delayed = server.hvals(keys.delayed_messages(QUEUE))
    # What is due later waits apart; its place is before the message.
    (text,) = [each[1:] for each in delayed] or server.lrange(queue, 0, -1)
    server.delete(queue, keys.delayed(QUEUE), keys.delayed_messages(QUEUE))
    message = json.loads(text)
    message["body"] = json.loads(base64.b64decode(message["body"]))
    for header in ("published_at", "deadline"):
        assert message["headers"].pop(header) > 0
    message["properties"].pop("expiration", None)  # counts from now
    assert len(message["properties"].pop("delivery_tag")) >= 32
    return json.loads(json.dumps(message).replace(message["headers"]["id"], "<id>"))


ETA = datetime(2126, 1, 1, tzinfo=UTC)
CALLS = {
    "nothing": {},
    "arguments": {"args": (1, "ä'\"%s\n", [2.5, None]), "kwargs": {"a": {"b": True}}},
    "a list": {"args": [1, 2], "kwargs": {}},
    "long arguments": {"args": ("x" * 2000, list(range(2000)))},
    "id": {"task_id": 'mine "%s"'},
    "eta": {"eta": ETA},
    "priority": {"priority": 3},
    "headers": {"headers": {"x-request": "7", "published_at": 1}},
    "deadline": {"deadline": 5.0},
    "limits": {"time_limit": 9, "soft_time_limit": 8.5},
    "no result": {"ignore_result": True},
    "shadow": {"shadow": "other.name"},
    "group": {"group_id": "g", "group_index": 2, "root_id": "r", "parent_id": "p"},
    "retry": {"retries": 2, "retry": False, "retry_policy": {"max_retries": 1}},
    "callbacks": {"link": "signature", "link_error": ["signature"], "chain": ["signature"]},
    "chord": {"chord": "signature"},
    "expires": {"expires": ETA},
    "exchange": {"exchange": "", "routing_key": QUEUE},
    "reply": {"reply_to": "somewhere"},
    "stamps": {"stamped_headers": ["stamp"], "stamp": 1},
}
BY_CELERY = {"expires", "exchange", "reply", "stamps"}


def options_of(call, operation):
    signatures = {"signature": operation.si(1), ("signature",): [operation.si(1)]}
    return {
        name: signatures.get(tuple(value) if isinstance(value, list) else value, value)
        if name in ("link", "link_error", "chain", "chord")
        else value
        for name, value in CALLS[call].items()
    }


@pytest.mark.parametrize("call", CALLS)
def test_a_message_is_the_one_that_celery_sends(call, operation, server, pushed, by_celery):
    options = options_of(call, operation)
    name = f"{QUEUE}\x06\x163" if "priority" in options else QUEUE
    result = operation.apply_async(**options)
    assert bool(pushed) == (call not in BY_CELERY)
    ours = take(server, name)
    stock = by_celery(lambda: operation.apply_async(**options))
    assert ours == take(server, name)
    assert result.ignored == stock.ignored


def test_attributes_of_an_operation_are_in_its_messages(app, server, pushed, by_celery):
    operation = make_operation(app, time_limit=5, ignore_result=True)
    operation.delay(1)
    assert pushed
    ours = take(server)
    by_celery(lambda: operation.delay(1))
    assert ours == take(server)


def test_an_operation_knows_the_one_that_published_it(operation, server, pushed, by_celery):
    def publish_inside():
        operation.push_request(id="p", root_id="r", called_directly=False, children=[])
        _task_stack.push(operation)
        try:
            results = [operation.delay(), operation.apply_async(add_to_parent=False)]
            assert operation.request.children == results[:1]
        finally:
            _task_stack.pop()
            operation.pop_request()
        server.rpop(QUEUE)
        return take(server)

    ours = publish_inside()
    assert len(pushed) == 2
    assert (ours["headers"]["root_id"], ours["headers"]["parent_id"]) == ("r", "p")
    assert ours == by_celery(publish_inside)


@pytest.mark.parametrize("call", sorted(CALLS.keys() - BY_CELERY))
def test_who_listens_hears_what_celery_says(call, operation, server, pushed, by_celery):
    heard = []

    def before(headers, **said):
        headers["x-trace"] = "1"
        heard.append((said, dict(headers)))

    def after(**said):
        heard.append((said, server.llen(QUEUE) + server.zcard(keys.delayed(QUEUE))))

    options = {"task_id": "id-7", **options_of(call, operation), "priority": 0}
    options.setdefault("headers", {}).setdefault("deadline", 1)
    messages = []
    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    try:
        operation.apply_async(**options)
        messages.append(take(server))
        by_celery(lambda: operation.apply_async(**options))
        messages.append(take(server))
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)
    assert len(pushed) == 1
    for said, _ in heard:
        (said.get("headers") or {}).pop("published_at", None)
    for _, seen in heard[::2]:
        seen.pop("published_at")
    assert heard[:2] == heard[2:]
    assert messages[0] == messages[1]
    assert messages[0]["headers"]["x-trace"] == "1"


def test_publishing_is_one_command(operation, server):
    operation.delay()
    server.config_resetstat()
    for _ in range(10):
        operation.delay(1)
    counts = {name: stat["calls"] for name, stat in server.info("commandstats").items()}
    counts.pop("cmdstat_config|resetstat")
    assert counts == {"cmdstat_lpush": 10}


def test_the_key_prefix_is_kept(valkey_url, server):
    app = make_app(valkey_url)
    app.conf.broker_transport_options = {"global_keyprefix": "prefix:"}
    make_operation(app).delay()
    assert server.llen(f"prefix:{QUEUE}") == 1
    app.close()


def test_who_wraps_celery_s_publishing_sees_each_call(operation, server, pushed, monkeypatch):
    stock, calls = Task.apply_async, []

    def traced(self, *args, **kwargs):
        calls.append(self.name)
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(Task, "apply_async", traced)
    operation.delay()
    assert (calls, pushed, server.llen(QUEUE)) == (["jobs.run"], [], 1)


def test_routes_of_the_application_are_followed(app, operation, server, pushed):
    app.conf.task_routes = {"jobs.*": {"priority": 3}}
    app.amqp.flush_routes()
    app.amqp.router = app.amqp.Router()
    operation.delay()
    assert pushed
    assert server.llen(f"{QUEUE}\x06\x163") == 1


def test_an_eager_application_sends_nothing(app, operation, server):
    app.conf.task_always_eager = True
    assert operation.delay(1).get() == ((1,), {})
    assert server.llen(QUEUE) == 0


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((object(),), EncodeError),
        (("x" * MAX_MESSAGE_BYTES,), MessageTooLargeError),
        (5, TypeError),
    ],
)
def test_what_no_message_can_carry_is_refused(args, error, operation, server):
    with pytest.raises(error):
        operation.apply_async(args)
    assert server.llen(QUEUE) == 0


# Connections


@pytest.mark.parametrize("retry", [True, False])
def test_a_connection_that_broke_while_idle_is_replaced_unseen(retry, operation, server):
    operation.delay()
    answered_at = time.monotonic()
    server.client_kill_filter(_type="normal", skipme=True)
    while time.monotonic() - answered_at < 2 * _JUST_NOW:
        pass  # right after an answer nobody looks whether the connection is there
    operation.apply_async((1,), retry=retry)
    assert server.llen(QUEUE) == 2


@pytest.fixture
def proxy(valkey):
    with Proxy(urlsplit(valkey.url).port) as proxy:
        yield proxy


@pytest.fixture
def through(proxy, valkey_url):
    """An operation of an application behind the proxy."""
    app = make_app(valkey_url.replace(str(urlsplit(valkey_url).port), str(proxy.port)))
    operation = make_operation(app)
    operation.delay()  # connects
    yield operation
    app.close()


def test_a_command_whose_fate_is_unknown_is_sent_again_as_celery_does(through, proxy, server):
    proxy.cut_before_the_next_answer()
    result = through.delay()
    ids = [json.loads(text)["headers"]["id"] for text in server.lrange(QUEUE, 0, 1)]
    assert ids == [result.id] * 2


def test_without_retry_the_caller_is_told(through, proxy, server):
    proxy.cut_before_the_next_answer()
    with pytest.raises(OperationalError):
        through.apply_async(retry=False)
    assert server.llen(QUEUE) == 2
    through.delay()
    assert server.llen(QUEUE) == 3


@pytest.mark.parametrize("retry", [True, False])
def test_without_a_server_the_retry_policy_decides(retry, through, proxy, server):
    proxy.stop()
    started = time.monotonic()
    with pytest.raises(OperationalError):
        through.apply_async(retry=retry)
    # By Celery's defaults three more attempts within 0.6 s; its own backend adds 20 s.
    assert time.monotonic() - started < 6
    assert server.llen(QUEUE) == 1


def test_threads_publish_at_the_same_time(operation, server):
    threads = [
        threading.Thread(target=lambda: [operation.delay(n) for n in range(50)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    messages = [json.loads(text) for text in server.lrange(QUEUE, 0, -1)]
    assert len({message["headers"]["id"] for message in messages}) == 400
    assert len({message["properties"]["delivery_tag"] for message in messages}) == 400


def test_a_forked_process_publishes_on_its_own_connection(operation, server):
    operation.delay()
    child = os.fork()
    if child == 0:
        try:
            for _ in range(50):
                operation.delay()
            os._exit(0)
        finally:
            os._exit(2)
    for _ in range(50):
        operation.delay()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    messages = [json.loads(text) for text in server.lrange(QUEUE, 0, -1)]
    origins = [message["headers"]["origin"] for message in messages]
    assert len({message["properties"]["delivery_tag"] for message in messages}) == 101
    assert sorted(map(origins.count, set(origins))) == [50, 51]


def connections(server):
    """How many connections the server has accepted."""
    return server.info("stats")["total_connections_received"]


def test_each_thread_that_publishes_has_a_connection_and_keeps_it(operation, server):
    operation.delay()
    before = connections(server)
    barrier = threading.Barrier(50)

    def publish():
        barrier.wait(DEADLINE)
        for _ in range(40):
            operation.delay()

    threads = [threading.Thread(target=publish) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    opened = connections(server) - before
    assert server.llen(QUEUE) == 2001
    # Those of the threads, and those over which kombu says how to connect.
    assert opened <= 50 + 10


def test_connections_that_nobody_used_for_a_minute_are_closed_at_the_next_use(app, operation):
    pusher = publishing.publisher_of(app).pusher
    barrier = threading.Barrier(5)

    def publish():
        operation.delay()
        barrier.wait(DEADLINE)

    def together():
        threads = [threading.Thread(target=publish) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)

    together()
    wires = list(pusher._idle)
    operation.delay()
    assert list(pusher._idle) == wires  # none is closed before its time
    for wire in wires[:-1]:
        wire.answered_at -= 61
    operation.delay()
    assert list(pusher._idle) == wires[-1:]
    assert all(wire.connection._sock is None for wire in wires[:-1])
