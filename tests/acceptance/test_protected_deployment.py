"""A deployment whose processes each have a user of the server, and whose messages are protected."""

from __future__ import annotations

import asyncio
import json
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from celery import chain, chord
from cryptography.fernet import Fernet
from deployment import DEADLINE, Deployment, wait_until

from pooltasks import Pool, acl, keys
from pooltasks.errors import MessageRefusedError, PoolSaturated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.long

PASSWORD = "5ecret-of-the-server"  # noqa: S105  of a server of the test's own
SIGNING_KEY = "5ecret-of-those-who-sign-messages"
ENCRYPTION_KEY = Fernet.generate_key().decode()
LETTERS = keys.dead_letters("pool.code")
CONFIGURATION = """
[pools.code]
imports = ["sample_operations"]
pool_size = 2
priorities = true

[pools.narrow]
max_queue = 2
"""
LIMITED = "sample_operations.try_again_under_limits"


@pytest.fixture
def deployment(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deployment]:
    monkeypatch.setenv("POOLTASKS_SIGNING_KEYS", SIGNING_KEY)
    monkeypatch.setenv("POOLTASKS_ENCRYPTION_KEYS", ENCRYPTION_KEY)
    its = urlsplit(redis_url)

    def of(role: str) -> str:
        return its._replace(netloc=f"{acl.USER}{role}:{PASSWORD}@{its.netloc}").geturl()

    with Deployment(tmp_path, redis_url) as deployment:
        run = deployment.redis.execute_command
        for line in acl.lines(
            passwords=dict.fromkeys(acl.ROLES, PASSWORD), database=int(its.path[1:])
        ):
            _, name, *rules = re.findall(r"\([^)]*\)|\S+", line)
            run("ACL", "SETUSER", name, "reset", *rules)
        run("ACL", "LOG", "RESET")
        for name in ("POOLTASKS_SIGNING_KEYS", "POOLTASKS_ENCRYPTION_KEYS"):
            deployment.environment[name] = os.environ[name]
        deployment.of = of
        deployment.url = of("producer")
        deployment.configure(CONFIGURATION)
        deployment.environment["POOLTASKS_REDIS_URL"] = of("node")
        yield deployment
        deployment.stop()
        for role in acl.ROLES:
            run("ACL", "DELUSER", f"{acl.USER}{role}")


def refused(deployment: Deployment) -> list[str]:
    """What the server has refused the users of the deployment."""
    return [
        f"{entry['username']} {entry['reason']} {entry['object']}"
        for entry in deployment.redis.acl_log(1000)
        if entry["username"].startswith(acl.USER)
    ]


def under_controls(deployment: Deployment, pool: Pool) -> None:
    """Limits, uniqueness and back-pressure, and what an application records."""
    limited = deployment.app.tasks[LIMITED]
    results = pool.submit_many(limited, [(1, "acme"), (2, "acme"), (1, "acme")])
    assert (results[0].id, results.duplicates) == (results[2].id, {2})
    # One that Celery sends itself has its key from the node, and is as well signed.
    by_name = deployment.app.send_task(LIMITED, (3, "acme"), queue="pool.code")
    for result in (*results, by_name):
        assert result.get(timeout=DEADLINE) == ["acme", True]
    with pytest.raises(PoolSaturated):
        Pool("narrow", app=deployment.app).submit_many("sample_operations.echo", [(1,)] * 3)
    deployment.redis.delete("pool.narrow")  # nobody serves it, and the status would say so
    pool.record_metrics(queue_depth=1.0)


def test_everything_works_and_nothing_is_refused_or_shown(deployment: Deployment) -> None:
    app = deployment.app
    deployment.start_node("-Q", "pool.code")
    pool = Pool("code", app=app)
    assert pool.execute("ping", timeout=DEADLINE)
    app.loader.import_task_module("sample_operations")
    echo = app.tasks["sample_operations.echo"]
    assert echo.apply_async((1,), countdown=0.2, priority=6).get(timeout=DEADLINE) == 1
    assert [r.get(timeout=DEADLINE) for r in pool.submit_many(echo, [(1,), (2,)])] == [1, 2]
    assert chain(echo.s(1), echo.s()).apply_async().get(timeout=DEADLINE) == 1
    assert chord([echo.s(1), echo.s(2)], echo.s()).apply_async().get(timeout=DEADLINE) == [1, 2]

    async def asynchronously() -> object:
        return await (await echo.adelay(3))

    assert asyncio.run(asynchronously()) == 3
    under_controls(deployment, pool)

    with pytest.raises(TypeError):
        pool.execute("sample_operations.add", ["4711", 1], timeout=DEADLINE)
    examples = wait_until(
        lambda: deployment.redis.hvals(keys.error_examples("code")), "what is kept of the error"
    )
    assert json.loads(examples[0])["arguments"] == "(encrypted)"
    assert "4711" not in examples[0]

    # Somebody who can write to the server, and has no key.
    echo.apply_async((1,), task_id="forged", queue="pool.control")
    message = json.loads(deployment.redis.rpop("pool.control"))
    deployment.redis.lpush("pool.code", json.dumps(message))
    letter = wait_until(lambda: deployment.redis.hget(LETTERS, "forged"), "the dead letter")
    assert json.loads(letter)["reason"].startswith("untrusted: its signature does not fit")
    with pytest.raises(MessageRefusedError, match="untrusted"):
        echo.AsyncResult("forged").get(timeout=DEADLINE)

    deployment.environment["POOLTASKS_REDIS_URL"] = deployment.of("operator")
    # It exits with 1: operations have just failed here.
    status = deployment.run("pooltasks", "status")
    shown = status.stdout + status.stderr
    assert "1 live" in shown
    for command in (
        "dead list code",
        "dead show code forged",
        "dead retry code forged",
        f"limit code {LIMITED} tenant=acme --concurrency 2",
    ):
        answer = deployment.run("pooltasks", *command.split())
        assert answer.returncode == 0, answer.stdout + answer.stderr
        shown += answer.stdout + answer.stderr
    wait_until(lambda: deployment.redis.hexists(LETTERS, "forged"), "again")
    checked = deployment.run("pooltasks", "check", "--no-warm-up")
    shown += checked.stdout + checked.stderr
    assert "ok   pool.code: an operation came back in " in checked.stdout
    shown += deployment.log()
    assert refused(deployment) == []
    assert PASSWORD not in shown
    assert SIGNING_KEY not in shown
