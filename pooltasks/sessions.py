"""Sessions in Redis: named data and programs that any worker of any pool can use.

A session exists from its first ``put``, ``put_program`` or ``create`` until it is
deleted or has not been used for its time to live. Every method that reads or
writes one renews the time to live of all of its keys in the same atomic step,
so no key is ever left without one, even when the session expires meanwhile.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pooltasks import keys
from pooltasks.app import settings_of
from pooltasks.broker.client import redis_client
from pooltasks.errors import InvalidIdentifierError, ProgramNotFoundError, SessionNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import redis
    from celery import Celery

ANONYMOUS_SESSION = "anonymous"
"""The session of calls that name none. It is shared by all of them and always
counts as existing: reading it before anything is in it is not an error."""

LONGEST_IDENTIFIER = 200
"""Characters of a session id or a program id, at most."""

# KEYS: the session's data, programs and statistics.
# ARGV: program id, JSON record, now (epoch seconds), time to live (ms).
# Returns {version, 1 if the program is new, else 0}.
# The version counts the definitions of the whole session: so it never repeats
# for an id, not even after a deletion, and costs one field however many ids.
_PUT_PROGRAM = """
redis.call('HSETNX', KEYS[1], 'created_at', ARGV[3])
local version = redis.call('HINCRBY', KEYS[1], 'version', 1)
local created = redis.call('HSET', KEYS[2], ARGV[1], version .. ' ' .. ARGV[2])
for _, counter in ipairs({'executions', 'failures', 'seconds', 'last_executed_at'}) do
  redis.call('HDEL', KEYS[3], ARGV[1] .. ':' .. counter)
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[4]) end
return {version, created}
"""

# KEYS: as above.
# ARGV: program id, run (s), 1 if it failed else 0, now (epoch seconds), time to live (ms).
# Returns 1, or 0 when the program is gone: then nothing is written, because a
# count without its program would be found by the next program of that name.
_RECORD_EXECUTION = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('HINCRBY', KEYS[3], ARGV[1] .. ':executions', 1)
redis.call('HINCRBY', KEYS[3], ARGV[1] .. ':failures', ARGV[3])
redis.call('HINCRBYFLOAT', KEYS[3], ARGV[1] .. ':seconds', ARGV[2])
redis.call('HSET', KEYS[3], ARGV[1] .. ':last_executed_at', ARGV[4])
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[5]) end
return 1
"""


