"""The application: its configuration, pools on another one, and @operation."""

from __future__ import annotations

import subprocess
import sys

import pytest
from celery import Celery
from kombu import Queue

from pooltasks import app as default_app
from pooltasks import install
from pooltasks.app import (
    Extension,
    PoolApp,
    current_pool,
    import_operations,
    settings_of,
)
from pooltasks.decorator import operation
from pooltasks.errors import Category, ConfigurationError
from pooltasks.settings import Settings
from pooltasks.task import RETRIES

pytestmark = pytest.mark.usefixtures("bare_environment")

BROKER = "redis://127.0.0.1:1/0"


def another(broker_url=BROKER, **configuration):
    """An application of somebody else."""
    app = Celery("another", set_as_current=False)
    app.conf.update(broker_url=broker_url, **configuration)
    return app


def queue_of(app, name, **options):
    return app.amqp.router.route(options, name)["queue"].name


def queue_names(app):
    return [queue.name for queue in app.conf.task_queues]


# The configuration of our own application


def test_the_configuration_follows_the_settings(make_app):
    app = make_app(redis_url="redis://:secret@host:6380/2", pools={"code": {}}, result_expires=5)
    assert app.conf.broker_url == "redis://:secret@host:6380/2"
    assert app.conf.result_backend.endswith("+redis://:secret@host:6380/2")
    assert app.conf.result_expires == 5
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_acks_late
    assert app.conf.task_reject_on_worker_lost
    assert app.conf.worker_prefetch_multiplier == 1


def test_every_pool_has_a_queue_and_so_has_the_control_pool(make_app):
    assert queue_names(make_app(pools={"code": {}, "programs": {}})) == [
        "pool.code",
        "pool.programs",
        "pool.control",
    ]
    assert queue_names(make_app(pools={"control": {}})) == ["pool.control"]


def test_tasks_without_a_pool_go_to_the_only_pool_else_to_the_control_pool(make_app):
    assert make_app(pools={"code": {}}).conf.task_default_queue == "pool.code"
    assert make_app(pools={"a": {}, "b": {}}).conf.task_default_queue == "pool.control"
    assert make_app().conf.task_default_queue == "pool.control"


def test_a_message_stays_reserved_for_longer_than_any_operation_runs(make_app):
    for pools, longest in (
        ({"a": {"operation_timeout": 7000}, "b": {}}, 7000),
        ({}, 60),
    ):
        options = make_app(pools=pools).conf.broker_transport_options
        assert options["visibility_timeout"] > longest
        assert options["priority_steps"] == [0]


def test_what_is_sent_by_name_goes_to_the_pool_that_imports_its_module(make_app):
    app = make_app(pools={"a": {"imports": ["jobs.a"]}, "b": {"imports": ["jobs.b", "jobs.c"]}})
    assert queue_of(app, "jobs.a.run") == "pool.a"
    assert queue_of(app, "jobs.c.run") == "pool.b"
    assert queue_of(app, "jobs.d.run") == "pool.control"
    assert queue_of(app, "run") == "pool.control"
    assert queue_of(app, "jobs.a.run", queue="pool.b") == "pool.b"


def test_a_wrong_setting_is_an_error_at_every_use(monkeypatch):
    app = PoolApp("wrong", set_as_current=False)
    monkeypatch.setenv("POOLTASKS_SESSION_TTL", "0")
    for use in (
        lambda: app.conf.broker_url,
        lambda: app.pooltasks,
        lambda: settings_of(app),
        lambda: app.amqp.queues,
        lambda: app.conf.broker_url,
    ):
        with pytest.raises(ConfigurationError, match="session_ttl"):
            use()
    monkeypatch.setenv("POOLTASKS_SESSION_TTL", "60")
    assert settings_of(app).session_ttl == 60
    assert app.conf.broker_url == "redis://127.0.0.1:6379/0"


def test_two_applications_have_settings_of_their_own(make_app, monkeypatch):
    monkeypatch.setattr(default_app, "_extension", None)
    one = make_app(redis_url="redis://one", pools={"code": {"imports": ["jobs"]}})
    two = make_app(redis_url="redis://two", pools={"other": {"imports": ["jobs"]}})
    assert (one.conf.broker_url, two.conf.broker_url) == (
        "redis://one:6379/0",
        "redis://two:6379/0",
    )
    assert (queue_of(one, "jobs.run"), queue_of(two, "jobs.run")) == ("pool.code", "pool.other")
    assert "pool.other" not in one.amqp.queues
    one.pooltasks.pool = "code"
    assert two.pooltasks.pool is None
    assert settings_of(default_app).pools == {}


