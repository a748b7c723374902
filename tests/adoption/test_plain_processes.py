"""A plain worker and a plain producer of a project are what they are without pools.

All of it is compared on live processes: with ``install()``, and without it.
"""

from __future__ import annotations

import base64
import json
import re
import zlib

import pytest
import redis
from project import Project, wait_until

pytestmark = pytest.mark.long

APP = """
import os
from celery import Celery

app = Celery("shop", broker=os.environ["SHOP_REDIS"], backend=os.environ["SHOP_REDIS"],
             include=["shop.tasks", "shop.probe"])
app.conf.broker_transport_options = {"queue_order_strategy": "sorted"}
if os.environ["SHOP_HAS_POOLS"] == "yes":
    import pooltasks
    pooltasks.install(app)
"""

TASKS = """
import os
from celery import shared_task

@shared_task(bind=True)
def plain(self, key):
    self.app.backend.client.incr(key)
    return dict(self.request.delivery_info), self.request.eta is not None

@shared_task(bind=True, max_retries=1, acks_late=True, time_limit=20)
def again(self):
    if self.request.retries:
        return self.request.retries
    raise self.retry(countdown=0.1)
"""

PROBE = """
import json
import logging

from celery import signals
from celery.utils.dispatch import Signal
from celery.worker.control import Panel
from kombu.serialization import registry

from shop import app


def name(thing):
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', repr(thing))}"


def receivers():
    return {
        key: sorted(
            name(found()) if hasattr(found, "__call__") and "weakref" in type(found).__module__
            else name(found)
            for _, found in signal.receivers or ()
        )
        for key, signal in vars(signals).items()
        if isinstance(signal, Signal)
    }


def of_every_process():
    return {
        "configuration": {
            key: repr(value) for key, value in app.conf.items() if key != "task_routes"
        },
        "tasks": {key: name(type(task)) for key, task in app.tasks.items()},
        "task options": {
            key: [task.acks_late, task.time_limit, task.max_retries, task.ignore_result]
            for key, task in app.tasks.items()
        },
        "decoders": {key: name(value) for key, value in registry._decoders.items()},
        "encoders": {key: name(value[2]) for key, value in registry._encoders.items()},
        "refused content": sorted(registry._disabled_content_types),
        "receivers": receivers(),
        "classes": [name(type(app.amqp)), name(type(app.backend)), name(app.Task),
                    name(type(app.control)), name(type(app.log)), name(type(app.loader))],
    }


def logging_of(logger):
    handlers = [
        [name(type(it)), it.level, name(type(it.formatter)), getattr(it.formatter, "_fmt", None)]
        for it in logger.handlers
    ]
    return [logger.level, logger.propagate, logger.disabled, handlers]


@signals.worker_ready.connect
def note(sender, **_):
    worker, channel = sender.controller, sender.task_consumer.channel
    found = of_every_process() | {
        "worker": name(type(worker)),
        "consumer": name(type(sender)),
        "steps": [sorted(name(type(step)) for step in its.blueprint.steps.values())
                  for its in (worker, sender)],
        "queues": [queue.name for queue in sender.task_consumer.queues],
        "control": {key: str(its) for key, its in Panel.meta.items()},
        "handlers of control": {key: name(its) for key, its in Panel.data.items()},
        "transport": {
            option: repr(getattr(channel, option))
            for option in ("visibility_timeout", "priority_steps", "socket_timeout",
                           "queue_order_strategy", "ack_emulation", "global_keyprefix")
        },
        "prefetch": sender.qos.value,
        "pool": [name(type(worker.pool)), worker.concurrency, worker.max_tasks_per_child],
        "strategies": {key: name(its) for key, its in sender.strategies.items()},
        "logging": {
            key or "root": logging_of(logging.getLogger(key))
            for key in ("", "celery", "celery.task", "celery.redirected", "kombu")
        },
    }
    with open("found.json.new", "w") as file:
        json.dump(found, file, indent=1)
    import os
    os.rename("found.json.new", "found.json")
"""

PRODUCER = """
import json
from shop import app
from shop.probe import of_every_process
from shop.tasks import plain
plain.delay("a")
plain.apply_async(("b",), priority=6)
plain.apply_async(("c",), countdown=100, expires=200, queue="other")
plain.si("d").apply_async(serializer="json", compression="zlib")
app.send_task("elsewhere.unknown", (1,), {"b": 2})
(plain.s("e") | plain.si("f")).apply_async()
print(json.dumps(of_every_process()))
"""

