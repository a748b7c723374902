"""Programs as DSPy modules: from a definition in a session to an object that runs.

DSPy is imported when the first program is built, never with this module: it is
an optional dependency, and large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded

from pooltasks.errors import (
    InvalidSignatureError,
    MissingExtraError,
    PooltasksError,
    ProgramError,
)
from pooltasks.operations.signature import ProgramSignature, parse_signature

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Celery

PROGRAM_TYPES = ("predict", "chain_of_thought", "react")
"""The program types, each a module of DSPy: Predict, ChainOfThought, ReAct."""

# Arguments of DSPy's modules beside the inputs: an input of such a name would be
# taken for one.
_RESERVED_INPUTS = frozenset(
    [
        "self",
        "signature",
        "new_signature",
        "demos",
        "config",
        "lm",
        "prediction",
        "completions",
        "max_iters",
    ]
)
_RESERVED_BY_REACT = frozenset(["trajectory", "next_thought", "next_tool_name", "next_tool_args"])


@dataclass(frozen=True, slots=True)
class ProgramDefinition:
    """The definition of a program, checked as far as that is possible without DSPy.

    Attributes:
        signature: Its inputs and outputs.
        program_type: One of ``PROGRAM_TYPES``.
        instructions: The task in words, for the language model; empty for DSPy's own.
        tools: Names of operations that a ``react`` program may call.
        state: What ``dump_state()`` of the same program returned elsewhere, for
            example after optimizing it; None for a fresh one.
    """

    signature: ProgramSignature
    program_type: str = "predict"
    instructions: str = ""
    tools: tuple[str, ...] = ()
    state: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that :func:`parse_definition` reads."""
        return {
            "signature": self.signature.to_wire(),
            "program_type": self.program_type,
            "instructions": self.instructions,
            "tools": list(self.tools),
            "state": None if self.state is None else dict(self.state),
        }


