"""The connections of an event loop: one to publish and ask on, one on which results come.

They are opened at their first use, and closed when ``asyncio.run()`` ends.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from celery.backends.redis import RedisBackend
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as SilenceError

from pooltasks import address
from pooltasks.awaiting import Results
from pooltasks.broker.admission import ADMIT
from pooltasks.broker.async_client import abandon, client_of, close
from pooltasks.broker.unconnected import UnconnectedForms
from pooltasks.brokers import server_of_results
from pooltasks.errors import ConfigurationError
from pooltasks.gathering import Gathering

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from celery import Celery

    from pooltasks.broker.admission import Admission, Entry, Verdict

_ERRORS = (RedisError, OSError)


class Connections:
    """The connections of one application on one loop."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        extension = app.pooltasks
        self._server = address.read(extension.settings.redis_url.get_secret_value())
        self.forms = UnconnectedForms(app)
        self._clock = extension.clock
        self._silence = extension.publish_timeout
        self._client = client_of(self._server, self._silence, **extension.connection_options)
        self._pushed = Gathering(self._push)
        self._asked = Gathering(self._ask)
        self._timed = Gathering(self._ask_time)

    @cached_property
    def results(self) -> Results:
        """The results, whose server may be that of the operations.

        Raises:
            ConfigurationError: The results are on no Redis.
        """
        server, objects = server_of_results(redis_backend(self._app))
        if server.is_place_of(self._server):
            return Results(self._client)
        return Results(client_of(server, self._silence, **objects))

    async def publish(self, place: bytes, texts: list[bytes]) -> None:
        """Put messages on a list.

        Raises:
            kombu.exceptions.OperationalError: They may not have been put there.
        """
        try:
            await self._pushed.put((place, texts))
        except _ERRORS as error:
            raise OperationalError(str(error)) from error

    async def admit(self, admission: Admission, entries: Sequence[Entry]) -> Verdict:
        """Publish operations if the server admits all of them.

        Raises:
            kombu.exceptions.OperationalError: They may have been published or not.
        """
        names, arguments = admission.call(entries, takes_part=False)
        try:
            # Not in the task of the caller: a cancellation would leave half a command.
            script = self._client.register_script(ADMIT.text)
            answer = await self._asked.put(partial(script, keys=names, args=arguments))
        except _ERRORS as error:
            raise OperationalError(str(error)) from error
        return admission.verdict(answer)

    async def forget(self, key: bytes) -> None:
        """Remove a result.

        Raises:
            kombu.exceptions.OperationalError: It may be there still.
        """
        try:
            await self._asked.put(partial(self.results.client.delete, key))
        except _ERRORS as error:
            raise OperationalError(str(error)) from error

    async def _ask(self, questions: Sequence[Callable[[], Awaitable[Any]]]) -> Sequence[Any]:
        """Ask one question after the other; return the answers and errors."""
        answers: list[Any] = []
        for question in questions:
            try:
                answers.append(await question())
            except SilenceError as error:
                return [*answers, *[error] * (len(questions) - len(answers))]
            except _ERRORS as error:
                answers.append(error)
        return answers

    async def _push(
        self, messages: list[tuple[bytes, list[bytes]]]
    ) -> Sequence[int | BaseException]:
        """Put messages on their lists, with one command for each list."""
        texts: dict[bytes, list[bytes]] = {}
        for place, its in messages:
            texts.setdefault(place, []).extend(its)
        answers: dict[bytes, int | BaseException] = {}
        for place, its in texts.items():
            try:
                answers[place] = await self._client.lpush(place, *its)
            except SilenceError:
                raise  # tasks that joined meanwhile have waited for a silent server, too
            except _ERRORS as error:
                answers[place] = error
        return [answers[place] for place, _ in messages]

    async def learn_the_time(self) -> None:
        """Ask the server for its time, where that is due."""
        if not self._clock.is_due():
            return
        with suppress(*_ERRORS):  # the next publication notices it
            await self._timed.put(None)

    async def _ask_time(self, askers: list[None]) -> list[None]:
        if self._clock.is_due():
            sent = time.monotonic()
            seconds, microseconds = await self._client.time()
            self._clock.observe(seconds + microseconds / 1e6, sent, time.monotonic())
        return askers

    async def close(self) -> None:
        """Close all."""
        if "results" in vars(self):
            await self.results.close()
        await close(self._client)

    def abandon(self) -> None:
        """Let go of all; the loop is closed."""
        abandon(self._client)
        if "results" in vars(self):
            abandon(self.results.client)


_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, Any]] = WeakKeyDictionary()


async def of_this_loop(app: Celery) -> Connections:
    """Return the connections of an application on the loop that runs; they know the time."""
    of_loop = _loops.setdefault(asyncio.get_running_loop(), {})
    extension = app.pooltasks
    if extension not in of_loop:
        _forget_closed_loops()
        connections = Connections(app)
        closing = _closed_at_the_end(connections)
        of_loop[extension] = connections, closing
        await anext(closing)
    found: Connections = of_loop[extension][0]
    await found.learn_the_time()
    return found


def _forget_closed_loops() -> None:
    """Let go of loops that were closed and not ended as ``asyncio.run()`` ends them."""
    for reference in _loops.keyrefs():
        loop = reference()
        if loop is not None and loop.is_closed():
            for connections, _ in _loops.pop(loop, {}).values():
                connections.abandon()


async def _closed_at_the_end(connections: Connections) -> AsyncGenerator[None]:
    # asyncio.run() ends running generators before it closes the loop.
    try:
        yield
    finally:
        await connections.close()


def redis_backend(app: Celery) -> RedisBackend:
    """Return the result backend of an application.

    Raises:
        ConfigurationError: It is not on Redis.
    """
    backend = app.backend
    if not isinstance(backend, RedisBackend):
        raise ConfigurationError(
            f"`await` needs a result backend on Redis, and this application's is "
            f"{type(backend).__name__}. Wait in a thread: await asyncio.to_thread(result.get)."
        )
    return backend
