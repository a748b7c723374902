"""The wire signature: what is read, and what the errors say."""

from __future__ import annotations

from typing import Any

import pytest

from pooltasks.errors import InvalidInputsError, InvalidSignatureError
from pooltasks.operations.signature import ProgramSignature, parse_signature


def wire(name: Any = "question", type: Any = "string", **more: Any) -> dict[str, Any]:  # noqa: A002  the wire's word
    return {
        "inputs": [{"name": name, "type": type, **more}],
        "outputs": [{"name": "answer", "type": "text"}],
    }


def test_a_signature_is_the_same_after_a_round_trip():
    signature = {
        "inputs": [
            {"name": "question", "type": "str", "description": "in any words"},
            {"name": "limit", "type": "int"},
        ],
        "outputs": [{"name": "answers", "type": "list[string]"}],
    }
    parsed = parse_signature(signature)
    assert parsed.to_wire() == signature
    assert parse_signature(parsed.to_wire()) == parsed


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("string", str),
        ("str", str),
        ("text", str),
        ("integer", int),
        ("int", int),
        ("number", float),
        ("float", float),
        ("boolean", bool),
        ("bool", bool),
        ("list", list[Any]),
        ("array", list[Any]),
        ("list[string]", list[str]),
        ("array[list[integer]]", list[list[int]]),
        ("object", dict[str, Any]),
        ("dict", dict[str, Any]),
    ],
)
def test_each_type_has_its_python_type(name, expected):
    assert parse_signature(wire(type=name)).inputs[0].python_type == expected


@pytest.mark.parametrize(
    ("malformed", "message"),
    [
        (None, r"^The signature is of type NoneType; allowed: an object with inputs, outputs"),
        ("question -> answer", r"^The signature is of type str"),
        ({"inputs": [{"name": "q", "type": "str"}]}, r"^The signature has no outputs"),
        (wire() | {"extra": 1}, r"^The signature has an unknown key 'extra'"),
        (wire() | {"inputs": "question"}, r"^inputs is of type str; allowed: a list"),
        (wire() | {"outputs": []}, r"^outputs is empty"),
        (wire() | {"inputs": ["question"]}, r"^inputs\[0\] is of type str"),
        (wire() | {"outputs": [{"name": "a"}]}, r"^outputs\[0\] has no type"),
        (wire() | {"outputs": [{"type": "str"}]}, r"^outputs\[0\] has no name"),
        (wire(typ="string"), r"^inputs\[0\] has an unknown key 'typ'"),
        (wire(name="two words"), r"^inputs\[0\] has the name 'two words'; allowed: letters"),
        (wire(name="class"), r"^inputs\[0\] has the name 'class'"),
        (wire(name="_hidden"), r"^inputs\[0\] has the name '_hidden'"),
        (wire(name=7), r"^inputs\[0\] has the name 7"),
        (wire(name="answer"), r"^outputs\[0\] has the name 'answer', as inputs\[0\] has"),
        (wire(type="sting"), r"^inputs\[0\] \(question\) has the type 'sting'; allowed: string"),
        (wire(type="list[sting]"), r"has the type 'list\[sting\]'"),
        (wire(type="list[]"), r"has the type 'list\[\]'"),
        (wire(type="list[" * 5000 + "]" * 5000), r"has the type"),
        (wire(type=None), r"^inputs\[0\] \(question\) has the type None"),
        (wire(description=3), r"^inputs\[0\] \(question\) has a description of type int"),
    ],
)
def test_an_error_names_the_field_and_what_is_allowed(malformed, message):
    with pytest.raises(InvalidSignatureError, match=message):
        parse_signature(malformed)


@pytest.fixture
def signature() -> ProgramSignature:
    return parse_signature(
        {
            "inputs": [
                {"name": "question", "type": "string"},
                {"name": "weight", "type": "number"},
                {"name": "names", "type": "list[string]"},
            ],
            "outputs": [{"name": "answer", "type": "string"}],
        }
    )


def test_inputs_that_fit_come_back(signature):
    inputs = {"question": "why", "weight": 1, "names": ["a"]}
    assert signature.check_inputs(inputs) == inputs


def test_one_error_lists_all_that_is_wrong_with_the_inputs(signature):
    with pytest.raises(InvalidInputsError) as caught:
        signature.check_inputs({"weight": "heavy", "names": [1], "colour": "red"})
    message = str(caught.value)
    assert "question is missing" in message
    assert "'colour' is not an input" in message
    assert "weight must be number, not this str" in message
    assert "names must be list[string]" in message
    assert "takes: question (string), weight (number), names (list[string])" in message


@pytest.mark.parametrize("inputs", [None, "why", ["why"]])
def test_inputs_that_are_no_object_are_refused(signature, inputs):
    with pytest.raises(InvalidInputsError, match="give an object with: question"):
        signature.check_inputs(inputs)


def test_a_truth_value_is_no_number(signature):
    with pytest.raises(InvalidInputsError, match="weight must be number, not this bool"):
        signature.check_inputs({"question": "why", "weight": True, "names": []})
