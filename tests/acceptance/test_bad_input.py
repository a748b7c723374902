"""Each kind of bad input is one clear typed error, and the pool goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import NotRegistered
from deployment import DEADLINE, Deployment
from kombu.exceptions import EncodeError

from pooltasks.errors import (
    ConfigurationError,
    InvalidSignatureError,
    MessageTooLargeError,
    OperationRefusedError,
    ProgramNotFoundError,
    SessionNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CASES: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "unknown operation": (
        lambda pool: pool.execute("sample_operations.nothing"),
        NotRegistered,
        "sample_operations.nothing",
    ),
    "wrong arguments": (
        lambda pool: pool.execute("sample_operations.echo", [1, 2, 3]),
        TypeError,
        "positional argument",
    ),
    "unserialisable argument": (
        lambda pool: pool.execute("sample_operations.echo", [object()]),
        EncodeError,
        "not JSON serializable",
    ),
    "result that cannot be serialised": (
        lambda pool: pool.execute("sample_operations.unserialisable"),
        EncodeError,
        "not JSON serializable",
    ),
    "argument of 20 MB": (
        lambda pool: pool.execute("sample_operations.echo", ["x" * 20_000_000]),
        MessageTooLargeError,
        "the limit is",
    ),
    "result of 20 MB": (
        lambda pool: pool.execute("sample_operations.large", [20_000_000]),
        MessageTooLargeError,
        "the limit is",
    ),
    "unknown session": (
        lambda pool: pool.execute_in_session("s-none", "get_program_info", ["p"]),
        SessionNotFoundError,
        "s-none",
    ),
    "unknown program": (
        lambda pool: pool.execute("execute_program", ["p-none", {}]),
        (ProgramNotFoundError, SessionNotFoundError),
        "p-none|anonymous",
    ),
    "malformed signature": (
        lambda pool: pool.execute("create_program", ["p", {"inputs": [{"name": "q"}]}]),
        InvalidSignatureError,
        "outputs",
    ),
    "code that the pool does not allow": (
        lambda pool: pool.execute("execute_code", ["1 + 1"]),
        OperationRefusedError,
        "allow_execute_code",
    ),
    "queue of no pool": (
        lambda pool: pool.app.send_task("sample_operations.echo", queue="pool.none"),
        Exception,
        "pool.none",
    ),
    "pool that does not exist": (
        lambda pool: type(pool)("none", app=pool.app),
        ConfigurationError,
        "Pools: code",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_caller_gets_one_typed_error_and_the_pool_goes_on(
    serving: Deployment, case: str
) -> None:
    call, error, message = CASES[case]
    with pytest.raises(error, match=message):
        call(serving.pool)
    assert serving.pool.execute("sample_operations.echo", [case], timeout=DEADLINE) == case
    assert serving.nodes[0].poll() is None
