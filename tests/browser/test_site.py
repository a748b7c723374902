"""The documentation site: built strictly, read from its folder, with nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
LOADED = re.compile(
    r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"?(https?:)?//", re.IGNORECASE
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert [page.name for page in pages if LOADED.search(page.read_text("utf-8"))] == []
    assert LOADED.search('<script async src="https://cdn.example/x.js">')


def test_llms_txt_has_every_page_as_text(site: Path) -> None:
    listed = re.findall(r"\]\((.+?)\)", (site / "llms.txt").read_text("utf-8"))
    assert "reference/settings.md.txt" in listed
    assert [path for path in listed if not (site / path).is_file()] == []
    assert len(listed) == len([it for it in site.rglob("*.html") if it.name != "404.html"])


def test_the_search_works_from_the_folder(site: Path, browser: Browser) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{site.as_uri()}/index.html")
    page.locator(".md-search__input").fill("checkout_timeout")
    page.wait_for_selector(".md-search-result__item")
    found = page.locator(".md-search-result__link").evaluate_all(
        "links => links.map(it => it.href)"
    )
    page.close()
    assert any("reference/settings.html" in link for link in found)
    assert asked
    assert [url for url in asked if not url.startswith(("file:", "data:", "about:", "blob:"))] == []
