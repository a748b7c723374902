"""Operations that get a worker ready for DSPy: commands of the warm-up ``dspy``.

They change the worker that runs them, so they run as warm-up commands only: a message
would change one worker of many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pooltasks.decorator import operation
from pooltasks.errors import ProgramError
from pooltasks.operations.dspy_programs import import_dspy as load_dspy
from pooltasks.pool_settings import DSPY_MODEL

if TYPE_CHECKING:
    from pooltasks.task import Operation


@operation(name="pooltasks.operations.import_dspy")
def import_dspy() -> str:
    """Load DSPy, which takes half a second or more.

    Returns:
        Its version.

    Raises:
        MissingExtraError: DSPy is not installed in this worker's environment.
    """
    return str(load_dspy().__version__)


@operation(name="pooltasks.operations.configure_lm", bind=True)
def configure_lm(
    self: Operation, model: str = DSPY_MODEL, temperature: float = 0.0
) -> dict[str, Any]:
    """Choose the language model of this worker's programs. It is not called for that.

    Args:
        self: The task.
        model: As LiteLLM names it, for example ``openai/gpt-4o-mini``; its key is read from
            the environment when it is asked.
        temperature: Of the model's choice of words, 0 or more; 0 for the likeliest.

    Returns:
        ``model`` and ``temperature``.

    Raises:
        ProgramError: This is no warm-up.
        MissingExtraError: DSPy is not installed in this worker's environment.
    """
    if not self.request.called_directly:
        raise ProgramError(
            "configure_lm changes the one worker that runs it, so only a warm-up may: "
            "name it in the pool's warmup.commands."
        )
    dspy = load_dspy()
    # DSPy would keep every call of the worker's life, up to 10,000 of them.
    dspy.configure(lm=dspy.LM(model, temperature=temperature), trace=None, disable_history=True)
    return {"model": model, "temperature": temperature}
