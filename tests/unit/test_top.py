"""The screen of ``pooltasks top``: what a key does, and that it fits every terminal."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import fakeredis
import pytest
import redis
from rich.console import Console

from pooltasks.cli.top import feed as feeds
from pooltasks.cli.top.columns import POOLS, short, spark
from pooltasks.cli.top.feed import Feed, Reading
from pooltasks.cli.top.keyboard import names
from pooltasks.cli.top.painting import Painting
from pooltasks.cli.top.screen import TABS, Screen
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.error_groups import RECORD, Head, record_call
from pooltasks.metrics.sample import Sample
from pooltasks.metrics.samples import SampleStore
from pooltasks.pool_settings import Objective

if TYPE_CHECKING:
    from collections.abc import Callable

    from pooltasks.app import PoolApp

WORST = "13 % of the operations failed, most of them now with shop.charge: ValueError: no stock"


def line(pool: str, level: str = "good", **changes: Any) -> dict[str, Any]:
    return {
        "pool": pool,
        "at": 1_800_000_000.0,
        "verdict": {"level": level, "text": f"{pool} is {level}.", "blamed": [], "remedy": None},
        "wait": 0.01,
        "error_rate": 0.0,
        "nodes": {"live": 1, "drained": 0, "draining": 0, "lost": 0, "unreadable": 0},
        "utilization": 0.5,
        "throughput": 12.5,
        "size": 2,
        "target": 3,
        "warm": 2,
        "backlog": 0,
        "oldest_age": 0.0,
        "dead_letters": 0,
        "spark": [1.0, None, 5.0] * 20,
        **changes,
    }


def worker(pid: int, **changes: Any) -> dict[str, Any]:
    return {
        "pid": pid,
        "state": "warm",
        "busy": False,
        "outgoing": False,
        "running": 0,
        "operation": None,
        "id": None,
        "seconds": None,
        "cpu_share": 0.1,
        "memory": 70 << 20,
        "operations": 7,
        "age": 60.0,
        **changes,
    }


def node(name: str, *workers: dict[str, Any]) -> dict[str, Any]:
    numbers = dict.fromkeys(("size", "warm", "busy", "reserved", "restarts"), 1)
    about = {"silent": 0.5, "utilization": 0.2, "cpu": 0.1, "memory": None}
    return {"name": f"{name}/1", "celery_name": name, "state": "live", "workers": list(workers)} | (
        numbers | about
    )


ERROR = {
    "id": "e1",
    "operation": "shop.charge",
    "error": "ValueError",
    "message": "no stock for #",
    "place": "/srv/shop.py, line 12 in charge",
    "category": "python",
    "failed": 40,
    "retried": 0,
    "recent": 3,
    "first": 1_799_999_000.0,
    "last": 1_799_999_990.0,
}
PAGE = {
    "pool": "shop",
    "nodes": [
        node(
            "shop@a",
            worker(1),
            worker(2, busy=True, running=1, operation="shop.long", id="op-2", seconds=75.0),
        ),
        node(
            "shop@b", worker(3, busy=True, running=1, operation="shop.good", id="op-3", seconds=0.2)
        ),
    ],
    "operations": [
        {
            **dict.fromkeys(("count", "failed", "dead"), 3),
            **dict.fromkeys(("error_rate", "wait", "run", "share")),
            "name": "shop.charge",
        }
    ],
    "errors": [ERROR],
}
READING = Reading(
    at=1_800_000_000.0,
    pools=[
        line("shop", "bad", backlog=5),
        line("mail", "fair", backlog=700),
        line("idle", "off", size=None, wait=None),
    ],
    page=PAGE,
)


@pytest.fixture
def screen() -> Screen:
    its = Screen("redis://host/0")
    its.take(READING)
    return its


def press(screen: Screen, *keys: str) -> None:
    for key in keys:
        screen.press(key)


def painted(screen: Screen, width: int = 80, height: int = 24) -> list[str]:
    output = io.StringIO()
    console = Console(file=output, width=width, height=height, force_terminal=False)
    console.print(Painting(screen).render(width, height), end="")
    return output.getvalue().splitlines()


def shown(screen: Screen) -> list[str]:
    return [key for key, _ in screen.rows()]


def test_the_worst_pool_comes_first_and_its_sentence_stands_above(screen: Screen) -> None:
    assert shown(screen) == ["shop", "mail", "idle"]
    lines = painted(screen)
    assert "1 BAD" in lines[0]
    assert lines[1].startswith("shop: shop is bad.")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (132, 43), (40, 10)])
@pytest.mark.parametrize(
    "keys", [(), ("enter",), ("enter", "2"), ("enter", "3"), ("enter", "4"), ("?",), ("/", "x")]
)
def test_it_fills_every_terminal_and_no_line_is_too_long(
    screen: Screen, width: int, height: int, keys: tuple[str, ...]
) -> None:
    many = [line(f"pool-{number:03}", "bad") for number in range(200)]
    many[0]["verdict"]["text"] = WORST * 5
    screen.take(replace(READING, pools=[*READING.pools, *many]))
    press(screen, *keys)
    lines = painted(screen, width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width


def test_at_eighty_columns_the_numbers_that_matter_are_there(screen: Screen) -> None:
    heading = painted(screen)[4]
    for name in ("POOL", "STATE", "BACKLOG", "OLDEST", "WAIT", "ERR", "DEAD", "WARM", "SIZE"):
        assert name in heading
    wide = painted(screen, 200, 60)[3]
    assert all(column.heading in wide for column in POOLS)


def test_a_row_is_chosen_and_stays_chosen_when_rows_move(screen: Screen) -> None:
    press(screen, "down")
    assert (screen.chosen() or {})["pool"] == "mail"
    screen.take(replace(READING, pools=READING.pools[::-1]))
    assert (screen.chosen() or {})["pool"] == "mail"
    press(screen, "end", "down", "down")
    assert (screen.chosen() or {})["pool"] == "shop"
    press(screen, "home")
    assert (screen.chosen() or {})["pool"] == "idle"


def test_it_scrolls_to_what_is_chosen(screen: Screen) -> None:
    screen.take(replace(READING, pools=[line(f"p{number}") for number in range(100)]))
    assert not any(its.startswith("p99 ") for its in painted(screen))
    press(screen, "end")
    assert any(its.startswith("p99 ") for its in painted(screen))
    press(screen, "page up")
    painted(screen)
    assert (screen.chosen() or {})["pool"] not in {"p99", "p0"}


def test_rows_are_sorted_by_the_column_that_is_chosen_what_is_not_known_last(
    screen: Screen,
) -> None:
    headings = [column.heading for column in POOLS]
    press(screen, *["s"] * (headings.index("BACKLOG") + 1))
    assert shown(screen) == ["mail", "shop", "idle"]
    press(screen, "r")
    assert shown(screen) == ["idle", "shop", "mail"]
    press(screen, *["S"] * (headings.index("BACKLOG") + 1))
    assert shown(screen) == ["shop", "mail", "idle"]
    press(screen, *["s"] * (headings.index("SIZE") + 1))
    assert shown(screen)[-1] == "idle"


def test_every_column_can_be_sorted_by(screen: Screen) -> None:
    for tab in (None, *TABS):
        screen.pool, screen.tab = (None if tab is None else "shop"), tab or TABS[0]
        for _ in range(20):
            press(screen, "s", "r")
            assert shown(screen)


def test_a_filter_shows_only_rows_with_its_words(screen: Screen) -> None:
    press(screen, "/", *"ma", "q", "backspace", *"il", "enter")
    assert shown(screen) == ["mail"]
    assert not screen.is_over
    press(screen, "escape")
    assert len(shown(screen)) == 3
    press(screen, "/", *"nope", "enter")
    assert shown(screen) == []
    assert "No row has 'nope'." in "\n".join(painted(screen))
    press(screen, "down", "enter", "s")  # nothing to do, and no error


def test_one_goes_into_a_pool_a_node_and_an_error_and_back(screen: Screen) -> None:
    press(screen, "enter")
    assert screen.pool == "shop"
    # What runs longest comes first, who rests last.
    assert shown(screen) == ["shop@a 2", "shop@b 3", "shop@a 1"]
    assert "1m15s shop.long" in "\n".join(painted(screen))
    press(screen, "2", "down", "enter")
    assert shown(screen) == ["shop@b 3"]
    press(screen, "escape")
    assert screen.tab == "nodes"
    press(screen, "4", "enter")
    assert screen.error == "e1"
    assert "Reading…" in "\n".join(painted(screen))
    example = {
        "id": "op-9",
        "at": 1_799_999_990.0,
        "arguments": "order=5, password=***",
        "traceback": "Traceback\n  boom",
        "attempts": [],
        "attempt": 1,
        "node": "shop@a",
        "worker": 2,
    }
    screen.take(replace(READING, error={**ERROR, "title": "shop.charge: …", "example": example}))
    text = "\n".join(painted(screen))
    assert "order=5, password=***" in text
    assert "  boom" in text
    press(screen, "escape", "escape")
    assert screen.pool is None


def test_a_pause_holds_the_screen_still(screen: Screen) -> None:
    press(screen, "p")
    assert not screen.take(replace(READING, pools=[]))
    assert len(shown(screen)) == 3
    press(screen, "p")
    assert screen.take(replace(READING, pools=[]))


def test_while_the_server_is_away_the_last_numbers_stay_and_it_says_so(screen: Screen) -> None:
    screen.take(replace(READING, away="connection refused", away_since=1_800_000_000.0))
    lines = painted(screen)
    assert "has not answered since" in lines[0]
    assert "redis://host/0" in lines[0]
    assert any("mail" in its for its in lines)
    assert len(painted(Screen("redis://host/0"))) == 24  # before anything was read


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("\x1b[A\x1bOB\r", ["up", "down", "enter"]),
        ("\x1b", ["escape"]),
        ("\x1b[5~x", ["page up", "x"]),
        ("\x1b[15~q", ["unknown", "q"]),
        ("\x1b[1;5Cq", ["unknown", "q"]),
        ("/aé\x7f", ["/", "a", "é", "backspace"]),
    ],
)
def test_keys_have_names(text: str, keys: list[str]) -> None:
    assert list(names(text)) == keys


def test_durations_are_short() -> None:
    seconds = (0, 0.0123, 0.9999, 59.94, 61, 3599, 3700, 90_000, 8_640_000)
    assert [short(its) for its in seconds] == [
        *("0ms", "12ms", "1.0s", "59.9s", "1m01s", "59m", "1h01m", "1d01h", "100d00h")
    ]


def test_a_line_of_bars_leaves_out_what_is_not_known() -> None:
    assert spark([None] * 20) == " " * 20
    assert spark([0.0] * 20) == "▁" * 20
    assert spark([*[0.0] * 19, 5.0])[-2:] == "▁█"


class Server:
    """A server that can be away."""

    def __init__(self) -> None:
        self.client = fakeredis.FakeRedis()
        self.is_away = False

    def __getattr__(self, name: str) -> Any:
        if self.is_away:
            raise redis.ConnectionError("connection refused")
        return getattr(self.client, name)


def test_the_feed_reads_goes_on_without_the_server_and_comes_back(
    make_app: Callable[..., PoolApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    monkeypatch.setattr(feeds, "impatient_client", lambda _: server)
    monkeypatch.setattr(feeds.NodeWatch, "start", lambda _: None)
    app = make_app(pools={"shop": {}})
    store = SampleStore(server.client, "shop", ["pool.shop"], Objective())
    its = {"interval": 1.0, "size": 2, "warm": 2, "busy": 0, "reserved": 0, "reserved_age": 0.0}
    store.write("shop@a/1", Sample(0, counts=Counts(process=2.0), **its))
    head = Head("shop.charge", "ValueError", "no", "", "python", "")
    names_, arguments = record_call("shop", "a", 1, [(head, 1, 0, None)])
    server.client.eval(RECORD.text, len(names_), *names_, *arguments)

    feed = Feed(app, interval=0.05)
    feed.want("shop", head.group)
    feed.start()
    try:
        reading = _until(feed, lambda its: bool(its.pools))
        assert [row["pool"] for row in reading.pools] == ["shop", "control"]
        assert (reading.page or {})["pool"] == "shop"
        assert (reading.error or {})["id"] == head.group
        server.is_away = True
        away = _until(feed, lambda its: its.away is not None)
        assert away.pools
        server.is_away = False
        _until(feed, lambda its: its.away is None)
    finally:
        feed.close()
    feed.join(5)
    assert not feed.is_alive()


def _until(feed: Feed, is_so: Callable[[Reading], bool]) -> Reading:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        reading = feed.reading
        if is_so(reading):
            return reading
        time.sleep(0.01)  # between looks
    pytest.fail(f"not within 10 s: {feed.reading}")
