"""Sessions in Redis: named data and programs that any worker of any pool can use.

A session exists from ``create`` or the first value or program put into it until it
is deleted or has not been used for its time to live. Everything that reads or
writes one renews the time to live of all of its keys in the same atomic step,
so no key is ever left without one, even when the session expires meanwhile.

The programs of a session are in :mod:`pooltasks.programs`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pooltasks import keys
from pooltasks.app import settings_of
from pooltasks.broker.client import redis_client
from pooltasks.errors import InvalidIdentifierError, SessionNotFoundError

if TYPE_CHECKING:
    import redis
    from celery import Celery

ANONYMOUS_SESSION = "anonymous"
"""The session of calls that name none. It is shared by all of them and always
counts as existing: reading it before anything is in it is not an error."""

LONGEST_IDENTIFIER = 200
"""Characters of a session id or a program id, at most."""


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """A session in numbers.

    Attributes:
        session_id: Its name.
        created_at: Epoch seconds; None for the anonymous session before its first use.
        values: Values put into its data.
        programs: Programs in it.
        executions: Finished executions of these programs, failures included.
        failures: Those that raised.
        seconds: Their run, added up.
    """

    session_id: str
    created_at: float | None
    values: int
    programs: int
    executions: int
    failures: int
    seconds: float


class SessionStore:
    """The sessions of one Redis database.

    It holds no state of its own, so one per call is as good as one per process.

    Args:
        client: A client with ``decode_responses=False``.
        ttl: Seconds that a session lives after its last use, at least 0.001.

    Attributes:
        client: That client.
        ttl_ms: The time to live in milliseconds.

    Raises:
        ValueError: ``ttl`` is too small.
    """

    def __init__(self, client: redis.Redis, ttl: float = 3600.0) -> None:
        self.ttl_ms = round(ttl * 1000)
        if self.ttl_ms < 1:
            raise ValueError(f"A session's time to live is {ttl} s; allowed: 0.001 s or more.")
        self.client = client

    def create(self, session_id: str) -> bool:
        """Make sure that the session exists; return whether it is new.

        Raises:
            InvalidIdentifierError: The id is malformed.
        """
        check_identifier("session id", session_id)
        created, *_ = self._transaction(session_id, self._creation(session_id))
        return bool(created)

    def exists(self, session_id: str) -> bool:
        """Return whether the session exists, without counting as a use of it."""
        return bool(self.client.exists(keys.session(session_id)))

    def delete(self, session_id: str) -> bool:
        """Delete the session with its data and programs; return whether it existed."""
        with self.client.pipeline(transaction=True) as pipeline:
            pipeline.exists(keys.session(session_id))
            pipeline.unlink(*session_keys(session_id))
            existed, _ = pipeline.execute()
        return bool(existed)

    def put(self, session_id: str, name: str, value: Any) -> None:
        """Store ``value`` in the session's data, creating the session when needed.

        Args:
            session_id: The session.
            name: The value's name in the session.
            value: Anything that JSON can hold.

        Raises:
            InvalidIdentifierError: The session id or the name is malformed.
            TypeError: JSON has no form for a part of ``value``.
            ValueError: ``value`` contains itself, or a number that is not finite.
        """
        check_identifier("session id", session_id)
        check_identifier("name of a session's value", name)
        text = json.dumps(value, allow_nan=False)
        write = ("HSET", keys.session(session_id), f"data:{name}", text)
        self._transaction(session_id, self._creation(session_id), write)

    def get(self, session_id: str, name: str, default: Any = None) -> Any:
        """Return a value from the session's data, or ``default`` when it has none.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        read = ("HGET", keys.session(session_id), f"data:{name}")
        (text,) = self.use(session_id, read)
        return default if text is None else json.loads(text)

    def stats(self, session_id: str) -> SessionStatistics:
        """Return the session's numbers.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        fields, programs, counters = self.use(
            session_id,
            ("HGETALL", keys.session(session_id)),
            ("HLEN", keys.session_programs(session_id)),
            ("HGETALL", keys.session_statistics(session_id)),
        )
        totals = {"executions": 0.0, "failures": 0.0, "seconds": 0.0}
        for field, value in counters.items():
            counter = field.decode().rpartition(":")[2]
            if counter in totals:
                totals[counter] += float(value)
        created_at = fields.get(b"created_at")
        return SessionStatistics(
            session_id=session_id,
            created_at=None if created_at is None else float(created_at),
            values=sum(field.startswith(b"data:") for field in fields),
            programs=programs,
            executions=int(totals["executions"]),
            failures=int(totals["failures"]),
            seconds=totals["seconds"],
        )

    def _creation(self, session_id: str) -> tuple[str, ...]:
        """Return the command that makes the session when it does not exist."""
        return ("HSETNX", keys.session(session_id), "created_at", repr(time.time()))

    def use(self, session_id: str, *commands: tuple[str, ...]) -> list[Any]:
        """Run ``commands`` on the keys of a session that must exist, and renew it.

        Args:
            session_id: The session.
            *commands: Redis commands, which run all at once.

        Returns:
            The reply to each.

        Raises:
            SessionNotFoundError: There is no such session.
            InvalidIdentifierError: The id is malformed.
        """
        check_identifier("session id", session_id)
        existence = ("EXISTS", keys.session(session_id))
        exists, *replies = self._transaction(session_id, existence, *commands)
        if not exists and session_id != ANONYMOUS_SESSION:
            raise SessionNotFoundError(
                f"There is no session {session_id!r}, or it expired: a session lives "
                f"{self.ttl_ms / 1000:g} s after its last use. Create its programs again."
            )
        return replies

    def _transaction(self, session_id: str, *commands: tuple[str, ...]) -> list[Any]:
        """Run ``commands`` and renew the time to live, all at once; return their replies."""
        with self.client.pipeline(transaction=True) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
            for key in session_keys(session_id):
                pipeline.pexpire(key, self.ttl_ms)
            replies: list[Any] = pipeline.execute()
        return replies[: len(commands)]


def sessions_of(celery_app: Celery) -> SessionStore:
    """Return the sessions of an application, with the time to live of its settings.

    Raises:
        ConfigurationError: pooltasks is not installed on the application.
    """
    settings = settings_of(celery_app)
    return SessionStore(redis_client(celery_app), settings.session_ttl)


def name_of(session_id: str | None) -> str:
    """Return the session that a call means: the anonymous one when it names none."""
    return ANONYMOUS_SESSION if session_id is None else session_id


def check_identifier(what: str, value: object) -> None:
    """Raise InvalidIdentifierError, which calls it ``what``, unless ``value`` can be an id.

    An id is a printable text of 1 to 200 characters.
    """
    if not isinstance(value, str):
        problem = f"is of type {type(value).__name__}"
    elif not value:
        problem = "is empty"
    elif len(value) > LONGEST_IDENTIFIER:
        problem = f"has {len(value)} characters"
    elif not value.isprintable():
        problem = f"is {value!r}, which is not all printable"
    else:
        return
    raise InvalidIdentifierError(
        f"The {what} {problem}; allowed: 1 to {LONGEST_IDENTIFIER} printable characters."
    )


def session_keys(session_id: str) -> list[str]:
    """Return every key of a session: its data, its programs, their statistics."""
    return [
        keys.session(session_id),
        keys.session_programs(session_id),
        keys.session_statistics(session_id),
    ]
