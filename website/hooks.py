"""The hooks that MkDocs calls while it builds the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

from website.reference import PAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.nav import Navigation

ROOT = Path(__file__).parents[1]
GUIDES = "Guides"


def on_config(config: MkDocsConfig) -> None:
    """Add pages that the navigation does not name to the guides, in the order of their names."""
    nav: Any = config.nav
    listed = set(_paths(nav))
    found = (path.relative_to(config.docs_dir).as_posix() for path in _markdown(config.docs_dir))
    section = next(entry[GUIDES] for entry in nav if GUIDES in entry)
    section.extend(path for path in sorted(found) if path not in listed)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Make the reference and take the changelog in."""
    for name, page in PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=page()))
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    files.append(File.generated(config, "changelog.md", content=changelog))


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> None:
    """Make `llms.txt`: every page with its address and its first paragraph."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}"]
    section = None
    for page in nav.pages:
        owner = page.parent.title if page.parent else config.site_name
        if owner != section:
            section = owner
            lines += ["", f"## {section}", ""]
        title, summary = _summary(page.file.content_string)
        lines.append(f"- [{page.title or title}]({page.file.src_uri}): {summary}")
        # The pages themselves, as a program reads them.
        files.append(
            File.generated(config, f"{page.file.src_uri}.txt", content=page.file.content_string)
        )
    text = "\n".join(lines).replace(".md)", ".md.txt)") + "\n"
    files.append(File.generated(config, "llms.txt", content=text))


def on_page_content(html: str, **_: Any) -> str:
    """Leave out the roles of Sphinx that docstrings have before code."""
    return re.sub(r":(?:class|data|func|meth|mod):(?=<code>)", "", html)


def _paths(nav: Any) -> Iterator[str]:
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from _paths(value) if isinstance(value, list) else [value]


def _markdown(folder: str) -> Iterator[Path]:
    return Path(folder).rglob("*.md")


def _summary(text: str) -> tuple[str, str]:
    """Return the heading of a page and the first sentence under it."""
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    paragraph = re.search(r"^(?:# .+\n+)((?:[^\n#|`*].*\n?)+)", text, re.MULTILINE)
    first = " ".join(paragraph[1].split()) if paragraph else ""
    return (title[1] if title else ""), re.split(r"(?<=[.!?]) |:$", first)[0]
