"""The pool ``programs``: questions to a language model, asked with DSPy.

Its warm-up runs :func:`configure_lm` in every worker. With the model ``dummy``,
as in ``config/pools.toml``, it works without a network and without a key.
"""

from __future__ import annotations

import functools
from typing import Any

from pooltasks import operation

DUMMY_MODEL = "dummy"
DUMMY_ANSWER = "This is the dummy language model; configure_lm names a real one."


@operation(pool="programs")
def configure_lm(model: str = DUMMY_MODEL, temperature: float = 0.0) -> dict[str, Any]:
    """Choose the language model of the worker that runs this: a warm-up command.

    Args:
        model: As LiteLLM names it, for example ``openai/gpt-4o-mini``, with its key
            in the environment; or ``dummy``, which says the same to everything.
        temperature: Of the model's choice of words, 0 or more; 0 for the likeliest.

    Returns:
        ``model`` and ``temperature``.
    """
    import dspy  # noqa: PLC0415  large: only the workers of this pool load it
    from dspy.utils import DummyLM  # noqa: PLC0415  as dspy

    if model == DUMMY_MODEL:
        # It matches what an answer stands for in the prompt: "" is in all of them.
        lm = DummyLM({"": {"reasoning": DUMMY_ANSWER, "answer": DUMMY_ANSWER}})
    else:
        lm = dspy.LM(model, temperature=temperature)
    # DSPy would keep every call of the worker's life, up to 10,000 of them.
    dspy.configure(lm=lm, trace=None, disable_history=True)
    return {"model": model, "temperature": temperature}


@operation(pool="programs")
def answer(question: str) -> dict[str, str]:
    """Answer a question, thinking first.

    Args:
        question: In any words.

    Returns:
        ``answer``, and the ``reasoning`` that led to it.

    Raises:
        ValueError: No language model is configured in this worker.
    """
    prediction = _chain_of_thought()(question=question)
    return {"answer": prediction.answer, "reasoning": prediction.reasoning}


@functools.cache
def _chain_of_thought() -> Any:
    import dspy  # noqa: PLC0415  as in configure_lm

    return dspy.ChainOfThought("question -> answer")
