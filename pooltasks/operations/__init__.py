"""The built-in operations: any pool runs them, on any application with pooltasks.

They are Celery tasks called ``pooltasks.operations.<function>``. Those that take
``session_id`` work on that session, or on the shared anonymous one without it.
An error is raised, never hidden in a result.

| operation                                    | result                              |
|----------------------------------------------|-------------------------------------|
| ``ping()``                                   | that a worker answers, and which    |
| ``get_stats()``                              | worker and session in numbers       |
| ``cleanup_session()``                        | whether there was one to delete     |
| ``execute_code(code, inputs)``               | value and output; off by default    |
| ``create_program(program_id, signature, …)`` | version, and whether it is new      |
| ``execute_program(program_id, inputs)``      | outputs, and the run in seconds     |
| ``list_programs()``                          | short descriptions, oldest first    |
| ``get_program_info(program_id)``             | definition, counts and times        |
| ``delete_program(program_id)``               | its name                            |
| ``import_dspy()``                            | version; a warm-up command          |
| ``configure_lm(model, temperature)``         | both; only as a warm-up command     |
"""

from __future__ import annotations

from pooltasks.operations.builtin import cleanup_session, get_stats, ping
from pooltasks.operations.code import execute_code
from pooltasks.operations.programs import (
    create_program,
    delete_program,
    execute_program,
    get_program_info,
    list_programs,
)
from pooltasks.operations.warm_up import configure_lm, import_dspy

__all__ = [
    "cleanup_session",
    "configure_lm",
    "create_program",
    "delete_program",
    "execute_code",
    "execute_program",
    "get_program_info",
    "get_stats",
    "import_dspy",
    "list_programs",
    "ping",
]
