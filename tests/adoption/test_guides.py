"""What the tutorial and the guides show runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from project import Project

DOCS = Path(__file__).parents[2] / "docs"
BOX = re.compile(r"```(?:python|toml)\n(.*?)```", re.DOTALL)
NAMED = re.compile(r"# (\S+\.\w+)\n")
INLINE = "from pooltasks import app\nfrom pooltasks.testing import inline\n\nwith inline(app):\n"


@pytest.mark.parametrize("page", ["tutorial.md", "guides/operations.md", "guides/programs.md"])
def test_the_examples_run(tmp_path, valkey_url, page):
    files, programs = {}, []
    for box in BOX.findall((DOCS / page).read_text("utf-8")):
        if name := NAMED.match(box):
            files[name[1]] = box
        else:
            programs.append(box)
    assert files
    assert programs
    if "dspy" in "".join(files.values()):
        pytest.importorskip("dspy")
        # A node runs the warm-up before it takes operations; inline there is no node.
        programs.insert(0, "from models import configure\nconfigure()\n")
    # Into one program: they read on from one another, as their readers do.
    lines = "".join(programs).splitlines(keepends=True)
    with Project(tmp_path, files, POOLTASKS_REDIS_URL=valkey_url) as project:
        assert project.python(INLINE + "".join(f"    {line}" for line in lines)) == []
