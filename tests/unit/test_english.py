"""What a person reads is plain: short sentences, and none of the riddles that we had."""

from __future__ import annotations

import ast
import re
from itertools import chain
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from pooltasks.cli.main import main
from website.commands import each_command

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[2]
CHANGELOG = ROOT / "CHANGELOG.md"
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")})
TITLED = [
    *PAGES,
    *(ROOT / "scripts" / "README.md", ROOT / "examples" / "README.md"),
    ROOT / "pooltasks" / "cli" / "templates" / "README.md",
]
"""Pages whose headings and tables are read; a template's sentences are few."""
CLAUSE = re.compile(
    r"\W*(?:What|Who|Whose|Whoever|Whatever|Where|When|While|Which|Why|How|It|They|Those|Beside"
    r"|You)\b",
    re.IGNORECASE,
)
"""The begin of a clause in the place of a noun."""
LONGEST_MEDIAN = 17  # words
RIDDLES = (
    *("what was written behind it is taken back", "complete again what may not have arrived"),
    *("nobody publishes what has come", "whoever emits many may so save", "nobody looks: nothing"),
    *("a node that was cut off lets the expired", "does not answer since", "is called so"),
    *("none matches.", "1 pools", "has 1 operations", "a growth not worth", "to be gone in"),
    *("it only watches, for an hour: then", "have targets"),
    *("failed after 1 retries", "(tail factor"),
)
"""Sentences that readers did not understand. A riddle is what one has to read twice."""
SOURCES = ("*.py", "*.md", "*.js", "*.html", "*.lua")
READ = ("pooltasks", "docs", "scripts", "chaos", "benchmarks", "workers", "website")


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a page: no code, no tables, no headings."""
    text = re.sub(r"```.*?```|^---\n.*?\n---\n|<picture>.*?</picture>", "", text, flags=re.DOTALL)
    lines = (line for line in text.splitlines() if not line.startswith(("|", "#", "!", ":::")))
    paragraphs = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", "\n".join(lines))
    for paragraph in paragraphs:
        plain = re.sub(r"\]\([^)]*\)", "]", " ".join(paragraph.split()))
        for sentence in re.split(r"(?<=[.?!])(?:\*\*)? ", plain):
            if re.search(r"\w", sentence):
                yield sentence


def length(sentence: str) -> int:
    return len(re.findall(r"[\w'’./`-]*\w[\w'’./`-]*", re.sub(r"`[^`]*`", "code", sentence)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_half_of_a_page_s_sentences_are_short(page: Path) -> None:
    lengths = [length(sentence) for sentence in sentences(page.read_text("utf-8"))]
    assert median(lengths) <= LONGEST_MEDIAN


def without_code(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)


def in_tables(page: Path) -> Iterator[str]:
    """Yield the sentences in the tables of a page."""
    for line in without_code(page).splitlines():
        if line.startswith("|"):
            for cell in line.split("|"):
                yield from re.split(r"(?<=[.?!]) ", cell.strip())


def clauses(titles: Iterable[str]) -> list[str]:
    """Return the titles that are clauses; a question is none."""
    return [it for it in titles if CLAUSE.match(it) and not it.endswith("?")]


@pytest.mark.parametrize("page", TITLED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_heading_is_a_noun_or_a_question(page: Path) -> None:
    assert clauses(re.findall(r"^#+ (.+)$", without_code(page), re.MULTILINE)) == []


@pytest.mark.parametrize("page", TITLED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_columns_of_a_table_have_nouns(page: Path) -> None:
    heads = re.findall(r"^\|(.+)\|\n\|[-| :]+\|$", without_code(page), re.MULTILINE)
    assert clauses(cell.strip() for head in heads for cell in head.split("|")) == []


def test_a_clause_is_told_from_a_noun() -> None:
    wrong = ["What changes", "When it fails", "what it adds", "Who may", "How sure to be"]
    right = ["Must it be idempotent?", "How do I test?", "Whole pools", "Howto", "After the fork"]
    assert clauses([*wrong, *right]) == wrong


def test_an_entry_of_the_changelog_names_its_subject() -> None:
    entries = re.findall(r"^- (.+)$", CHANGELOG.read_text("utf-8"), re.MULTILINE)
    assert len(entries) > 100
    assert clauses(entries) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_sentence_names_the_thing_that_it_begins_with(page: Path) -> None:
    nameless = re.compile(r"(?:\W*)(?:What|Whoever|Whatever|Nobody) [^?]*$")
    found = [*sentences(page.read_text("utf-8")), *in_tables(page)]
    assert [its for its in found if nameless.match(its)] == []


def test_half_of_the_sentences_of_the_commands_help_are_short() -> None:
    texts = (command.help or "" for _, command in each_command(main))
    lengths = [length(sentence) for sentence in chain.from_iterable(map(sentences, texts))]
    assert median(lengths) <= LONGEST_MEDIAN


@pytest.mark.parametrize("command", ["", "dead", "rollout"])
def test_the_list_of_commands_is_not_cut_on_a_terminal_of_80_columns(command: str) -> None:
    said = CliRunner().invoke(main, [*command.split(), "--help"], terminal_width=80)
    listed = said.output.partition("Commands:\n")[2].splitlines()
    assert listed
    assert [line for line in listed if line.endswith("...")] == []


def test_sentences_are_counted_as_a_reader_does() -> None:
    text = "# Title\n\nOne two three. Four `a b c` five.\n\n| a table |\n\n- six\n- seven eight\n"
    assert [length(it) for it in sentences(text)] == [3, 3, 1, 2]


@pytest.mark.parametrize("folder", READ)
def test_no_riddle_is_left(folder: str) -> None:
    found = []
    for path in chain.from_iterable((ROOT / folder).rglob(pattern) for pattern in SOURCES):
        # A docstring is read as one text, whatever its lines.
        text = " ".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text("utf-8")).split()).lower()
        found += [(path.name, riddle) for riddle in RIDDLES if riddle in text]
    assert found == []


def docstrings(path: Path) -> Iterator[str]:
    """Yield the docstrings of a module, those of attributes too, each in one line."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield " ".join(text.split())


def test_a_docstring_names_the_thing_that_it_begins_with() -> None:
    nameless = re.compile(
        r"(?:What|Who|Whose|Whoever|Whatever|Nobody|Where|Why|Which|Those|Their|Of|By|In|With|To"
        r"|From) [`a-z]"
    )
    found = [
        (path.relative_to(ROOT).as_posix(), text)
        for path in sorted((ROOT / "pooltasks").rglob("*.py"))
        for text in docstrings(path)
        if nameless.match(text)
    ]
    assert found == []
