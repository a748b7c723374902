"""The programs of sessions in Redis, and the executions of each.

A program is any JSON object under a name; :mod:`pooltasks.operations.programs`
knows its meaning and runs it.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pooltasks import keys
from pooltasks.errors import ProgramNotFoundError
from pooltasks.sessions import SessionStore, check_identifier, session_keys, sessions_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery

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
        definition: The stored definition, a JSON object.
    """

    session_id: str
    program_id: str
    version: int
    revision: str
    created_at: float
    definition: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ProgramStatistics:
    """The executions of a program's present definition.

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


class ProgramStore:
    """The programs of the sessions of one Redis database.

    Every use of a program is a use of its session, and renews it.

    Args:
        sessions: The sessions; as they, it holds no state of its own.
    """

    def __init__(self, sessions: SessionStore) -> None:
        self._sessions = sessions
        self._put = sessions.client.register_script(_PUT_PROGRAM)
        self._record = sessions.client.register_script(_RECORD_EXECUTION)

    def put(
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
        version, created = self._put(
            keys=session_keys(session_id),
            args=[
                program_id,
                json.dumps(record, allow_nan=False),
                repr(now),
                self._sessions.ttl_ms,
            ],
        )
        program = StoredProgram(session_id, program_id, int(version), revision, now, content)
        return program, not created

    def get(self, session_id: str, program_id: str) -> StoredProgram:
        """Return a program of the session.

        Raises:
            SessionNotFoundError: There is no such session.
            ProgramNotFoundError: The session has no such program.
            InvalidIdentifierError: An id is malformed.
        """
        check_identifier("program id", program_id)
        read = ("HGET", keys.session_programs(session_id), program_id)
        (value,) = self._sessions.use(session_id, read)
        if value is None:
            raise _program_not_found(session_id, program_id)
        return _program(session_id, program_id, value)

    def all(self, session_id: str) -> list[StoredProgram]:
        """Return every program of the session, ordered by version.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        (values,) = self._sessions.use(session_id, ("HGETALL", keys.session_programs(session_id)))
        programs = [
            _program(session_id, program_id.decode(), value) for program_id, value in values.items()
        ]
        return sorted(programs, key=lambda program: program.version)

    def delete(self, session_id: str, program_id: str) -> None:
        """Delete a program with its statistics.

        Raises:
            SessionNotFoundError: There is no such session.
            ProgramNotFoundError: The session has no such program.
            InvalidIdentifierError: An id is malformed.
        """
        check_identifier("program id", program_id)
        counters = [f"{program_id}:{name}" for name in ProgramStatistics.__dataclass_fields__]
        deleted, _ = self._sessions.use(
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
            self._record(
                keys=session_keys(session_id),
                args=[program_id, repr(seconds), failed, repr(time.time()), self._sessions.ttl_ms],
            )
        )

    def statistics(self, session_id: str, program_id: str) -> ProgramStatistics:
        """Return a program's counters: zeros for a program that never ran.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        names = list(ProgramStatistics.__dataclass_fields__)
        fields = [f"{program_id}:{name}" for name in names]
        (values,) = self._sessions.use(
            session_id, ("HMGET", keys.session_statistics(session_id), *fields)
        )
        executions, failures, seconds, last = values
        return ProgramStatistics(
            executions=int(executions or 0),
            failures=int(failures or 0),
            seconds=float(seconds or 0.0),
            last_executed_at=None if last is None else float(last),
        )


def programs_of(celery_app: Celery) -> ProgramStore:
    """Return the programs of an application's sessions.

    Raises:
        ConfigurationError: pooltasks is not installed on the application.
    """
    return ProgramStore(sessions_of(celery_app))


def _program(session_id: str, program_id: str, value: bytes) -> StoredProgram:
    version, _, record = value.partition(b" ")
    return StoredProgram(session_id, program_id, version=int(version), **json.loads(record))


def _program_not_found(session_id: str, program_id: str) -> ProgramNotFoundError:
    return ProgramNotFoundError(
        f"Session {session_id!r} has no program {program_id!r}. Create it with create_program; "
        f"list_programs names those that it has."
    )
