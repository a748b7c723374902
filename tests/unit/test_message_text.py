"""Dead letters and their messages tell no secret: to the commands, the pages and the verdict."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import fakeredis
import pytest
from celery.bin.base import CLIContext
from click.testing import CliRunner

from pooltasks import keys
from pooltasks.broker.dead_letters import DeadLetters
from pooltasks.cli.dead import dead
from pooltasks.dashboard import letters
from pooltasks.dashboard.circumstances import last_reason
from pooltasks.metrics.message_text import arguments_in, told_message
from pooltasks.whereabouts import places_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from pooltasks.app import PoolApp

QUEUE = keys.queue("code")
SECRETS = ("hunter2", "4111-1111", "t-1", "sk_live_1234567890abcdef")


@pytest.fixture
def client() -> redis.Redis:
    return fakeredis.FakeRedis()


@pytest.fixture
def app(
    make_app: Callable[..., PoolApp], client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> PoolApp:
    app = make_app(pools={"code": {}})
    for place in ("cli.dead", "whereabouts"):
        monkeypatch.setattr(f"pooltasks.{place}.redis_client", lambda _: client)

    @app.task(name="shop.pay", shared=False)
    def pay(order: int, password: str, key: str, options: Any = None) -> None: ...

    return app


def message(**headers: Any) -> bytes:
    args = [7, "hunter2", "sk_live_1234567890abcdef", {"card_number": "4111-1111"}]
    body = json.dumps([args, {}, {"callbacks": [{"kwargs": {"token": "t-1"}}]}])
    its = {
        "id": "one",
        "task": "shop.pay",
        "argsrepr": repr(args),
        "attempts": [{"at": 1.0, "error": "OSError('password=hunter2')"}],
        "authorization": "hunter2",
        **headers,
    }
    encoded = base64.b64encode(body.encode()).decode()
    return json.dumps({"body": encoded, "headers": its, "priority": 0}).encode()


@pytest.fixture
def store(client: redis.Redis) -> DeadLetters:
    store = DeadLetters(client, QUEUE)
    store.add(message(), "failed: redis://:hunter2@cache refused, token=t-1")
    return store


def run(app: PoolApp, *arguments: str) -> str:
    result = CliRunner().invoke(dead, arguments, obj=CLIContext(app, no_color=True, workdir="."))
    assert result.exit_code == 0, result.output
    return result.output


def assert_masked(text: str) -> None:
    assert "***" in text
    its = message()
    assert json.loads(its)["body"] not in text
    assert [secret for secret in SECRETS if secret in text] == []


@pytest.mark.usefixtures("store")
def test_the_commands_tell_no_secret(app: PoolApp) -> None:
    for arguments in (["list", "code"], ["show", "code", "one"]):
        assert_masked(run(app, *arguments))
        assert_masked(run(app, *arguments, "--json"))
    shown = run(app, "show", "code", "one")
    assert "arguments: order=7, password=***, key='***', options={'card_number': ***}" in shown


def test_the_pages_tell_no_secret(app: PoolApp, store: DeadLetters) -> None:
    assert_masked(json.dumps(letters.listed(store, "", "")))
    shown = letters.shown(app, store, "one")
    assert_masked(json.dumps(shown))
    assert shown["arguments"] == "order=7, password=***, key='***', options={'card_number': ***}"


def test_the_verdict_and_inspect_tell_no_secret(
    app: PoolApp, store: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_masked(str(last_reason(store.list())))
    monkeypatch.setattr("pooltasks.whereabouts.ask", lambda *_, **__: {})
    monkeypatch.setattr("pooltasks.whereabouts._result", lambda *_: [])
    assert_masked(json.dumps(places_of(app, "one")))


@pytest.mark.usefixtures("store")
def test_a_letter_is_sent_again_as_it_was(app: PoolApp, client: redis.Redis) -> None:
    assert run(app, "retry", "code", "one") == "1 sent again\n"
    sent: Any = client.lpop(QUEUE)
    assert json.loads(sent)["body"] == json.loads(message())["body"]


@pytest.mark.parametrize(
    "content",
    [
        b"\xff password=hunter2",
        b'"token=t-1"',
        b'["secret: hunter2"]',
        b'{"headers": {"api_key": "hunter2"}, "body": 5}',
        b'{"body": "aHVudGVyMg==", "headers": []}',
        b"[" * 100_000,
    ],
)
def test_a_message_of_any_form_is_told_without_its_secrets(app: PoolApp, content: bytes) -> None:
    text = told_message(content)
    assert [secret for secret in (*SECRETS, "aHVudGVyMg==") if secret in text] == []
    assert arguments_in(app, content) is None