@dataclass(frozen=True, slots=True)
class StoredProgram:
    """One definition of a program, as it stands in a session.

    Attributes:
        session_id: The session that it belongs to.
        program_id: Its name in the session.
        version: Positive; higher than that of every earlier definition in the session.
        revision: Random and unique: tells this definition from one with the same
            version in a session of the same name that expired.
        created_at: Epoch seconds.
        definition: What was stored, a JSON object.
    """

    session_id: str
    program_id: str
    version: int
    revision: str
    created_at: float
    definition: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ProgramStatistics:
    """What a program's present definition has done.

    Attributes:
        executions: Finished executions, failures included.
        failures: Those that raised.
        seconds: Their run, added up.
        last_executed_at: Epoch seconds, or None before the first execution.
    """

    executions: int = 0
    failures: int = 0
    seconds: float = 0.0
    last_executed_at: float | None = None

    @property
    def average_seconds(self) -> float | None:
        """The mean run in seconds, or None before the first execution."""
        return self.seconds / self.executions if self.executions else None


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

    Raises:
        ValueError: ``ttl`` is too small.
    """

    def __init__(self, client: redis.Redis, ttl: float = 3600.0) -> None:
        self._ttl_ms = round(ttl * 1000)
        if self._ttl_ms < 1:
            raise ValueError(f"A session's time to live is {ttl} s; allowed: 0.001 s or more.")
        self._client = client
        self._put_program = client.register_script(_PUT_PROGRAM)
        self._record_execution = client.register_script(_RECORD_EXECUTION)

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
        return bool(self._client.exists(keys.session(session_id)))

    def delete(self, session_id: str) -> bool:
        """Delete the session with its data and programs; return whether it existed."""
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.exists(keys.session(session_id))
            pipeline.unlink(*_session_keys(session_id))
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
        (text,) = self._use(session_id, read)
        return default if text is None else json.loads(text)

    def put_program(
        self, session_id: str, program_id: str, definition: Mapping[str, Any]
    ) -> tuple[StoredProgram, bool]:
        """Store a program, creating the session when needed.

        A program of the same id is replaced, with a higher version and with its
        statistics at zero.

        Args:
            session_id: The session.
            program_id: The program's name in the session.
            definition: A JSON object.

        Returns:
            The program as stored, and whether it replaced another.

        Raises:
            InvalidIdentifierError: An id is malformed.
            TypeError: JSON has no form for a part of the definition.
            ValueError: The definition contains itself, or a number that is not finite.
        """
        check_identifier("session id", session_id)
        check_identifier("program id", program_id)
        revision = uuid.uuid4().hex
        now = time.time()
        content = dict(definition)
        record = {"revision": revision, "created_at": now, "definition": content}
        version, created = self._put_program(
            keys=_session_keys(session_id),
            args=[program_id, json.dumps(record, allow_nan=False), repr(now), self._ttl_ms],
        )
        program = StoredProgram(session_id, program_id, int(version), revision, now, content)
        return program, not created

    def get_program(self, session_id: str, program_id: str) -> StoredProgram:
        """Return a program of the session.

        Raises:
            SessionNotFoundError: There is no such session.
            ProgramNotFoundError: The session has no such program.
            InvalidIdentifierError: An id is malformed.
        """
        check_identifier("program id", program_id)
        read = ("HGET", keys.session_programs(session_id), program_id)
        (value,) = self._use(session_id, read)
        if value is None:
            raise _program_not_found(session_id, program_id)
        return _program(session_id, program_id, value)

    def list_programs(self, session_id: str) -> list[StoredProgram]:
        """Return every program of the session, ordered by version.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        (values,) = self._use(session_id, ("HGETALL", keys.session_programs(session_id)))
        programs = [
            _program(session_id, program_id.decode(), value) for program_id, value in values.items()
        ]
        return sorted(programs, key=lambda program: program.version)

    def delete_program(self, session_id: str, program_id: str) -> None:
        """Delete a program with its statistics.

        Raises:
            SessionNotFoundError: There is no such session.
            ProgramNotFoundError: The session has no such program.
            InvalidIdentifierError: An id is malformed.
        """
        check_identifier("program id", program_id)
        counters = [f"{program_id}:{name}" for name in ProgramStatistics.__dataclass_fields__]
        deleted, _ = self._use(
            session_id,
            ("HDEL", keys.session_programs(session_id), program_id),
            ("HDEL", keys.session_statistics(session_id), *counters),
        )
        if not deleted:
            raise _program_not_found(session_id, program_id)

    def record_execution(
        self, session_id: str, program_id: str, seconds: float, *, ok: bool
    ) -> bool:
        """Count one execution of a program.

        Args:
            session_id: The session.
            program_id: The program.
            seconds: Its run.
            ok: Whether it returned; False when it raised.

        Returns:
            Whether it was counted: not when the program was deleted, or its
            session expired, while it ran.
        """
        failed = 0 if ok else 1
        return bool(
            self._record_execution(
                keys=_session_keys(session_id),
                args=[program_id, repr(seconds), failed, repr(time.time()), self._ttl_ms],
            )
        )

    def program_statistics(self, session_id: str, program_id: str) -> ProgramStatistics:
        """Return a program's counters: zeros for a program that never ran.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        names = list(ProgramStatistics.__dataclass_fields__)
        fields = [f"{program_id}:{name}" for name in names]
        (values,) = self._use(session_id, ("HMGET", keys.session_statistics(session_id), *fields))
        executions, failures, seconds, last = values
        return ProgramStatistics(
            executions=int(executions or 0),
            failures=int(failures or 0),
            seconds=float(seconds or 0.0),
            last_executed_at=None if last is None else float(last),
        )

    def stats(self, session_id: str) -> SessionStatistics:
        """Return the session's numbers.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        fields, programs, counters = self._use(
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

    def _use(self, session_id: str, *commands: tuple[str, ...]) -> list[Any]:
        """Run ``commands`` on a session that must exist; return their replies."""
        check_identifier("session id", session_id)
        existence = ("EXISTS", keys.session(session_id))
        exists, *replies = self._transaction(session_id, existence, *commands)
        if not exists and session_id != ANONYMOUS_SESSION:
            raise SessionNotFoundError(
                f"There is no session {session_id!r}, or it expired: a session lives "
                f"{self._ttl_ms / 1000:g} s after its last use. Create its programs again."
            )
        return replies

    def _transaction(self, session_id: str, *commands: tuple[str, ...]) -> list[Any]:
        """Run ``commands`` and renew the time to live, all at once; return their replies."""
        with self._client.pipeline(transaction=True) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
            for key in _session_keys(session_id):
                pipeline.pexpire(key, self._ttl_ms)
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


def _session_keys(session_id: str) -> list[str]:
    return [
        keys.session(session_id),
        keys.session_programs(session_id),
        keys.session_statistics(session_id),
    ]


def _program(session_id: str, program_id: str, value: bytes) -> StoredProgram:
    version, _, record = value.partition(b" ")
    return StoredProgram(session_id, program_id, version=int(version), **json.loads(record))


def _program_not_found(session_id: str, program_id: str) -> ProgramNotFoundError:
    return ProgramNotFoundError(
        f"Session {session_id!r} has no program {program_id!r}. Create it with create_program; "
        f"list_programs names those that it has."
    )
