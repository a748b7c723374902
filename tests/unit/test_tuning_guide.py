"""The tuning guide: it explains every parameter of the policy, with its default and a picture."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks import tuning
from pooltasks.optimizer.policies import Tuning

GUIDE = Path(__file__).parents[2] / "docs" / "tuning.md"


@pytest.mark.parametrize("name", [its.name for its in fields(Tuning)])
def test_the_guide_explains_every_parameter_with_its_default(name):
    text = GUIDE.read_text("utf-8")
    assert f"- **`{name}`** ({getattr(Tuning(), name):g}" in text
    assert any(label.startswith(f"`{name}` ") for label in tuning.variants())


def test_the_rows_of_the_guide_are_those_that_are_measured():
    text = GUIDE.read_text("utf-8")
    assert [label for label in tuning.variants() if f"| {label} | " not in text] == []


def test_every_picture_is_there_and_can_be_drawn_again(tmp_path):
    text = GUIDE.read_text("utf-8")
    path = tuning.draw("growing", tmp_path)
    pictures = sorted(its.name for its in (GUIDE.parent / "pictures").glob("*.svg"))
    assert pictures == sorted(f"{name}.svg" for name in tuning.PICTURES)
    assert all(f"](pictures/{name})" in text for name in pictures)
    titles = re.compile(r"font-weight=.bold.>([^<]+)<")
    committed = (GUIDE.parent / "pictures" / path.name).read_text("utf-8")
    assert titles.findall(path.read_text("utf-8")) == titles.findall(committed) != []
