"""The site takes pages in that its navigation does not name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from website.hooks import _summary, on_config, on_page_content

if TYPE_CHECKING:
    from pathlib import Path


def test_a_new_page_is_among_the_guides(tmp_path: Path) -> None:
    for name in ("index.md", "new.md", "guides/old.md"):
        page = tmp_path / name
        page.parent.mkdir(exist_ok=True)
        page.touch()
    nav = [{"Start": "index.md"}, {"Guides": [{"Old": "guides/old.md"}]}]
    on_config(SimpleNamespace(nav=nav, docs_dir=str(tmp_path)))
    assert nav == [{"Start": "index.md"}, {"Guides": [{"Old": "guides/old.md"}, "new.md"]}]


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("# Title\n\nOne sentence. Another.\n", ("Title", "One sentence.")),
        ("# Title\n\nThese are:\n\n- a\n", ("Title", "These are")),
        ("# Title\n\n| a | b |\n", ("Title", "")),
    ],
)
def test_llms_txt_tells_of_a_page_by_its_first_sentence(
    text: str, summary: tuple[str, str]
) -> None:
    assert _summary(text) == summary


def test_the_roles_of_sphinx_are_left_out() -> None:
    assert on_page_content("see :class:<code>Pool</code>:") == "see <code>Pool</code>:"
