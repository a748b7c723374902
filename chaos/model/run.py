"""Run the model: many examples, from a seed."""

from __future__ import annotations

import logging
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from chaos.model.scripts import on_model_time
from chaos.model.stories import StoryMachine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.model.faults import Fault

STEPS = 30


def run_model(
    url: str,
    *,
    examples: int,
    number: int,
    steps: int = STEPS,
    fault: Fault | None = None,
    shrinks: bool = True,
) -> None:
    """Run examples of the model.

    Args:
        url: A database of a server, for the model alone: it is emptied.
        examples: How many.
        number: The seed.
        steps: Rules in each example at the most.
        fault: A fault to plant.
        shrinks: Whether a failure is made as short as possible.

    Raises:
        chaos.model.snapshot.ViolationError: The pool broke one of its promises.
    """
    kinds = fault.kinds if fault and fault.kinds else StoryMachine.kinds
    machine = seed(number)(type("SeededMachine", (StoryMachine,), {"url": url, "kinds": kinds}))
    phases = [Phase.generate, *([Phase.shrink] if shrinks else [])]
    its = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=[*HealthCheck],
        print_blob=False,
    )
    replacements = fault.replacements if fault else ()
    patched = fault.patched() if fault else nullcontext()
    with on_model_time(*replacements), patched, _quiet():
        run_state_machine_as_test(machine, settings=its)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the nodes' log: they break all the time here."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
