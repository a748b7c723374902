"""How the screen looks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Group
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from pooltasks.cli.top import columns
from pooltasks.cli.top.screen import COLUMNS, TABS

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from pooltasks.cli.top.columns import Column, Row
    from pooltasks.cli.top.screen import Screen, TableState

_HELP = """\
up, down, page up, page down, home, end   choose a row; j and k too
Enter    into the pool, the node or the error
Esc      back; backspace and left too
Tab      the next table of the pool; 1 workers, 2 nodes, 3 operations, 4 errors
s, S     sort by the next column, by the one before
r        sort the other way round
/        show only rows with these words; Esc ends it
p        pause: the screen stands still
?        these keys
q        end

Red is bad, yellow needs attention. Above the table stands what is wrong with
the pool that is chosen, and what to do about it."""

_WIDE = 140
"""Columns from which the sentence about a pool gets one line instead of two."""


@dataclass(frozen=True)
class Painting:
    """A screen as rich shows it."""

    screen: Screen

    def render(self, width: int, height: int) -> RenderableType:
        """Return the whole screen."""
        head = [self._title(width), *self._head(width)]
        foot = self._foot(width)
        if self.screen.shows_help:
            body: RenderableType = Text(_HELP)
        elif self.screen.error is not None:
            body = self._error_text(height - len(head) - len(foot))
        else:
            body = self._table(width, height - len(head) - len(foot))
        return Group(*head, _Box(body, height - len(head) - len(foot)), *foot)

    def _title(self, width: int) -> Text:
        reading = self.screen.reading
        clock = datetime.fromtimestamp(reading.at).strftime("%H:%M:%S") if reading.at else ""  # noqa: DTZ006  as the reader's clock
        levels = [row["verdict"]["level"] for row in reading.pools]
        left = Text.assemble(
            ("pooltasks top", "bold"),
            f"  {self.screen.server}  {len(levels)} pools",
            *(
                (f"  {levels.count(it)} {columns.WORDS[it]}", columns.LEVELS[it])
                for it in ("bad", "fair")
                if it in levels
            ),
        )
        if reading.away:
            since = datetime.fromtimestamp(reading.away_since).strftime("%H:%M:%S")  # noqa: DTZ006
            text = f"The server {self.screen.server} has not answered since {since}: {reading.away}"
            return _line(Text(text, style="bold white on red"), width)
        right = Text(f"{'paused  ' if self.screen.is_paused else ''}{clock}")
        gap = max(1, width - left.cell_len - right.cell_len)
        return _line(Text.assemble(left, " " * gap, right), width)

    def _head(self, width: int) -> list[Text]:
        row = self.screen.chosen() if self.screen.pool is None else self._line_of_pool()
        if row is None:
            what = "Reading…" if not self.screen.reading.at else "No row matches the filter."
            return [Text(what), *[Text("")] * (2 if width < _WIDE else 1)]
        its = row["verdict"]
        style = columns.LEVELS[its["level"]]
        title = Text.assemble((row["pool"], "bold"), ": ", (its["text"], style))
        lines = [title] if width >= _WIDE else _two_lines(title, width)
        remedy = Text(f"  {its['remedy'] or ''}")
        return [_line(line, width) for line in (*lines, remedy)]

    def _line_of_pool(self) -> Row | None:
        return next(
            (row for row in self.screen.reading.pools if row["pool"] == self.screen.pool), None
        )

    def _foot(self, width: int) -> list[Text]:
        if self.screen.is_typing:
            keys = Text.assemble(
                ("/", "bold"), self.screen.filter, ("█", "blink"), "  Enter: keep, Esc: end"
            )
        elif self.screen.pool is None:
            keys = Text("Enter open  s sort  r turn  / filter  p pause  ? help  q quit", "dim")
        else:
            tabs = [
                (f"{number} {name} ", "reverse" if name == self.screen.tab else "")
                for number, name in enumerate(TABS, 1)
            ]
            keys = Text.assemble(*tabs, ("  Esc back  / filter  ? help  q quit", "dim"))
        if self.screen.filter and not self.screen.is_typing:
            keys = Text.assemble((f"[{self.screen.filter}] ", "bold"), keys)
        return [_line(keys, width)]

    def _table(self, width: int, height: int) -> RenderableType:
        its, rows = self.screen.tables[self.screen.name], self.screen.rows()
        self.screen.height = max(1, height - 1)
        names = [name for name, _ in rows]
        if its.chosen not in names:
            its.chosen = names[0] if names else None
        at = names.index(its.chosen) if its.chosen else 0
        its.first = min(
            max(its.first, at - self.screen.height + 1), at, max(0, len(rows) - self.screen.height)
        )
        shown = [
            (number, column)
            for number, column in enumerate(COLUMNS[self.screen.name])
            if width >= column.least
        ]
        table = Table(box=None, padding=(0, 1, 0, 0), expand=True, pad_edge=False)
        has_flexible = any(column.flexible for _, column in shown)
        for number, column in shown:
            table.add_column(
                Text(_heading(column, its, number), style="bold reverse"),
                justify="right" if column.right else "left",
                no_wrap=True,
                overflow="ellipsis",
                ratio=1 if column.flexible else None,
            )
        if not has_flexible:
            table.add_column("", ratio=1)
        for name, row in rows[its.first : its.first + self.screen.height]:
            cells = [
                Text(column.cell(row), style=column.style(row) if column.style else "")
                for _, column in shown
            ]
            table.add_row(*cells, style="reverse" if name == its.chosen else "")
        return table if rows else Group(table, Text(self._nothing(), style="dim"))

    def _nothing(self) -> str:
        if self.screen.filter:
            return f"No row has {self.screen.filter!r}."
        page = self.screen.reading.page
        if self.screen.pool is not None and (page is None or page["pool"] != self.screen.pool):
            return "Reading…"
        return {
            "workers": "No node of this pool answers.",
            "nodes": "No node serves this pool.",
            "operations": "No operation ran in the last minute.",
            "errors": "No operation failed in the last seven days.",
        }.get(self.screen.tab, "Reading…")

    def _error_text(self, height: int) -> Text:
        its = self.screen.reading.error
        if its is None or its["id"] != self.screen.error:
            return Text("Reading…")
        lines = [
            Text(its["title"], style="bold red"),
            Text(
                f"{its['failed']} failed, {its['retried']} retried, "
                f"first {_moment(its['first'])}, last {_moment(its['last'])}, "
                f"category {its['category']}"
            ),
        ]
        example = its["example"]
        if example:
            who = f"worker {example['worker']} of " if example["worker"] else ""
            lines += [
                Text(
                    f"Operation {example['id']}, {_moment(example['at'])}, attempt "
                    f"{example['attempt']}, {who}{example['node']}"
                ),
                Text(f"Arguments: {example['arguments'] or 'not known'}"),
            ]
            trace = (example["traceback"] or "No traceback.").rstrip().splitlines()
            lines += [Text(line) for line in trace[-max(1, height - len(lines) - 3) :]]
        return Text("\n").join(lines)


def _heading(column: Column, its: TableState, number: int) -> str:
    if number != its.sort:
        return column.heading
    return f"{column.heading}{'▾' if column.descending != its.reverse else '▴'}"


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _two_lines(text: Text, width: int) -> list[Text]:
    """Return text in exactly two lines, of which the second may be too long."""
    first = text.plain.rfind(" ", 0, width + 1) if text.cell_len > width else -1
    if first <= 0:
        return [text, Text("")]
    return [text[:first], Text.assemble("  ", text[first + 1 :])]


def _line(text: Text, width: int) -> Text:
    """Return one line of text, cut where the terminal ends."""
    text.no_wrap = True
    text.truncate(width, overflow="ellipsis")
    return text


class _Box:
    """A renderable, cut and filled up to a height."""

    def __init__(self, body: RenderableType, height: int) -> None:
        self._body = body
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._body, options.update(height=None), pad=True)
        for line in lines[: self._height]:
            yield from line
            yield Segment.line()
        for _ in range(self._height - len(lines)):
            yield Segment.line()
