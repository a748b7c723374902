"""install() is not noticed by a process that serves no pool (invariant 16)."""

from __future__ import annotations

import copy
import json
from datetime import date

import pytest
from celery import Celery
from kombu import Queue
from kombu.serialization import dumps, loads, register, registry

import pooltasks
from pooltasks import operation
from pooltasks.broker.serialization import SERIALIZER
from pooltasks.settings import Settings

pytestmark = pytest.mark.usefixtures("bare_environment")

POOLS = {"code": {"imports": ["jobs.code"], "operation_timeout": 7200}}


@operation(pool="code", name="jobs.code.work")
def work():
    pass


def project(**configuration):
    app = Celery("project", set_as_current=False)
    app.conf.update(broker_url="redis://127.0.0.1:1/0", **configuration)

    @app.task(name="project.plain", shared=False)
    def plain():
        pass

    return app


def configuration_of(app):
    return {key: copy.copy(value) for key, value in app.conf.items() if key != "task_routes"}


def registries():
    return {
        name: dict(getattr(registry, name))
        for name in ("_decoders", "_encoders", "type_to_name", "name_to_type")
    } | {"disabled": set(registry._disabled_content_types), "default": registry._default_encode}


CONFIGURATIONS = [
    {},
    {"task_queues": (Queue("own"), Queue("celery"))},
    {"task_default_queue": "mine", "task_routes": {"own.*": {"queue": "own"}}},
    {
        "broker_transport_options": {
            "visibility_timeout": 3600,
            "priority_steps": [0, 5],
            "socket_timeout": 77,
        }
    },
    {"task_create_missing_queues": False, "task_queues": (Queue("celery"),)},
    {"task_serializer": "pickle", "accept_content": ["pickle", "json"]},
]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_configuration_is_what_it_was_but_for_one_route_in_front(configuration):
    app = project(**configuration)
    before, routes = configuration_of(app), app.conf.task_routes
    pooltasks.install(app, Settings(pools=POOLS))
    assert configuration_of(app) == before
    first, *others = app.conf.task_routes
    assert others == ([routes] if routes else [])
    assert first("jobs.code.work", (), {}, {}) == {"queue": "pool.code"}
    assert first("project.plain", (), {}, {}) is None


def test_kombus_registries_have_one_encoder_more_and_nothing_else():
    for name in (SERIALIZER,):
        registry._encoders.pop(name, None)
        registry.name_to_type.pop(name, None)
    before = registries()
    pooltasks.install(project(), Settings(pools=POOLS))
    after = registries()
    assert after["_encoders"].pop(SERIALIZER)
    assert after["name_to_type"].pop(SERIALIZER) == "application/json"
    assert after == before


def test_the_json_that_a_project_registers_stays_its_own():
    before = registries()
    mine = {"decoded by": "the project"}
    try:
        register("json", json.dumps, lambda _: mine, "application/json", "utf-8")
        pooltasks.install(project(), Settings(pools=POOLS))
        pooltasks.app.conf.broker_url  # noqa: B018  configures our own application
        content_type, encoding, text = dumps({"a": 1}, serializer="json")
        assert text == '{"a": 1}'
        assert loads(text, content_type, encoding, accept={content_type}) is mine
    finally:
        for name in ("_decoders", "_encoders", "type_to_name", "name_to_type"):
            getattr(registry, name).clear()
            getattr(registry, name).update(before[name])


