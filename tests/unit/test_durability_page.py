"""The page of promises names tests that exist, and the FAQ answers what newcomers asked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "durability.md").read_text("utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and "shown by" not in line]
ASKED = (
    *("dead letters", "retried", "beat_schedule", "chains", "priorities", "@shared_task"),
    *("TOML", "idempotent", "soft", "Django", "FastAPI", "SQLAlchemy", "test operations"),
    *("new code", "systemd", "Kubernetes", "without DSPy", "login", "keys"),
)
"""The questions that no page answered once."""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split(" | ")[0].strip("| "))
def test_a_promise_is_shown_by_a_test_that_exists(row: str) -> None:
    failure, promise, test = (cell.strip() for cell in row.strip("| ").split(" | "))
    assert failure
    assert promise.endswith(".")
    path, _, name = test.strip("`").partition("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE)


def test_the_page_covers_processes_the_server_and_messages() -> None:
    assert len(ROWS) > 25


@pytest.mark.parametrize("question", ASKED)
def test_the_faq_has_the_question(question: str) -> None:
    headings = re.findall(
        r"^### (.+)$", (ROOT / "docs" / "faq.md").read_text("utf-8"), re.MULTILINE
    )
    assert any(question.lower() in heading.lower() for heading in headings)
