"""The wire signature of a program: its inputs, its outputs, and their types.

``{"inputs": [{"name": "question", "type": "string"}], "outputs": [{"name":
"answer", "type": "string", "description": "one sentence"}]}``. It is checked here
completely, so that an error names the field that is wrong, long before a
language model is asked.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pooltasks.errors import InvalidInputsError, InvalidSignatureError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCALARS: dict[str, Any] = {
    "string": str,
    "str": str,
    "text": str,
    "integer": int,
    "int": int,
    "number": float,
    "float": float,
    "boolean": bool,
    "bool": bool,
    "list": list[Any],
    "array": list[Any],
    "object": dict[str, Any],
    "dict": dict[str, Any],
}
_LIST = re.compile(r"(?:list|array)\[(.+)\]")
_LONGEST_TYPE = 100  # characters; bounds the nesting too

ALLOWED_TYPES = (
    "string (str, text), integer (int), number (float), boolean (bool), list (array), "
    "list[TYPE] (array[TYPE]), object (dict)"
)
"""The types of a field, for people: each with its other spellings in parentheses."""


@dataclass(frozen=True, slots=True)
class Field:
    """One input or output of a program.

    Attributes:
        name: A Python identifier, not a keyword, without a leading underscore.
        type: As it was written; one of ``ALLOWED_TYPES``.
        description: For the language model; may be empty.
    """

    name: str
    type: str
    description: str = ""

    @property
    def python_type(self) -> Any:
        """The Python type that values of this field have, for example ``list[str]``."""
        return _python_type(self.type)

    def to_wire(self) -> dict[str, str]:
        """Return the field as it was written."""
        wire = {"name": self.name, "type": self.type}
        if self.description:
            wire["description"] = self.description
        return wire


@dataclass(frozen=True, slots=True)
class ProgramSignature:
    """The inputs and outputs of a program, at least one of each, no name twice."""

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]

    def to_wire(self) -> dict[str, list[dict[str, str]]]:
        """Return the wire form, which :func:`parse_signature` reads."""
        return {
            "inputs": [field.to_wire() for field in self.inputs],
            "outputs": [field.to_wire() for field in self.outputs],
        }

    def check_inputs(self, inputs: object) -> dict[str, Any]:
        """Return ``inputs`` as keyword arguments when they fit the signature.

        Values are never converted, except that a number may be a whole one.

        Raises:
            InvalidInputsError: Names are missing or too many, or values have the
                wrong type. The one message lists everything that is wrong.
        """
        expected = ", ".join(f"{field.name} ({field.type})" for field in self.inputs)
        if not isinstance(inputs, dict):
            raise InvalidInputsError(
                f"The inputs are of type {type(inputs).__name__}; give an object with: {expected}."
            )
        problems = [f"{field.name} is missing" for field in self.inputs if field.name not in inputs]
        names = {field.name for field in self.inputs}
        problems += [f"{name!r} is not an input" for name in inputs if name not in names]
        for field in self.inputs:
            if field.name in inputs and not _fits(inputs[field.name], field.python_type):
                got = type(inputs[field.name]).__name__
                problems.append(f"{field.name} must be {field.type}, not this {got}")
        if problems:
            raise InvalidInputsError(
                f"The inputs do not fit: {'; '.join(problems)}. The program takes: {expected}."
            )
        return dict(inputs)


def parse_signature(wire: object) -> ProgramSignature:
    """Read a signature from its wire form.

    Args:
        wire: ``{"inputs": [FIELD, …], "outputs": [FIELD, …]}`` where a FIELD is
            ``{"name": …, "type": …}`` with an optional ``"description"``.

    Raises:
        InvalidSignatureError: It has another shape. The message names the wrong field
            and what is allowed there.
    """
    sides = _object("The signature", wire, required=("inputs", "outputs"))
    inputs = _fields("inputs", sides["inputs"])
    outputs = _fields("outputs", sides["outputs"])
    places: dict[str, str] = {}
    for side, fields in (("inputs", inputs), ("outputs", outputs)):
        for index, field in enumerate(fields):
            place = f"{side}[{index}]"
            if field.name in places:
                raise InvalidSignatureError(
                    f"{place} has the name {field.name!r}, as {places[field.name]} has; "
                    f"give every input and output a name of its own."
                )
            places[field.name] = place
    return ProgramSignature(inputs, outputs)


def _fields(side: str, wire: object) -> tuple[Field, ...]:
    if not isinstance(wire, list | tuple):
        raise InvalidSignatureError(
            f"{side} is of type {type(wire).__name__}; "
            f"allowed: a list of objects with name and type."
        )
    if not wire:
        raise InvalidSignatureError(f"{side} is empty; a program needs at least one field there.")
    return tuple(_field(f"{side}[{index}]", field) for index, field in enumerate(wire))


def _field(place: str, wire: object) -> Field:
    entries = _object(place, wire, required=("name", "type"), optional=("description",))
    name, type_, description = entries["name"], entries["type"], entries.get("description", "")
    if (
        not isinstance(name, str)
        or not name.isidentifier()
        or keyword.iskeyword(name)
        or name.startswith("_")
    ):
        raise InvalidSignatureError(
            f"{place} has the name {name!r}; allowed: letters, digits and '_', beginning with a "
            f"letter, and no keyword of Python."
        )
    if not isinstance(type_, str) or not _is_type(type_):
        raise InvalidSignatureError(
            f"{place} ({name}) has the type {type_!r}; allowed: {ALLOWED_TYPES}."
        )
    if not isinstance(description, str):
        raise InvalidSignatureError(
            f"{place} ({name}) has a description of type {type(description).__name__}; "
            f"allowed: a text."
        )
    return Field(name, type_, description)


def _object(
    place: str, wire: object, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Mapping[str, Any]:
    """Return ``wire`` when it is an object with the required and no unknown keys."""
    allowed = ", ".join(required) + "".join(f", {key} (optional)" for key in optional)
    if not isinstance(wire, dict):
        raise InvalidSignatureError(
            f"{place} is of type {type(wire).__name__}; allowed: an object with {allowed}."
        )
    for key in required:
        if key not in wire:
            raise InvalidSignatureError(f"{place} has no {key}; it must have: {allowed}.")
    for key in wire:
        if key not in required + optional:
            raise InvalidSignatureError(f"{place} has an unknown key {key!r}; allowed: {allowed}.")
    return wire


def _is_type(name: str) -> bool:
    if len(name) > _LONGEST_TYPE:
        return False
    if nested := _LIST.fullmatch(name):
        return _is_type(nested[1])
    return name in _SCALARS


def _python_type(name: str) -> Any:
    if nested := _LIST.fullmatch(name):
        return list[_python_type(nested[1])]  # type: ignore[misc]  # the type is made at run time
    return _SCALARS[name]


def _fits(value: Any, type_: Any) -> bool:
    # Here: every worker has this module, and few run programs.
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415

    try:
        TypeAdapter(type_).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True