def test_operations_are_written_with_the_json_that_a_project_registers():
    """As they are read with it: the two ends have to agree."""
    before = registries()
    pooltasks.install(project(), Settings(pools=POOLS))
    day = date(2026, 1, 2)
    assert '"__type__": "date"' in dumps([day], serializer=SERIALIZER)[2]
    try:
        register(
            "json",
            lambda value: json.dumps(value, default=str).encode(),
            json.loads,
            "application/json",
            "utf-8",
        )
        assert dumps([day], serializer=SERIALIZER)[2] == '["2026-01-02"]'
    finally:
        for name in ("_decoders", "_encoders", "type_to_name", "name_to_type"):
            getattr(registry, name).clear()
            getattr(registry, name).update(before[name])


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("looked_at", [False, True], ids=["", "queues known before"])
def test_a_plain_worker_consumes_what_it_consumed(configuration, looked_at):
    stock, app = project(**configuration), project(**configuration)
    if looked_at:
        app.amqp.router  # noqa: B018  and with it the queues
    pooltasks.install(app, Settings(pools=POOLS))
    route = app.amqp.router.route
    # Whatever is published in this process, by whatever name of its queue.
    assert route({}, "jobs.code.work")["queue"].name == "pool.code"
    assert route({"queue": "pool.code"}, "project.plain")["queue"].name == "pool.code"
    assert route({"queue": "pool.control"}, "project.plain")["queue"].name == "pool.control"
    assert app.amqp.queues["pool.code"].exchange.type == "direct"
    assert [*app.amqp.queues] == [*stock.amqp.queues]
    assert [*app.amqp.queues.consume_from] == [*stock.amqp.queues.consume_from]
    app.amqp.queues.select(["celery"] if "task_queues" in configuration else None)
    assert "pool.code" not in app.amqp.queues.consume_from


def test_a_queue_that_is_no_pools_is_missing_as_before():
    app = pooltasks.install(
        project(task_create_missing_queues=False, task_queues=(Queue("celery"),)),
        Settings(pools=POOLS),
    )
    with pytest.raises(KeyError):
        app.amqp.queues["pool.cod"]
    with pytest.raises(KeyError):
        app.amqp.queues["other"]


def test_a_plain_worker_is_the_applications_own():
    class Project(Celery):
        @property
        def Worker(self):  # noqa: N802  Celery's name
            return self.__dict__.get("Worker") or (lambda **options: ("of the class", options))

        @Worker.setter
        def Worker(self, value):  # noqa: N802
            self.__dict__["Worker"] = value

    app = Project("project", set_as_current=False, broker="redis://127.0.0.1:1/0")
    pooltasks.install(app, Settings(pools=POOLS))
    assert app.Worker(queues="celery") == ("of the class", {"queues": "celery"})
    assert app.Worker() == ("of the class", {})

    other = project()
    other.Worker = lambda **options: ("set on it", options)
    pooltasks.install(other, Settings(pools=POOLS))
    assert other.Worker(queues="celery") == ("set on it", {"queues": "celery"})


def test_a_node_sets_what_it_needs_in_its_own_process(monkeypatch):
    options = {"priority_steps": [0, 5], "socket_timeout": 77, "visibility_timeout": 60}
    app = pooltasks.install(project(broker_transport_options=options), Settings(pools=POOLS))
    seen = []
    monkeypatch.setattr(
        "pooltasks.node.node.Node.__init__",
        lambda *_, app, **__: seen.append(app.conf.broker_transport_options),
    )
    app.Worker(queues="pool.code")
    assert seen == [
        {
            "priority_steps": [0, 5],
            "socket_timeout": 77,
            "socket_connect_timeout": 5.0,
            "socket_keepalive": True,
            "visibility_timeout": 7500.0,
        }
    ]


@pytest.mark.parametrize("broker_url", ["memory://", "filesystem://", None])
def test_a_project_whose_tests_have_no_server_can_be_imported(broker_url):
    app = Celery("tests", set_as_current=False, broker=broker_url)
    assert pooltasks.install(app, Settings(pools=POOLS)) is app
    with pytest.raises(pooltasks.errors.ConfigurationError, match="A node needs a Redis broker"):
        app.Worker(queues="pool.code")
    with pytest.raises(pooltasks.errors.ConfigurationError, match="no server to ask"):
        pooltasks.Pool("code", app).metrics()
