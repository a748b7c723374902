"""Messages are signed and encrypted by whichever way they are published."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery, chain, chord
from celery.beat import ScheduleEntry, Scheduler
from cryptography.fernet import Fernet
from node_session import Node

import pooltasks
from pooltasks.app import Extension, PoolApp
from pooltasks.broker import protection, signing
from pooltasks.broker.dead_letters import _OF_THE_FIRST_LIFE, DeadLetters, letter
from pooltasks.broker.limiting import Limits
from pooltasks.broker.serialization import SERIALIZER
from pooltasks.broker.submission import Submission
from pooltasks.broker.uniqueness import HEADER as UNIQUE
from pooltasks.broker.uniqueness import Unique
from pooltasks.broker.validation import read_operation
from pooltasks.broker.wire import pack
from pooltasks.errors import ConfigurationError, UntrustedMessageError
from pooltasks.node.intake.controls import Controls
from pooltasks.node.intake.message import read
from pooltasks.settings import Settings
from pooltasks.task import Operation

QUEUE = "pool.code"
OLD, NEW = "old-" * 10, "new-" * 10
ARGUMENT = "the number is 4711"


@pytest.fixture(autouse=True)
def no_serializer_of_another_test(monkeypatch):
    registry = protection.dumps.__globals__["registry"]
    for name in ("_encoders", "_decoders", "type_to_name", "name_to_type"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


def settings(url, **values):
    return Settings.load(redis_url=url, **{"pools": {"code": {}}, **values})


def make_app(url, **values):
    app = PoolApp("protection", set_as_current=False)
    app._extension = Extension(settings(url, **values))
    return app


def operation_of(app, **controls):
    options = {"pool": "code", "serializer": SERIALIZER, **controls}

    @app.task(base=Operation, shared=False, name="jobs.run", **options)
    def run(*args, **kwargs):
        return args, kwargs

    return run._get_current_object()


LIMITS = Limits(concurrency=1)
CONTROLS = {
    "without controls": ({}, {}),
    "with all controls": ({"max_queue": 10}, {"limits": LIMITS, "unique": Unique(None)}),
}


@pytest.fixture
def server(valkey_url):
    with redis.Redis.from_url(valkey_url) as client:
        yield client


def in_the_queue(server) -> list[bytes]:
    delayed = server.hvals(f"pooltasks:{{{QUEUE}}}:delayed:messages")
    return [*server.lrange(QUEUE, 0, -1), *(text[text.index(b"{") :] for text in delayed)]


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


async def _asynchronously(run):
    await run.adelay(ARGUMENT)
    await run.aapply_async((ARGUMENT,), kwargs={"x": 1}, priority=3)


def _scheduled(run):
    """As beat sends what is due."""
    entry = ScheduleEntry(
        "now", run.name, schedule=60, args=(ARGUMENT,), options={"queue": QUEUE}, app=run.app
    )
    Scheduler(run.app, lazy=True).apply_async(entry, advance=False)


WAYS = {
    "a form": lambda run: run.delay(ARGUMENT),
    "a form without arguments": lambda run: run.delay(),
    "a draft": lambda run: run.apply_async((ARGUMENT,), {"é": "%s %(id)s"}, shadow="100 %"),
    "headers": lambda run: run.apply_async((ARGUMENT,), headers={"tenant": 7, "x": {10: 1, 2: 3}}),
    "an eta": lambda run: run.apply_async((ARGUMENT,), eta=soon()),
    "many": lambda run: Submission(run, lambda: run.addressed({}, None)).run(
        [[ARGUMENT], {"b": 2}]
    ),
    "Celery": lambda run: run.apply_async((ARGUMENT,), expires=60),
    "Celery, compressed": lambda run: run.apply_async((ARGUMENT,), compression="zlib"),
    "a name": lambda run: run.app.send_task("jobs.run", (ARGUMENT,), queue=QUEUE),
    "JSON of kombu's": lambda run: run.app.send_task(
        "jobs.run", (ARGUMENT,), queue=QUEUE, serializer="json"
    ),
    "a chain": lambda run: chain(run.si(ARGUMENT), run.si(2)).apply_async(),
    "a chord": lambda run: chord([run.si(ARGUMENT), run.si(2)], run.s()).apply_async(),
    "an event loop": lambda run: asyncio.run(_asynchronously(run)),
    "beat": _scheduled,
}


@pytest.mark.parametrize("controls", CONTROLS)
@pytest.mark.parametrize("way", WAYS)
def test_whatever_is_published_is_signed(valkey_url, server, way, controls):
    pool, options = CONTROLS[controls]
    app = make_app(valkey_url, signing_keys=[NEW, OLD], pools={"code": pool})
    WAYS[way](operation_of(app, **options))
    messages = in_the_queue(server)
    assert messages
    for message in messages:
        read_operation(message, app.pooltasks.protection, QUEUE)
    app.close()


@pytest.mark.parametrize("controls", CONTROLS)
@pytest.mark.parametrize("way", WAYS)
def test_whatever_is_published_is_encrypted(valkey_url, server, way, controls):
    pool, options = CONTROLS[controls]
    encryption_keys = [Fernet.generate_key().decode()]
    app = make_app(
        valkey_url, signing_keys=[NEW], encryption_keys=encryption_keys, pools={"code": pool}
    )
    WAYS[way](operation_of(app, **options))
    for message in in_the_queue(server):
        assert b"4711" not in message
        if not json.loads(message)["headers"].get("compression"):
            assert b"4711" not in base64.b64decode(json.loads(message)["body"])
        payload = read_operation(message, app.pooltasks.protection, QUEUE)
        assert payload["content-type"] == "application/json"
        assert len(json.loads(payload["body"])) == 3
    app.close()


def test_an_application_with_install_signs_what_goes_to_pools_and_nothing_else(valkey_url, server):
    app = Celery("installed", broker=valkey_url, set_as_current=False)
    pooltasks.install(app, settings(valkey_url, signing_keys=[NEW]))
    app.send_task("plain", queue="celery")
    app.send_task("jobs.run", queue=QUEUE)
    operation_of(app).delay(1)
    assert "signature" not in json.loads(server.rpop("celery"))["headers"]
    for message in in_the_queue(server):
        read_operation(message, app.pooltasks.protection, QUEUE)
    assert server.llen(QUEUE) == 2


def test_without_keys_nothing_is_added(valkey_url, server):
    app = make_app(valkey_url)
    run = operation_of(app)
    run.delay(1)
    run.apply_async((1,), expires=60)
    assert app.pooltasks.protection is None
    for message in in_the_queue(server):
        assert "signature" not in json.loads(message)["headers"]
    app.close()


@pytest.fixture
def signed(valkey_url, server):
    app = make_app(valkey_url, signing_keys=[NEW])
    operation_of(app).apply_async((ARGUMENT,), headers={"tenant": 7})
    yield json.loads(server.rpop(QUEUE))
    app.close()


def verdict(message: dict[str, Any], *keys: str, queue: str = QUEUE) -> str:
    """What a node with these keys says to a message."""
    its = protection.Protection(signing.Signer(keys), None)
    try:
        read_operation(json.dumps(message).encode(), its, queue)
    except UntrustedMessageError as error:
        return str(error)
    return ""


def test_a_key_is_replaced_while_operations_wait(signed):
    assert not verdict(signed, NEW)
    assert not verdict(signed, OLD, NEW)
    assert "does not fit" in verdict(signed, OLD)


def test_a_message_of_another_queue_is_none(signed):
    assert "another queue" in verdict(signed, NEW, queue="pool.other")


@pytest.mark.parametrize("signature", [None, 7, [], "", "é", "AAAA"])
def test_a_message_without_its_signature_is_none(signed, signature):
    signed["headers"]["signature"] = signature
    assert verdict(signed, NEW)


def test_whatever_is_altered_is_noticed(signed):
    for name in {*signed["headers"], "new"} - signing.NOT_SIGNED:
        altered = json.loads(json.dumps(signed))
        altered["headers"][name] = "altered"
        assert "altered" in verdict(altered, NEW), name
        altered["headers"].pop(name)
        assert name == "new" or "altered" in verdict(altered, NEW), name
    body = base64.b64decode(signed["body"])
    signed["body"] = base64.b64encode(body.replace(b"4711", b"4712")).decode()
    assert "altered" in verdict(signed, NEW)


def test_what_nodes_and_operators_note_leaves_the_signature(signed, server):
    assert set(_OF_THE_FIRST_LIFE) <= signing.NOT_SIGNED
    letters = DeadLetters(server, QUEUE)
    signed["headers"].update(deliveries=2, redelivered=True, attempts=[], suspect=True)
    identifier = letters.add(json.dumps(signed).encode(), "killed its worker")
    assert letters.retry(identifier)
    (again,) = in_the_queue(server)
    assert not verdict(json.loads(again), NEW)


@pytest.fixture
def controlled(valkey_url):
    """An operation with every control, and a node that verifies and decrypts what it reserves."""
    pool, options = CONTROLS["with all controls"]
    app = make_app(
        valkey_url,
        signing_keys=[NEW],
        encryption_keys=[Fernet.generate_key().decode()],
        pools={"code": pool},
    )
    operation = operation_of(app, **options)
    nodes = []

    def start():
        node = Node(valkey_url, QUEUE, limited=True)
        nodes.append(node)
        code = pack(("HSET", node.names.limits, "code jobs.run", LIMITS.text()))
        node.session.send_until_done(code)
        node.settle()
        return node

    yield operation, start
    for node in nodes:
        node.die()
    app.close()


def taken(node, operation):
    """Reserve the one operation that may run; return it as the node reads it."""
    node.reserve()
    node.turn_until(lambda: node.received or node.reserve(), "an operation")
    ((reservation, raw),) = node.received
    node.reservations.controlled[reservation] = None
    intake = SimpleNamespace(
        queue=QUEUE,
        protection=operation.app.pooltasks.protection,
        reservations=node.reservations,
        bury_unreadable=lambda _raw, _reservation, reason: pytest.fail(reason),
    )
    return read(raw, reservation, intake)


def put_back(node, message, _server):
    node.reservations.give_back([(message.delivery_tag, b"")])


def put_back_with_what_is_known(_node, message, _server):
    attempts = [{"at": 1.0, "error": "E: said"}]
    message.headers["interrupted"] = True
    message.give_back(1, attempts=attempts, suspect=True)


def postpone(node, message, server):
    due = time.time() + 0.01
    node.reservations.postpone([(message.delivery_tag, message.headers["id"], due)])
    node.turn_until(lambda: server.llen(QUEUE), "the one that is due")


def set_aside_and_retry(node, message, server):
    its = letter(message.raw, "killed its worker", at=time.time())
    node.reservations.bury(message.delivery_tag, its, None)
    node.settle()
    assert DeadLetters(server, QUEUE).retry(message.headers["id"])


def begin_and_die(node, message, _server):
    node.reservations.start(message.delivery_tag, lambda: None)
    node.settle()
    node.die()


MOVES = [put_back, put_back_with_what_is_known, postpone, set_aside_and_retry, begin_and_die]


@pytest.mark.parametrize("move", MOVES)
def test_a_controlled_operation_that_comes_again_is_trusted(controlled, server, move):
    operation, start = controlled
    node, other = start(), start()
    other.turn_until(lambda: other.has_looked_at(2), "a look", node)
    result = operation.delay(ARGUMENT)
    move(node, taken(node, operation), server)
    if move is not begin_and_die:
        node.settle()
    again = taken(other, operation)
    assert (again.headers["id"], again.payload[0]) == (result.id, [ARGUMENT])
    assert len(again.headers[UNIQUE]) == 3


def test_what_limits_have_held_is_trusted(controlled, server):
    operation, start = controlled
    node = start()
    for number in range(3):
        operation.delay(number)
    for number in range(3):
        message = taken(node, operation)
        assert message.payload[0] == [number]
        assert server.zcard(node.names.held) == 2 - number
        node.reservations.acknowledge(message.delivery_tag)
        node.settle()


def test_what_comes_without_its_key_gets_it_from_the_node_and_is_trusted(controlled):
    operation, start = controlled
    node = start()
    operation.app.send_task("jobs.run", (ARGUMENT,), queue=QUEUE)
    limited = {"jobs.run": LIMITS}
    controls = Controls(operation.app, node.session, node.reservations, limited)
    delivered = []
    controls.hand_on(taken(node, operation), delivered.append)
    controls.give_back_keyed()
    node.settle()
    assert delivered == []
    controls.hand_on(taken(node, operation), delivered.append)
    assert [message.payload[0] for message in delivered] == [[ARGUMENT]]


def test_nodes_may_run_what_is_unsigned_while_signing_is_introduced(valkey_url, signed):
    del signed["headers"]["signature"]
    lenient = make_app(valkey_url, signing_keys=[NEW], signing_required=False)
    read_operation(json.dumps(signed).encode(), lenient.pooltasks.protection, QUEUE)
    lenient.close()


def test_results_are_encrypted_and_an_older_key_still_reads_them(valkey_url, server):
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    app = make_app(valkey_url, encryption_keys=[old])
    app.backend.store_result("7", ARGUMENT, "SUCCESS")
    stored = server.get("celery-task-meta-7")
    assert b"4711" not in stored
    assert app.AsyncResult("7").get(timeout=5) == ARGUMENT
    app.close()
    protection.dumps.__globals__["registry"].unregister("pooltasks-encrypted")
    after = make_app(valkey_url, encryption_keys=[new, old])
    assert after.AsyncResult("7").get(timeout=5) == ARGUMENT
    after.close()


def test_two_applications_of_a_process_cannot_have_different_keys_of_encryption(valkey_url):
    make_app(valkey_url, encryption_keys=[Fernet.generate_key().decode()])
    with pytest.raises(ConfigurationError, match="different encryption_keys"):
        make_app(valkey_url, encryption_keys=[Fernet.generate_key().decode()])


def test_wrong_keys_are_refused_and_not_shown(valkey_url):
    with pytest.raises(ConfigurationError, match="key 2 has less than 32") as error:
        settings(valkey_url, signing_keys=[NEW, "hunter2"])
    assert "hunter2" not in str(error.value)
    with pytest.raises(ConfigurationError, match="no key of Fernet's") as error:
        make_app(valkey_url, encryption_keys=["hunter2"])
    assert "hunter2" not in str(error.value)


def test_keys_come_from_the_environment_with_commas_between_them(valkey_url, monkeypatch):
    monkeypatch.setenv("POOLTASKS_SIGNING_KEYS", f"{NEW}, {OLD}")
    loaded = settings(valkey_url)
    assert [key.get_secret_value() for key in loaded.signing_keys] == [NEW, OLD]
    assert NEW not in repr(loaded)