@dataclass(frozen=True, slots=True)
class BuiltProgram:
    """A program that is ready to run. Threads may share it."""

    definition: ProgramDefinition
    module: Any
    """The DSPy module."""

    def run(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the language model.

        Args:
            arguments: A value for every input, as the signature's
                ``check_inputs`` returned them.

        Returns:
            A value for every output of the signature, by name. A chain of
            thought's ``reasoning`` is among them if the signature names it.

        Raises:
            ProgramError: No language model is configured in this worker, it
                failed, or its answer does not fit the signature.
        """
        outputs = self.definition.signature.outputs
        dspy = import_dspy()
        if dspy.settings.lm is None and any(p.lm is None for p in self.module.predictors()):
            raise ProgramError(
                "No language model is configured in this worker. Add an operation that calls "
                "dspy.configure(lm=dspy.LM(...)) to the pool's warm-up commands."
            )
        # DSPy would keep every call of this worker's life, up to 10,000 of them.
        with dspy.context(trace=None, disable_history=True):
            try:
                prediction = self.module(**arguments)
                return {field.name: prediction[field.name] for field in outputs}
            except (PooltasksError, SoftTimeLimitExceeded):
                raise
            # The errors of model clients are of many classes, and most of them
            # cannot be built again in the caller's process.
            except Exception as error:
                raise ProgramError(
                    f"The program failed: {type(error).__name__}: {error}"
                ) from error


def parse_definition(
    signature: object,
    program_type: object = "predict",
    instructions: object = "",
    tools: object = (),
    state: object = None,
) -> ProgramDefinition:
    """Check a definition and return it.

    Raises:
        InvalidSignatureError: The signature is malformed.
        ProgramError: Another part is malformed; the message says what is allowed.
    """
    parsed = parse_signature(signature)
    if program_type not in PROGRAM_TYPES:
        raise ProgramError(
            f"There is no program type {program_type!r}; allowed: {', '.join(PROGRAM_TYPES)}."
        )
    if not isinstance(instructions, str):
        raise ProgramError(
            f"instructions is of type {type(instructions).__name__}; allowed: a text."
        )
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, str) for tool in tools):
        raise ProgramError("tools is malformed; allowed: a list of names of operations.")
    if bool(tools) != (program_type == "react"):
        raise ProgramError(
            "A react program needs at least one tool."
            if program_type == "react"
            else f"Only react programs use tools, and this one is of type {program_type}."
        )
    if state is not None and not isinstance(state, dict):
        raise ProgramError(
            f"state is of type {type(state).__name__}; "
            "allowed: the object that dump_state() returned."
        )
    return ProgramDefinition(parsed, str(program_type), instructions, tuple(tools), state)


def build(definition: ProgramDefinition, celery_app: Celery) -> BuiltProgram:
    """Make the DSPy module of a definition; this needs no language model.

    Args:
        definition: The program.
        celery_app: The application whose operations its tools are.

    Raises:
        MissingExtraError: DSPy is not installed.
        InvalidSignatureError: A field has a name that DSPy uses itself.
        ProgramError: A tool does not exist or cannot be one, or the state is not
            that of such a program.
    """
    dspy = import_dspy()
    _refuse_reserved_names(dspy, definition)
    fields: dict[str, tuple[Any, Any]] = {}
    for make, side in (
        (dspy.InputField, definition.signature.inputs),
        (dspy.OutputField, definition.signature.outputs),
    ):
        for field in side:
            description = {"desc": field.description} if field.description else {}
            fields[field.name] = (field.python_type, make(**description))
    signature = dspy.Signature(fields, definition.instructions or None)
    if definition.program_type == "react":
        module = dspy.ReAct(signature, tools=_tools(dspy, definition.tools, celery_app))
    elif definition.program_type == "chain_of_thought":
        module = dspy.ChainOfThought(signature)
    else:
        module = dspy.Predict(signature)
    if definition.state is not None:
        try:
            module.load_state(dict(definition.state))
        except Exception as error:  # DSPy raises any error at the first wrong entry
            raise ProgramError(
                f"The state is not that of this program: {type(error).__name__}: {error}. "
                f"Give what dump_state() of a {definition.program_type} program of this signature "
                f"returned."
            ) from error
    return BuiltProgram(definition, module)


def import_dspy() -> Any:
    """Return the module of DSPy.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import dspy  # noqa: PLC0415  optional, and half a second
    except ModuleNotFoundError as error:
        if error.name != "dspy":  # DSPy is there, and something of its own is missing
            raise
        raise MissingExtraError(
            "Programs need DSPy, and this worker's environment has none: "
            "pip install 'pooltasks[dspy]'"
        ) from error
    return dspy


def _refuse_reserved_names(dspy: Any, definition: ProgramDefinition) -> None:
    reserved_by_type = _RESERVED_BY_REACT if definition.program_type == "react" else frozenset()
    for side, fields, reserved in (
        ("inputs", definition.signature.inputs, _RESERVED_INPUTS | reserved_by_type),
        ("outputs", definition.signature.outputs, reserved_by_type),
    ):
        for index, field in enumerate(fields):
            if field.name in reserved or hasattr(dspy.Signature, field.name):
                raise InvalidSignatureError(
                    f"{side}[{index}] has the name {field.name!r}, which DSPy uses itself; "
                    f"give it another name."
                )


def _tools(dspy: Any, names: Sequence[str], celery_app: Celery) -> list[Any]:
    """Return operations as DSPy tools: they run inside the program's own operation."""
    tools = []
    for name in names:
        task = celery_app.tasks.get(name)
        if task is None or name.startswith("celery."):
            known = ", ".join(n for n in sorted(celery_app.tasks) if not n.startswith("celery."))
            raise ProgramError(
                f"There is no operation {name!r} to use as a tool; there are: {known}."
            )
        try:
            tools.append(dspy.Tool(task.run, name=name, desc=task.__doc__ or name))
        except (NameError, TypeError, ValueError) as error:
            raise ProgramError(
                f"The operation {name!r} cannot be a tool, because the types of its arguments "
                f"cannot be read: {error}"
            ) from error
    return tools