def test_the_worker_of_the_application_is_a_node(make_app):
    with pytest.raises(ConfigurationError, match="Which pool is this node to serve"):
        make_app().Worker()


# Pools on another application


@pytest.mark.parametrize(
    ("broker_url", "scheme"),
    [("amqp://", "amqp"), ("sqs://key:secret@", "sqs")],
)
def test_a_broker_that_is_not_redis_is_refused(broker_url, scheme):
    app = another(broker_url)
    with pytest.raises(ConfigurationError, match=f"this application's is {scheme}") as raised:
        install(app)
    assert "secret" not in str(raised.value)
    assert not hasattr(app, "pooltasks")
    with pytest.raises(ConfigurationError, match=r"not installed on <Celery another.*install\(app"):
        settings_of(app)


@pytest.mark.parametrize(
    ("broker_url", "redis_url"),
    [
        ("redis://host:6380/2", "redis://host:6380/2"),
        ("rediss://host", "rediss://host:6379/0?ssl_cert_reqs=none"),
        ("redis+socket:///run/x.sock?virtual_host=1", "unix:///run/x.sock?db=1"),
    ],
)
def test_the_settings_take_the_application_s_broker(monkeypatch, broker_url, redis_url):
    monkeypatch.setenv("POOLTASKS_REDIS_URL", "redis://elsewhere")
    app = another(broker_url)
    assert install(app) is app
    assert settings_of(app).redis_url.get_secret_value() == redis_url
    assert app.conf.broker_url == broker_url


def test_installing_keeps_what_the_application_has():
    def own_route(name, *_, **__):
        return {"queue": "own"} if name.startswith("own.") else None

    options = {"visibility_timeout": 7}
    app = another(
        task_queues=(Queue("own"), Queue("celery")),
        task_routes=own_route,
        broker_transport_options=options,
    )
    install(app, Settings(pools={"code": {"imports": ["jobs"]}}))
    assert queue_names(app) == ["own", "celery"]
    assert queue_of(app, "own.run") == "own"
    assert queue_of(app, "jobs.run") == "pool.code"
    assert queue_of(app, "third.run") == "celery"
    assert app.conf.broker_transport_options == options
    assert app.conf.task_serializer == "json"


@pytest.mark.parametrize("routes", [None, [], {"own.*": {"queue": "own"}}])
def test_an_application_without_explicit_queues_keeps_its_default_one(routes):
    app = another(task_default_queue="default", task_routes=routes)
    install(app, Settings(pools={"code": {"imports": ["jobs"]}}))
    assert app.conf.task_queues is None
    assert queue_of(app, "third.run") == "default"
    assert queue_of(app, "jobs.run") == "pool.code"
    assert (queue_of(app, "own.run") == "own") is bool(routes)
    assert set(app.amqp.queues) == {"default", "own"} if routes else {"default"}


def test_installing_twice_changes_nothing():
    app = another()
    install(app, Settings(pools={"code": {}}))
    extension, routes = app.pooltasks, app.conf.task_routes
    install(app, Settings(pools={"other": {}}))
    assert app.pooltasks is extension
    assert app.conf.task_routes == routes


def test_our_own_application_has_pools_already(make_app):
    app = make_app()
    assert install(app) is app


def test_a_wrong_setting_is_an_error_of_install(monkeypatch):
    monkeypatch.setenv("POOLTASKS_SESSION_TTL", "0")
    app = another()
    with pytest.raises(ConfigurationError, match="session_ttl"):
        install(app)
    assert not hasattr(app, "pooltasks")


def test_a_command_that_names_no_pool_starts_the_application_s_plain_worker(monkeypatch):
    started = []
    monkeypatch.setattr("celery.apps.worker.Worker.__init__", lambda _, **kw: started.append(kw))
    app = install(another(), Settings())
    app.Worker(queues="celery")
    app.Worker()
    assert [options.get("queues") for options in started] == ["celery", None]
    with pytest.raises(ConfigurationError, match="exactly one pool"):
        app.Worker(queues="pool.a,pool.b")


# What runs in this process


def test_a_process_serves_no_pool_unless_it_is_a_node(monkeypatch):
    monkeypatch.setattr(default_app, "_extension", Extension(Settings()))
    assert current_pool() is None
    default_app.pooltasks.pool = "code"
    assert current_pool() == "code"
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[PoolApp.__module__], "current_app", another())
        assert current_pool() is None


