"""Real nodes, started through their command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import redis
from kombu.exceptions import OperationalError

import pooltasks
from pooltasks import Pool, address, keys, remote
from pooltasks.app import Extension, PoolApp
from pooltasks.broker.dead_letters import DeadLetter, DeadLetters
from pooltasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

HERE = Path(__file__).parent
DEADLINE = 30.0
ANSWER = 0.3
"""Seconds for which the nodes are listened to; one that is late answers the next question."""


def wait_until(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """Return what ``condition`` returns as soon as it is true; fail after ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)  # between looks
    pytest.fail(f"not within {deadline} s: {what}")


def has_ended(pid: int) -> bool:
    """Return whether a process is gone, or only waits until somebody asks for its exit code."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


class Deployment:
    """A server, a configuration, and the nodes that a test starts."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.redis = address.connect(url, redis.Redis, decode_responses=True)
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.app: PoolApp
        self._apps: list[PoolApp] = []
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("POOLTASKS_")},
            "POOLTASKS_REDIS_URL": url,
            # The nodes import pooltasks from where the tests did.
            "PYTHONPATH": os.pathsep.join([str(Path(pooltasks.__file__).parents[1]), str(HERE)]),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def configure(self, toml: str) -> PoolApp:
        """Write the configuration; return an application that sees it."""
        path = self.folder / "pools.toml"
        path.write_text(toml)
        self.environment["POOLTASKS_CONFIG"] = str(path)
        app = PoolApp("pooltasks", set_as_current=False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("POOLTASKS_CONFIG", str(path))
            patch.setenv("POOLTASKS_REDIS_URL", self.url)
            app._extension = Extension(Settings.load())
        self.app = app
        self._apps.append(app)
        return app

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", *arguments]

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
            **options,
        )

    def start_node(self, *options: str, under: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start a node; ``under`` is a program that runs it, with its options."""
        return self._start("worker", *options, under=under)

    def start_beat(self) -> subprocess.Popen[bytes]:
        schedule = self.folder / f"schedule-{len(self.nodes)}"
        return self._start("beat", "--schedule", str(schedule))

    def _start(
        self, program: str, *options: str, under: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        command = self.command("celery", "-A", "pooltasks", program, "-l", "info", *options)
        log = (self.folder / f"node-{len(self.nodes)}.log").open("wb")
        node = subprocess.Popen(
            [*under, *command],
            env=self.environment,
            cwd=self.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()
        self.nodes.append(node)
        return node

    def log(self, number: int = 0) -> str:
        return (self.folder / f"node-{number}.log").read_text(errors="replace")

    def status_by_node(self) -> dict[str, dict[str, Any]]:
        """What the nodes say of themselves; empty while none answers."""
        try:
            return remote.ask(self.app, "pool_status", timeout=ANSWER)
        except OperationalError:  # the server is away, as some tests want it
            return {}

    def status(self) -> dict[str, Any]:
        """What the only node says of itself; empty while none answers."""
        return next(iter(self.status_by_node().values()), {})

    def wait_for_warm(self, workers: int) -> dict[str, Any]:
        def warm() -> dict[str, Any] | None:
            status = self.status()
            return status if status.get("warm") == workers and not status["cold"] else None

        return wait_until(warm, f"{workers} warm workers; the log:\n{self.log()[-3000:]}")

    def bytes_client(self) -> redis.Redis:
        """Return a client whose answers are not decoded, as the library's own."""
        return redis.Redis.from_url(self.url)

    def reserved(self) -> int:
        """Return how many operations the nodes have reserved."""
        names = self.redis.keys("pooltasks:{*}:unacked:*")
        return sum(self.redis.hlen(name) for name in names)

    def living(self, queue: str = "pool.code") -> int:
        """Return how many nodes of a pool have a lease."""
        return int(self.redis.zcard(keys.leases(queue)))

    def stop(self) -> None:
        for node in self.nodes:
            if node.poll() is None:
                node.send_signal(signal.SIGTERM)
        for node in self.nodes:
            try:
                node.wait(DEADLINE / 2)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()
                pytest.fail(f"a node did not stop:\n{self.log()[-3000:]}")
        self.redis.close()
        for app in self._apps:
            app.backend.result_consumer.stop()
            app.close()


def letter_of(deployment: Deployment, identifier: str) -> tuple[DeadLetter, bytes]:
    """Return the dead letter with this id as soon as it is there."""
    with deployment.bytes_client() as client:
        letters = DeadLetters(client, "pool.code")
        wait_until(
            lambda: any(letter.id == identifier for letter in letters.list()), "the dead letter"
        )
        return letters.show(identifier)


def last_published(deployment: Deployment) -> dict[str, Any]:
    """Return the message that waits in a queue which nobody serves."""
    return json.loads(deployment.redis.lpop("pool.control"))


class Node:
    """The only node of a deployment, through its control commands."""

    def __init__(self, deployment: Deployment, app: PoolApp) -> None:
        self.app = app
        self.name = next(iter(wait_until(deployment.status_by_node, "a node answers")))

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        (reply,) = self.app.control.broadcast(
            command,
            arguments=arguments,
            destination=[self.name],
            reply=True,
            limit=1,
            timeout=DEADLINE,
        )
        answer: dict[str, Any] = reply[self.name]
        return answer

    def status(self) -> dict[str, Any]:
        return self.ask("pool_status")

    def wait_for(self, **values: Any) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            status = self.status()
            return status if all(status[key] == value for key, value in values.items()) else None

        answer: dict[str, Any] = wait_until(reached, f"{values}; now {self.status()}")
        return answer


@contextmanager
def one_node(url: str, folders: pytest.TempPathFactory, toml: str) -> Iterator[Deployment]:
    """Run one node of the pool ``code`` on an emptied database."""
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    deployment = Deployment(folders.mktemp("one-node"), url)
    deployment.pool = Pool("code", app=deployment.configure(toml))
    try:
        deployment.start_node("-Q", "pool.code")
        yield deployment
    finally:
        deployment.stop()
