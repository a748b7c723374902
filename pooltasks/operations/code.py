"""execute_code: Python source run in a worker, for pools that allow it."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import threading
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_task_logger

from pooltasks.app import current_pool, settings_of
from pooltasks.decorator import operation
from pooltasks.errors import OperationRefusedError, ProgramError

if TYPE_CHECKING:
    from celery import Celery

    from pooltasks.task import Operation

logger = get_task_logger(__name__)

_FILE = "<execute_code>"

# sys.stdout is one for the whole process, so two threads must not redirect it at
# once. Reentrant: the code may call execute_code itself.
_STDOUT = threading.RLock()


# Code that killed its worker would kill the next one too.
@operation(name="pooltasks.operations.execute_code", bind=True, idempotent=False)
def execute_code(
    self: Operation, code: str, inputs: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Run Python source in a namespace of its own.

    It runs with every right of the worker's process: allow it
    (``allow_execute_code = true``) only in a pool whose callers you trust.

    Args:
        self: The task.
        code: The source.
        inputs: Variables that it finds, by name.

    Returns:
        ``result``: the value of the variable ``result``, or, where that is not set,
        of the last line if it is an expression, else None; it must be JSON.
        ``stdout``: the text that was printed.

    Raises:
        OperationRefusedError: The pool does not allow it.
        SyntaxError: The source is not Python.
        ProgramError: The code called ``sys.exit``.
        Exception: Any error that the code raised.
    """
    _refuse_unless_allowed(self.app)
    # Not the code itself: it may hold secrets. The hash identifies it to people who have it.
    logger.warning(
        "execute_code %s: code of %d characters runs, sha256 %s, sent by %s",
        self.request.id,
        len(code),
        hashlib.sha256(code.encode("utf-8", "surrogatepass")).hexdigest(),
        self.request.origin,
    )
    tree = ast.parse(code, _FILE)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    # Named as a script's, so that the code under ``if __name__ == "__main__"`` runs.
    namespace: dict[str, Any] = {"__name__": "__main__", **(inputs or {})}
    value = None
    stdout = io.StringIO()
    try:
        with _STDOUT, contextlib.redirect_stdout(stdout):
            # dont_inherit: this module's __future__ imports are not the code's.
            exec(compile(tree, _FILE, "exec", dont_inherit=True), namespace)  # noqa: S102  what it is for
            if isinstance(last, ast.Expr):
                flags = 0
                expression = ast.Expression(last.value)
                compiled = compile(expression, _FILE, "eval", flags, dont_inherit=True)
                value = eval(compiled, namespace)  # noqa: S307  as exec
    except SystemExit as error:
        # The exit would end the worker, and the operation would be tried again or lost.
        raise ProgramError(
            f"The code called sys.exit({error.code!r}); set the variable 'result' instead."
        ) from error
    return {"result": namespace.get("result", value), "stdout": stdout.getvalue()}


def _refuse_unless_allowed(celery_app: Celery) -> None:
    pool = current_pool()
    if pool is None:
        raise OperationRefusedError(
            "execute_code runs only in a worker of a pool that allows it, and this process is none."
        )
    if not settings_of(celery_app).pool_settings(pool).allow_execute_code:
        raise OperationRefusedError(
            f"Pool {pool!r} does not allow execute_code. Set allow_execute_code = true in "
            f"[pools.{pool}] if everyone who can send operations may run any code there."
        )