@pytest.mark.parametrize(
    ("first", "current"),
    [("import celery", "pooltasks"), ("from celery import Celery; Celery('own')", "own")],
)
def test_operations_go_to_our_application_unless_the_process_has_one_of_its_own(first, current):
    code = f"{first}; import celery, pooltasks; print(celery.current_app.main)"
    output = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=30)
    assert output == f"{current}\n"


@pytest.fixture
def module(bare_environment, monkeypatch):
    """Write a module that can be imported, and forgotten."""
    monkeypatch.syspath_prepend(bare_environment)

    def write(name, source):
        (bare_environment / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def test_a_pool_s_modules_are_imported_with_the_built_in_operations(make_app, module):
    name = module("test_app_jobs", "imported = True\n")
    command = {"operation": "pooltasks.operations.ping"}
    app = make_app(pools={"code": {"imports": [name], "warmup": {"commands": [command]}}})
    import_operations(app, "code")
    assert sys.modules.pop(name).imported
    assert "pooltasks.operations.ping" in app.tasks


@pytest.mark.parametrize(
    ("source", "problem"),
    [("raise KeyError('x')", "KeyError: 'x'"), ("def", "SyntaxError"), (None, "ModuleNotFound")],
)
def test_a_module_that_cannot_be_imported_is_named_with_its_pool(
    make_app, module, source, problem, bare_environment
):
    if source is not None:
        module("test_app_broken", source)
    app = make_app(pools={"code": {"imports": ["test_app_broken"]}})
    with pytest.raises(ConfigurationError) as raised:
        import_operations(app, "code")
    message = str(raised.value)
    assert "pool 'code': imports: test_app_broken cannot be imported" in message
    assert problem in message
    where = "test_app_broken.py, line 1" if source else f"installed or lie in {bare_environment}"
    assert where in message
    assert raised.value.__cause__ is not None


def test_a_warm_up_of_an_operation_that_does_not_exist_names_those_that_do(make_app):
    commands = [
        {"operation": "pooltasks.operations.ping"},
        {"operation": "pooltasks.operations.pimg"},
    ]
    app = make_app(pools={"code": {"warmup": {"commands": commands}}})
    with pytest.raises(ConfigurationError) as raised:
        import_operations(app, "code")
    message = str(raised.value)
    assert message.startswith(
        "pool 'code': warmup.commands.1.operation: there is no operation "
        "'pooltasks.operations.pimg'; did you mean pooltasks.operations.ping? Allowed: "
    )
    assert "celery." not in message


# @operation


def test_an_operation_is_a_task_of_every_application(make_app):
    @operation(pool="code", timeout=3, checkout_timeout=4, name="test_app.add", bind=True)
    def add(self, a, b):
        return self.name, a + b

    assert add(1, 2) == ("test_app.add", 3)
    for app in (make_app(), install(another(), Settings())):
        task = app.tasks["test_app.add"]
        assert task.app is app
        assert (task.pool, task.timeout, task.checkout_timeout) == ("code", 3, 4)
        assert task.acks_late
        assert task.reject_on_worker_lost
        assert task.retries_by_category == {}


def test_an_operation_that_may_not_run_twice_is_lost_with_its_worker():
    @operation(idempotent=False, name="test_app.once")
    def once():
        pass

    assert once.acks_late
    assert not once.reject_on_worker_lost
    assert once.pool is None


@pytest.mark.parametrize(
    ("retry", "retries"),
    [
        (False, {}),
        (True, dict(RETRIES)),
        (2, {category: min(2, most) for category, most in RETRIES.items()}),
        (0, dict.fromkeys(RETRIES, 0)),
        ({"connection": 7}, {Category.CONNECTION: 7}),
        ({Category.PYTHON: 1, "system": 2}, {Category.PYTHON: 1, Category.SYSTEM: 2}),
    ],
)
def test_retries_are_all_of_them_a_number_or_those_of_a_mapping(request, retry, retries):
    @operation(retry=retry, name=f"test_app.{request.node.name}")
    def function():
        pass

    assert function.retries_by_category == retries


def test_a_retry_of_an_unknown_category_is_refused():
    with pytest.raises(ConfigurationError, match=r"retry names conection; allowed: .*connection"):
        operation(retry={"conection": 1})(lambda: None)


@pytest.mark.parametrize("key", ["timeout", "checkout_timeout"])
@pytest.mark.parametrize("value", [0, -1.5])
def test_a_time_that_is_not_positive_is_refused(key, value):
    with pytest.raises(ConfigurationError, match=rf"{key} is {value}; allowed: seconds above 0"):
        operation(**{key: value})
