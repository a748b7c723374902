"""What contributors read names commands, files and settings that there are."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from pooltasks.pool_settings import PoolSettings
from pooltasks.settings import Settings

ROOT = Path(__file__).parents[2]
ISSUES = ROOT / ".github" / "ISSUE_TEMPLATE"
PAGES = [
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / ".github" / "pull_request_template.md",
    *sorted(ISSUES.glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_and_link_of_a_page_leads_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    paths = {
        *re.findall(r"\]\((?!https:)([^)]+)\)", text),
        *re.findall(r"(?<![./\w])(?:scripts|docs|tests|config|pooltasks)/[\w./]*\w", text),
        *re.findall(r"\b[A-Z]+\.md\b", text),
    }
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    scripts = [ROOT / path for path in paths if re.fullmatch(r"scripts/\w+", path)]
    assert [script for script in scripts if not os.access(script, os.X_OK)] == []


def test_the_readme_has_every_extra_for_users() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    table = (ROOT / "README.md").read_text("utf-8").partition("| extra | adds |")[2]
    assert {*re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)} == (
        project["optional-dependencies"].keys() - {"dev", "docs"}
    )


def test_the_settings_that_the_security_page_names_are_settings() -> None:
    assert PoolSettings.model_fields["allow_execute_code"].default is False
    assert {"key_prefix", "redis_url"} <= Settings.model_fields.keys()
    assert "`allow_execute_code = true`" in (ROOT / "SECURITY.md").read_text("utf-8")


@pytest.mark.parametrize("page", sorted(ISSUES.glob("*.md")), ids=lambda page: page.name)
def test_an_issue_template_says_what_it_is_for(page: Path) -> None:
    _, front, body = page.read_text("utf-8").split("---\n", 2)
    assert yaml.safe_load(front).keys() == {"name", "about", "labels"}
    assert body.strip()


def test_a_weakness_is_reported_in_private() -> None:
    (contact,) = yaml.safe_load((ISSUES / "config.yml").read_text("utf-8"))["contact_links"]
    assert contact["url"].endswith("/security/advisories/new")
