"""Operations on the programs of a session.

Any worker executes any program: its definition comes from the session, and a
worker keeps the built program until the session has another definition of it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pooltasks.decorator import operation
from pooltasks.operations.dspy_programs import (
    BuiltProgram,
    ProgramDefinition,
    build,
    parse_definition,
)
from pooltasks.operations.program_cache import process_cache
from pooltasks.programs import StoredProgram, programs_of
from pooltasks.sessions import name_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pooltasks.task import Operation


@operation(name="pooltasks.operations.create_program", bind=True)
def create_program(  # noqa: PLR0917  the positions are those of the wire contract
    self: Operation,
    program_id: str,
    signature: dict[str, Any],
    program_type: str = "predict",
    instructions: str = "",
    tools: Sequence[str] = (),
    *,
    state: dict[str, Any] | None = None,
    session_id: str | None = None,
) -> dict[str, Any]:
    """Put a program into a session, in place of an earlier one of that id.

    It is built at once, so that all of its errors show here.

    Args:
        self: The task.
        program_id: Its name in the session: 1 to 200 printable characters.
        signature: ``{"inputs": [FIELD, …], "outputs": [FIELD, …]}``, a FIELD being
            ``{"name": …, "type": …}`` with an optional ``"description"``.
        program_type: ``predict``, ``chain_of_thought`` or ``react``.
        instructions: The task in words, for the language model.
        tools: Names of the operations that a ``react`` program may call.
        state: What ``dump_state()`` of the same program returned elsewhere.
        session_id: The session; by default the anonymous one. It is created
            when needed.

    Returns:
        ``program_id``, ``status`` ("created" or "replaced"), ``version`` (higher with
        every definition in the session), ``signature`` and ``program_type``.

    Raises:
        InvalidIdentifierError: The program id or the session id is malformed.
        InvalidSignatureError: The signature is malformed.
        ProgramError: Type, instructions, tools or state are wrong.
        MissingExtraError: DSPy is not installed in this worker's environment.
    """
    definition = parse_definition(signature, program_type, instructions, tools, state)
    built = build(definition, self.app)
    store = programs_of(self.app)
    stored, replaced = store.put(name_of(session_id), program_id, definition.to_json())
    process_cache().get(stored.session_id, program_id, stored.revision, lambda: built)
    return {
        "program_id": program_id,
        "status": "replaced" if replaced else "created",
        "version": stored.version,
        "signature": definition.signature.to_wire(),
        "program_type": definition.program_type,
    }


@operation(name="pooltasks.operations.execute_program", bind=True)
def execute_program(
    self: Operation, program_id: str, inputs: dict[str, Any], *, session_id: str | None = None
) -> dict[str, Any]:
    """Run a program of a session.

    Args:
        self: The task.
        program_id: The program.
        inputs: A value for every input of its signature, by name.
        session_id: The session; by default the anonymous one.

    Returns:
        ``outputs`` (a value for every output of the signature, by name),
        ``execution_time`` (seconds), ``program_id`` and ``version``.

    Raises:
        SessionNotFoundError: There is no such session.
        ProgramNotFoundError: The session has no such program.
        InvalidInputsError: The inputs do not fit the signature.
        ProgramError: There is no language model, or it failed.
        MissingExtraError: DSPy is not installed in this worker's environment.
    """
    store = programs_of(self.app)
    stored = store.get(name_of(session_id), program_id)

    def build_stored() -> BuiltProgram:
        return build(_definition_of(stored), self.app)

    program: BuiltProgram = process_cache().get(
        stored.session_id, program_id, stored.revision, build_stored
    )
    arguments = program.definition.signature.check_inputs(inputs)
    ok = False
    started = time.perf_counter()
    try:
        outputs = program.run(arguments)
        ok = True
    finally:
        seconds = time.perf_counter() - started
        store.record_execution(stored.session_id, program_id, seconds, ok=ok)
    return {
        "outputs": outputs,
        "execution_time": seconds,
        "program_id": program_id,
        "version": stored.version,
    }


@operation(name="pooltasks.operations.list_programs", bind=True)
def list_programs(self: Operation, *, session_id: str | None = None) -> list[dict[str, Any]]:
    """Return the programs of a session, in the order of their definition.

    Args:
        self: The task.
        session_id: The session; by default the anonymous one.

    Returns:
        For each program ``program_id``, ``program_type``, ``version``, ``created_at``
        (epoch seconds) and ``signature``.

    Raises:
        SessionNotFoundError: There is no such session.
    """
    programs = programs_of(self.app).all(name_of(session_id))
    return [_summary(program, _definition_of(program)) for program in programs]


@operation(name="pooltasks.operations.get_program_info", bind=True)
def get_program_info(
    self: Operation, program_id: str, *, session_id: str | None = None
) -> dict[str, Any]:
    """Return the definition of a program and its executions.

    Args:
        self: The task.
        program_id: The program.
        session_id: The session; by default the anonymous one.

    Returns:
        ``program_id``, ``program_type``, ``version``, ``created_at`` (epoch seconds),
        ``signature``, ``instructions``, ``tools``, and of this version ``executions``
        (failures included), ``failures``, ``average_seconds`` (None before the first
        execution) and ``last_executed_at`` (epoch seconds, or None).

    Raises:
        SessionNotFoundError: There is no such session.
        ProgramNotFoundError: The session has no such program.
    """
    store = programs_of(self.app)
    program = store.get(name_of(session_id), program_id)
    definition = _definition_of(program)
    statistics = store.statistics(program.session_id, program_id)
    return {
        **_summary(program, definition),
        "instructions": definition.instructions,
        "tools": list(definition.tools),
        "executions": statistics.executions,
        "failures": statistics.failures,
        "average_seconds": statistics.average_seconds,
        "last_executed_at": statistics.last_executed_at,
    }


@operation(name="pooltasks.operations.delete_program", bind=True)
def delete_program(
    self: Operation, program_id: str, *, session_id: str | None = None
) -> dict[str, Any]:
    """Delete a program of a session, with its statistics.

    Args:
        self: The task.
        program_id: The program.
        session_id: The session; by default the anonymous one.

    Returns:
        ``program_id`` and ``status`` ("deleted").

    Raises:
        SessionNotFoundError: There is no such session.
        ProgramNotFoundError: The session has no such program.
    """
    session = name_of(session_id)
    programs_of(self.app).delete(session, program_id)
    process_cache().discard(session, program_id)
    return {"program_id": program_id, "status": "deleted"}


def _definition_of(program: StoredProgram) -> ProgramDefinition:
    return parse_definition(**program.definition)


def _summary(program: StoredProgram, definition: ProgramDefinition) -> dict[str, Any]:
    return {
        "program_id": program.program_id,
        "program_type": definition.program_type,
        "version": program.version,
        "created_at": program.created_at,
        "signature": definition.signature.to_wire(),
    }
