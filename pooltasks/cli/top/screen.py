"""The state of the screen, and what a key does to it; ``painting`` draws it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pooltasks.cli.top import columns
from pooltasks.cli.top.feed import Reading

if TYPE_CHECKING:
    from collections.abc import Callable

    from pooltasks.cli.top.columns import Column, Row

TABS = ("workers", "nodes", "operations", "errors")
COLUMNS: dict[str, tuple[Column, ...]] = {
    "pools": columns.POOLS,
    "workers": columns.WORKERS,
    "nodes": columns.NODES,
    "operations": columns.OPERATIONS,
    "errors": columns.ERRORS,
}
_ALL = 1_000_000
_FIRST_SORTED = {"workers": "FOR", "nodes": "NODE", "operations": "COUNT", "errors": "LAST"}
"""The column by which a table is sorted at first; pools keep their order, the worst first."""


@dataclass
class TableState:
    """How one table is shown."""

    sort: int | None = None
    """The number of the column that it is sorted by; None: as it came."""
    reverse: bool = False
    chosen: str | None = None
    """Key of the chosen row."""
    first: int = 0
    """Number of the first row that is visible."""


@dataclass
class Screen:
    """The state of the screen; it neither reads nor writes anything itself.

    Args:
        server: The server's address, without its password.
        pool: The pool that is shown in full; None: the list of all.
    """

    server: str
    pool: str | None = None
    reading: Reading = field(default_factory=Reading)
    tab: str = TABS[0]
    node: str | None = None
    """The node whose workers are shown; None: all."""
    error: str | None = None
    """The kind of errors that is shown in full."""
    filter: str = ""
    is_typing: bool = False
    """Whether keys go into the filter."""
    is_paused: bool = False
    shows_help: bool = False
    is_over: bool = False
    tables: dict[str, TableState] = field(default_factory=dict)
    height: int = 20
    """Rows of the table at the last rendering."""

    def __post_init__(self) -> None:
        for name, its in COLUMNS.items():
            headings = [column.heading for column in its]
            first = _FIRST_SORTED.get(name)
            self.tables[name] = TableState(headings.index(first) if first else None)

    def take(self, reading: Reading) -> bool:
        """Show a new reading, unless the screen stands still; return whether it changed."""
        if self.is_paused or reading is self.reading:
            return False
        self.reading = reading
        return True

    @property
    def name(self) -> str:
        """Name of the table that is shown."""
        return "pools" if self.pool is None else self.tab

    # Keys.

    def press(self, key: str) -> None:
        """Carry out the command of a key."""
        if self.is_typing:
            self._type(key)
        elif self.shows_help:
            self.shows_help = False
        else:
            action = self._actions().get(key)
            if action is not None:
                action()

    def _actions(self) -> dict[str, Callable[[], None]]:
        return {
            **dict.fromkeys(("up", "k"), partial(self.move, -1)),
            **dict.fromkeys(("down", "j"), partial(self.move, 1)),
            "page up": partial(self.move, -self.height),
            "page down": partial(self.move, self.height),
            "home": partial(self.move, -_ALL),
            "end": partial(self.move, _ALL),
            **dict.fromkeys(("enter", "right"), self.enter),
            **dict.fromkeys(("escape", "backspace", "left"), self.back),
            "tab": partial(self.next_tab, 1),
            "back tab": partial(self.next_tab, -1),
            "s": partial(self.sort, 1),
            "S": partial(self.sort, -1),
            "r": self.turn,
            "/": partial(setattr, self, "is_typing", True),
            "p": partial(setattr, self, "is_paused", not self.is_paused),
            "?": partial(setattr, self, "shows_help", True),
            "q": partial(setattr, self, "is_over", True),
            **{str(number): partial(self.show_tab, tab) for number, tab in enumerate(TABS, 1)},
        }

    def _type(self, key: str) -> None:
        if key in {"enter", "escape"}:
            self.is_typing = False
            if key == "escape":
                self.filter = ""
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif len(key) == 1 and key.isprintable():
            self.filter += key

    def move(self, by: int) -> None:
        """Choose another row."""
        rows = [key for key, _ in self.rows()]
        if not rows:
            return
        its = self.tables[self.name]
        at = rows.index(its.chosen) if its.chosen in rows else 0
        its.chosen = rows[min(len(rows) - 1, max(0, at + by))]

    def enter(self) -> None:
        """Go into the chosen row."""
        chosen = self.chosen()
        if chosen is None or self.error is not None:
            return
        if self.pool is None:
            self.pool, self.tab, self.filter = chosen["pool"], TABS[0], ""
        elif self.tab == "nodes":
            self.node, self.tab = chosen["celery_name"], "workers"
        elif self.tab == "errors":
            self.error = chosen["id"]

    def back(self) -> None:
        """Go back to the table before."""
        if self.error is not None:
            self.error = None
        elif self.filter:
            self.filter = ""
        elif self.node is not None:
            self.node, self.tab = None, "nodes"
        else:
            self.pool = None

    def show_tab(self, tab: str) -> None:
        """Show one of the tables of a pool."""
        if self.pool is not None:
            self.tab, self.node, self.error = tab, None, None

    def next_tab(self, by: int) -> None:
        """Show the next table of the pool, or the one before it."""
        self.show_tab(TABS[(TABS.index(self.tab) + by) % len(TABS)])

    def sort(self, by: int) -> None:
        """Sort by the next column, or the one before; after the last, keep the rows' own order."""
        its, number = self.tables[self.name], len(COLUMNS[self.name])
        order = [None, *range(number)]
        place = (order.index(its.sort) + by) % len(order)
        its.sort, its.reverse = order[place], False

    def turn(self) -> None:
        """Sort the other way round."""
        its = self.tables[self.name]
        its.reverse = not its.reverse

    # Rows.

    def _all_rows(self) -> list[tuple[str, Row]]:
        if self.pool is None:
            return [(row["pool"], row) for row in self.reading.pools]
        page = self.reading.page
        if page is None or page["pool"] != self.pool:
            return []
        if self.tab == "nodes":
            return [(row["name"], row) for row in page["nodes"]]
        if self.tab == "operations":
            return [(row["name"], row) for row in page["operations"] or []]
        if self.tab == "errors":
            now = self.reading.at
            return [
                (row["id"], {**row, "ago": max(0.0, now - row["last"])}) for row in page["errors"]
            ]
        return [
            (f"{node['celery_name']} {worker['pid']}", {**worker, "node": node["celery_name"]})
            for node in page["nodes"]
            if self.node in {None, node["celery_name"]}
            for worker in node["workers"] or []
        ]

    def rows(self) -> list[tuple[str, Row]]:
        """Return the rows of the table, filtered and sorted, each with its key."""
        its, shown = self.tables[self.name], COLUMNS[self.name]
        rows = self._all_rows()
        if self.filter:
            words = self.filter.lower().split()
            texts = {key: " ".join(one.cell(row) for one in shown).lower() for key, row in rows}
            rows = [(key, row) for key, row in rows if all(word in texts[key] for word in words)]
        if its.sort is not None:
            column = shown[its.sort]
            known = [row for row in rows if column.value(row[1]) is not None]
            rest = [row for row in rows if column.value(row[1]) is None]
            known.sort(
                key=lambda row: _comparable(column.value(row[1])),
                reverse=column.descending != its.reverse,
            )
            return known + rest
        return rows[::-1] if its.reverse else rows

    def chosen(self) -> Row | None:
        """Return the chosen row."""
        rows = self.rows()
        key = self.tables[self.name].chosen
        return next((row for name, row in rows if name == key), rows[0][1] if rows else None)


def _comparable(value: Any) -> Any:
    return sorted(value.items()) if isinstance(value, dict) else value