FILES = {"shop/__init__.py": APP, "shop/tasks.py": TASKS, "shop/probe.py": PROBE}
POOLS = {"config/pools.toml": '[pools.code]\nimports = ["shop.work"]\noperation_timeout = 30\n'}


@pytest.fixture
def both(tmp_path, valkey_url):
    """Return the same project twice, without pools and with them, each with its database."""

    def project(number, has_pools):
        url = f"{valkey_url.rpartition('/')[0]}/{number}"
        with redis.Redis.from_url(url) as server:
            server.flushdb()
        return Project(
            tmp_path / has_pools,
            FILES | POOLS,
            SHOP_REDIS=url,
            SHOP_HAS_POOLS=has_pools,
            CELERY_APP="shop",
            PYTHONHASHSEED="0",  # what is a set is shown in the same order
        )

    return [project(2, "no"), project(3, "yes")]


def without_what_differs(value):
    """Return JSON without addresses in memory, and without the database that is of one alone."""
    text = json.dumps(value, sort_keys=True).replace(":/3", "/2")
    return json.loads(re.sub(r"/3\b", "/2", re.sub(r"0x[0-9a-f]+", "0x", text)))


def differences(stock, ours):
    return {
        key: (stock.get(key), ours.get(key))
        for key in {*stock, *ours}
        if stock.get(key) != ours.get(key)
    }


def test_a_plain_worker(both):
    found, answers = [], []
    for project in both:
        with project:
            project.worker("plain", "-c", "1")
            wait_until((project.folder / "found.json").exists, "the worker has told what it is")
            told = (project.folder / "found.json").read_text()
            found.append(without_what_differs(json.loads(told)))
            answers.append(
                project.python(
                    "from shop import app\n"
                    "from shop.tasks import again, plain\n"
                    "print(plain.delay('now').get(timeout=30))\n"
                    "print(plain.apply_async(('later',), countdown=1).get(timeout=30))\n"
                    "print(plain.apply_async(('first',), priority=9).get(timeout=30))\n"
                    "print(again.delay().get(timeout=30))\n"
                    "print(*[app.backend.client.get(key) for key in ('now', 'later', 'first')])\n"
                    "print(sorted(app.control.inspect(timeout=2).registered()['plain@test']))\n"
                )
            )
            assert "pool" not in project.log("plain").partition("[tasks]")[0].replace("prefork", "")
    stock, ours = found
    # What is encoded as JSON for pools has a name of its own; nobody else uses it.
    assert set(differences(stock["encoders"], ours["encoders"])) == {"pooltasks-json"}
    stock["encoders"] = ours["encoders"]
    for key in stock:
        assert differences({key: stock[key]}, {key: ours[key]}) == {}
    assert answers[0] == answers[1]
    assert answers[0][-2] == "b'1' b'1' b'1'"


def test_a_plain_producer(both):
    found, stored = [], []
    for project in both:
        with project:
            (told,) = project.python(PRODUCER)
            found.append(without_what_differs(json.loads(told)))
            with redis.Redis.from_url(project.environment["SHOP_REDIS"]) as server:
                stored.append(_content_of(server))
    stock, ours = found
    ours["encoders"].pop("pooltasks-json")
    for key in stock:
        assert differences({key: stock[key]}, {key: ours[key]}) == {}
    assert stored[0] == stored[1]
    assert len(stored[0]) >= 4


def _content_of(server):
    """Return everything on a server, but for what each message has of its own."""
    content = {}
    for key in server.scan_iter():
        if server.type(key) == b"set":
            content[key] = sorted(server.smembers(key))
        else:
            content[key] = [_alike(json.loads(text)) for text in server.lrange(key, 0, -1)]
    return content


def _alike(message):
    """Return a message without what each has of its own: ids, times, the process's number."""
    body = base64.b64decode(message["body"])
    if message["headers"].get("compression"):
        body = zlib.decompress(body)
    text = json.dumps({**message, "body": json.loads(body)}, sort_keys=True)
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
    text = re.sub(r"gen\d+@", "gen@", text)
    return json.loads(re.sub(r"\d{4}-\d\d-\d\dT[\d:.+]+", "TIME", text))
