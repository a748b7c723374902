"""The pages of the pools, as an operator sees and uses them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from dashboard_process import ACCOUNT, running
from deployment import DEADLINE, wait_until
from stage import LIVE, SCREENSHOTS, WIDTHS

from pooltasks import keys
from pooltasks.broker.client import redis_client
from pooltasks.broker.dead_letters import DeadLetters

if TYPE_CHECKING:
    from collections.abc import Callable

    from stage import Scene, Watched

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("worked"), pytest.mark.long]

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def query(watched: Watched) -> dict[str, list[str]]:
    return parse_qs(urlsplit(watched.page.url).query)


def shown(watched: Watched, function: str, value: Any) -> str:
    """Return how the page writes a value."""
    return watched.page.evaluate(
        """async ([name, value]) => {
            const script = document.querySelector('script[type=module]').src;
            const format = await import(script.replace(/[^/]+$/, 'format.js'));
            return format[name](value);
        }""",
        [function, value],
    )


@pytest.fixture(scope="module")
def worked(scene: Scene) -> Scene:
    """After some operations, a tenth of which failed."""
    results = [scene.pool.submit("sample_operations.add", [n]) for n in range(36)]
    results += [scene.pool.submit("sample_operations.fail") for _ in range(4)]
    for result in results:
        result.get(timeout=DEADLINE, propagate=False)
    wait_until(
        lambda: (scene.pool.metrics(300).work.operations or {}).get("failure") == 4,
        "the operations are counted",
    )
    return scene


def test_the_numbers_on_the_page_are_those_of_the_pool(
    worked: Scene, watch: Callable[..., Watched]
) -> None:
    watched = watch("/pools/code")
    watched.wait_for(LIVE, "the page is live")
    metrics = worked.pool.metrics(300)
    work, load = metrics.work, metrics.load
    watched.wait_for(
        "document.getElementById('finished').textContent.startsWith('41 operations')",
        "every operation is shown",
    )
    assert watched.text("#wait") == shown(watched, "duration", work.wait.p99)
    assert watched.text("#error-rate") == shown(watched, "percent", work.error_rate)
    assert "4 of 41 failed" in watched.text("#failures")
    assert "python 4" in watched.text("#failures")
    for name, quantiles in (("wait", work.wait), ("run", work.run), ("latency", work.latency)):
        cells = watched.page.locator(f"[data-of={name}] td").all_inner_texts()
        expected = [getattr(quantiles, part) for part in ("mean", "p50", "p90", "p99", "p999")]
        assert cells == [shown(watched, "duration", value) for value in expected]
    facts = dict(
        zip(
            watched.page.locator("#facts dt").all_inner_texts(),
            watched.page.locator("#facts dd").all_inner_texts(),
            strict=True,
        )
    )
    assert facts["Size → target"] == f"{load.size} → —"
    assert facts["Idle"] == str(load.warm - load.busy)
    assert facts["Busy"] == facts["In the queue"] == facts["Backlog"] == "0"
    utilization, gauge = watched.page.evaluate(
        "[document.getElementById('utilization').textContent, "
        "parseFloat(document.getElementById('utilization-gauge').style.width)]"
    )
    assert utilization == shown(watched, "percent", gauge / 100) != "0 %"
    assert watched.text("#health") == str(round(metrics.health.score))
    assert float(watched.text("#health")) < 100
    # A point of a chart is a point of the history, in the viewer's time.
    drawn = watched.until(
        lambda: watched.page.evaluate(
            "document.querySelector('[data-chart=throughput] .pt-canvas').data?.at(-2).y"
        ),
        "the chart is drawn",
    )
    assert sum(value or 0 for value in drawn) == pytest.approx(41)
    assert None in drawn  # before the node began: a gap
    hour, minute, _ = watched.text("#live-text").removeprefix("Live · ").split(":")
    # The page may be a few seconds old, and the hour another one since.
    late = watched.page.evaluate(
        "([hour, minute]) => { const now = new Date(); "
        "return (now.getHours() * 60 + now.getMinutes() - hour * 60 - minute + 1440) % 1440; }",
        [int(hour), int(minute)],
    )
    assert late <= 1


def test_the_lines_of_the_average_latency_and_of_the_error_rate_are_drawn(
    worked: Scene, watch: Callable[..., Watched]
) -> None:
    watched = watch("/pools/code")
    points = worked.pool.history(300)

    def line(chart: str, name: str) -> list[float]:
        drawn = watched.until(
            lambda: watched.page.evaluate(
                "([chart, name]) => document.querySelector(`[data-chart=${chart}] .pt-canvas`)"
                ".data?.find((trace) => trace.name === name && trace.customdata)?.y",
                [chart, name],
            ),
            f"{name} is drawn",
        )
        return [value for value in drawn if value is not None]

    averages = [point.work.latency.mean for point in points if point.work.latency]
    assert line("latency", "average latency") == pytest.approx(averages, rel=1e-3)
    rates = [point.work.error_rate for point in points if point.work.error_rate is not None]
    assert line("errors", "error rate") == pytest.approx(rates, rel=1e-3)
    assert 0 < max(rates) <= 1


def test_each_operation_is_shown_as_the_pool_counts_it(
    worked: Scene, watch: Callable[..., Watched]
) -> None:
    watched = watch("/pools/code?window=900")
    watched.wait_for("document.querySelectorAll('#operations tbody tr').length >= 3", "they come")
    by_operation = worked.pool.metrics(900).by_operation
    busy = sum(work.busy for work in by_operation.values())
    expected = {
        name: [
            name,
            str(sum(work.operations[outcome] for outcome in ("success", "failure"))),
            str(work.operations["failure"]),
            "0",
            *(
                shown(watched, function, value)
                for function, value in [
                    ("percent", work.error_rate),
                    ("duration", work.wait.p50),
                    ("duration", work.wait.p99),
                    ("duration", work.run.p50),
                    ("duration", work.run.p99),
                    ("percent", work.busy / busy),
                ]
            ),
        ]
        for name, work in by_operation.items()
    }
    assert {"sample_operations.add", "sample_operations.fail"} <= set(expected)

    def table() -> list[list[str]]:
        rows = watched.page.locator("#operations tbody tr").all()
        return [row.locator("td").all_inner_texts() for row in rows]

    assert table() == sorted(expected.values(), key=lambda its: (-int(its[1]), its[0]))
    # By failures, by name, and by name backwards; a link shows the same.
    watched.page.get_by_role("button", name="Failed").click()
    assert table()[0][0] == "sample_operations.fail"
    assert query(watched)["sort"] == ["-failed"]
    watched.page.get_by_role("button", name="Operation", exact=True).click()
    assert [its[0] for its in table()] == sorted(expected)
    watched.page.get_by_role("button", name="Operation", exact=True).click()
    assert [its[0] for its in table()] == sorted(expected, reverse=True)
    again = watch(urlsplit(watched.page.url).path + "?" + urlsplit(watched.page.url).query)
    again.wait_for(
        "document.querySelector('#operations [aria-sort]')?.ariaSort === 'descending'",
        "it is sorted as the address says",
    )
    assert query(again)["sort"] == ["-name"]


def test_all_pools_are_listed_the_worst_first(worked: Scene, watch: Callable[..., Watched]) -> None:
    redis_client(worked.pool.app).lpush("pool.idle", "x")
    watched = watch("/pools")
    watched.wait_for(
        "document.querySelector('#pools tbody tr')?.textContent.startsWith('idle')",
        "the pool that nobody serves is the first",
    )
    assert "idle" in watched.text("#status")
    verdict = watched.page.locator("#pools tbody tr").nth(0).locator(".pt-verdict").inner_text()
    assert verdict == "No node serves this pool; 1 operation in the queue."
    redis_client(worked.pool.app).delete("pool.idle")
    watched.wait_for(
        "document.querySelector('#pools tbody tr')?.textContent.startsWith('code')",
        "it is not the worst any more",
    )
    row = dict(
        zip(
            watched.page.locator("#pools thead th").all_inner_texts(),
            watched.page.locator("#pools tbody tr").nth(0).locator("th, td").all_inner_texts(),
            strict=True,
        )
    )
    assert row["Pool"].startswith("code\n")
    assert row["Nodes"] == "1"
    assert row["Warm / size → target"] == "2 / 2 → —"
    watched.page.get_by_role("link", name="code", exact=True).click()
    watched.page.wait_for_url("**/pools/code")


def test_pools_are_found_by_name_and_stay_where_somebody_points_at_them(
    worked: Scene, watch: Callable[..., Watched]
) -> None:
    watched = watch("/pools?pool=COD")
    names = "[...document.querySelectorAll('#pools tbody th a')].map((link) => link.textContent)"
    watched.wait_for(f"{names}.join() === 'code'", "only one is called so")
    watched.page.get_by_label("Pool contains").fill("nobody")
    assert watched.text("#no-pools") == "No pool has a name with “nobody”."
    watched.page.get_by_label("Pool contains").fill("")
    watched.wait_for(f"{names}[0] === 'code'", "all are there, the worst first")
    assert query(watched) == {}

    watched.page.locator("#pools tbody tr").nth(0).hover()
    redis_client(worked.pool.app).lpush("pool.idle", "x")
    watched.wait_for("document.getElementById('status').textContent.includes('idle')", "it is ill")
    assert watched.page.evaluate(names)[0] == "code"
    watched.page.mouse.move(5, 5)
    watched.wait_for(f"{names}[0] === 'idle'", "the worst is the first again")
    redis_client(worked.pool.app).delete("pool.idle")


def test_window_and_refresh_are_in_the_address_and_do_what_they_say(
    watch: Callable[..., Watched],
) -> None:
    watched = watch("/pools/code")
    watched.wait_for(LIVE, "the page is live")
    watched.page.get_by_role("button", name="15 m").click()
    watched.page.get_by_label("Refresh").select_option("every 5 s")
    assert query(watched) == {"window": ["900"], "refresh": ["5"]}
    watched.wait_for(
        "document.getElementById('finished').textContent.endsWith('in the last 15 minutes')",
        "the numbers are of the window",
    )
    watched.page.reload()
    watched.wait_for(LIVE, "the page is live again")
    pressed = watched.page.locator("#windows [aria-pressed=true]").all_inner_texts()
    assert pressed == ["15 m"]
    assert watched.page.locator("#refresh").input_value() == "5"
    assert any("window=900&since=" not in url and "window=900" in url for url in watched.asked)

    watched.page.get_by_label("Refresh").select_option("off")
    watched.wait_for("document.getElementById('live-text').textContent === 'Off'", "it is off")
    watched.page.get_by_label("Pool", exact=True).select_option("idle")
    watched.page.wait_for_url("**/pools/idle?window=900&refresh=0")
    assert "idle" in watched.page.title()


def test_after_the_first_answer_only_new_points_are_asked_for(
    watch: Callable[..., Watched],
) -> None:
    watched = watch("/pools/code")
    watched.until(lambda: len(watched.refreshes()) >= 3, "three refreshes")
    first, *others = watched.refreshes()
    assert "since" not in first
    assert [url for url in others if "since=" not in url] == []


def test_nothing_is_asked_while_the_tab_is_hidden(watch: Callable[..., Watched]) -> None:
    watched = watch("/pools/code")
    watched.wait_for(LIVE, "the page is live")
    hide = """hidden => {
        Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    watched.page.evaluate(hide, True)
    assert watched.text("#live-text") == "Paused: the tab is hidden"
    before = len(watched.refreshes())
    watched.page.wait_for_timeout(1500)  # longer than a refresh takes to come
    assert len(watched.refreshes()) == before
    watched.page.evaluate(hide, False)
    watched.wait_for(LIVE, "it goes on at once", deadline=5)


def bury(scene: Scene, number: int) -> list[str]:
    store = DeadLetters(redis_client(scene.pool.app), "pool.code")
    return [
        store.add(
            json.dumps(
                {
                    "headers": {"id": f"letter-{at}", "task": f"shop.{HOSTILE}{'x' * 10_000}"},
                    "body": "W1tdLCB7fSwge31d",
                    "properties": {},
                }
            ).encode(),
            f"reason {at}: {HOSTILE}" + "y" * 10_000,
        )
        for at in range(number)
    ]


def test_dead_letters_are_searched_shown_retried_and_deleted(
    worked: Scene, watch: Callable[..., Watched]
) -> None:
    client = redis_client(worked.pool.app)
    bury(worked, 3)
    watched = watch("/pools/code")
    letters = watched.page.locator("#dead tbody tr")
    watched.wait_for("document.querySelectorAll('#dead tbody tr').length === 3", "three letters")
    assert watched.text("#dead-count") == "3"

    watched.page.get_by_label("Reason contains").fill("REASON 1")
    watched.wait_for("document.querySelectorAll('#dead tbody tr').length === 1", "one is found")
    assert query(watched) == {"reason": ["REASON 1"]}
    letters.nth(0).get_by_role("button").click()
    dialog = watched.page.get_by_role("dialog")
    assert HOSTILE in dialog.inner_text()
    assert "y" * 10_000 in dialog.inner_text()
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 1920
    dialog.get_by_role("button", name="Close").click()

    letters.nth(0).get_by_role("checkbox").check()
    watched.page.locator("#dead-drop").click()
    dialog.get_by_role("button", name="Cancel").click()
    assert client.hlen("pooltasks:{pool.code}:dead") == 3
    watched.page.locator("#dead-drop").click()
    dialog.get_by_role("button", name="Delete").click()
    watched.until(lambda: client.hlen("pooltasks:{pool.code}:dead") == 2, "one is deleted")
    watched.wait_for(
        "document.getElementById('no-dead').textContent === 'No dead letter matches the search.'",
        "gone",
    )

    watched.page.get_by_label("Reason contains").fill("")
    watched.wait_for("document.querySelectorAll('#dead tbody tr').length === 2", "two are left")
    letters.nth(0).get_by_role("button").click()
    dialog.get_by_role("button", name="Retry").click()
    watched.wait_for(
        "document.getElementById('toast-container').textContent.includes('1 sent again.')",
        "a single one is retried where it is shown",
    )
    # Nobody knows such operations: the node makes them dead letters once more.
    watched.until(lambda: client.hlen("pooltasks:{pool.code}:dead") == 2, "it is back")
    before = len(watched.refreshes())
    watched.until(lambda: len(watched.refreshes()) >= before + 3, "what was asked before is shown")
    watched.wait_for("document.querySelectorAll('#dead tbody tr').length === 2", "both are")
    watched.page.get_by_label("Choose all that are shown").check()
    assert watched.text("#dead-chosen") == "2 chosen"
    watched.page.locator("#dead-retry").click()
    assert "Retry 2 dead letters" in dialog.inner_text()
    dialog.get_by_role("button", name="Retry").click()
    watched.wait_for(
        "document.getElementById('toast-container').textContent.includes('2 sent again.')",
        "it says how it went",
    )
    # Nobody knows such operations: the node makes them dead letters once more.
    client.delete("pooltasks:{pool.code}:dead", "pooltasks:{pool.code}:dead:messages")


def test_actions_ask_act_and_are_listed(worked: Scene, watch: Callable[..., Watched]) -> None:
    watched = watch("/pools/code")
    watched.wait_for("document.querySelectorAll('#nodes td.pt-pid').length === 2", "two workers")
    dialog = watched.page.get_by_role("dialog")

    def choose(action: str) -> None:
        watched.page.get_by_role("button", name="Actions").click()
        watched.page.get_by_role("button", name=action).click()

    choose("Resize…")
    dialog.get_by_role("spinbutton").fill("100")
    dialog.get_by_role("button", name="Resize").click()
    watched.wait_for(
        "!document.getElementById('dialog-problem').hidden"
        " && document.getElementById('dialog-problem').textContent.includes('allow 1 to 8')",
        "the bounds are said",
    )
    dialog.get_by_role("spinbutton").fill("3")
    dialog.get_by_role("spinbutton").press("Enter")
    watched.wait_for("document.querySelectorAll('#nodes td.pt-pid').length === 3", "three workers")
    watched.until(lambda: worked.pool.metrics().load.size == 3, "the pool has another size")

    choose("Warm up again…")
    dialog.get_by_role("button", name="Warm up").click()
    watched.page.get_by_text("The workers of 1 node warm up again").first.wait_for()

    choose("Pause the optimizer…")
    dialog.get_by_label("For").select_option("1 hour")
    dialog.get_by_role("button", name="Pause").click()
    watched.wait_for("document.getElementById('optimizer').dataset.paused === 'true'", "paused")
    choose("Have the optimizer act again…")
    dialog.get_by_role("button", name="Act again").click()
    watched.wait_for("document.getElementById('optimizer').dataset.paused === 'false'", "acts")

    watched.page.get_by_role("button", name=re.compile("Drain")).click()
    dialog.get_by_role("button", name="Drain").click()
    watched.page.get_by_role("button", name=re.compile("Take work")).click()
    assert watched.page.locator("tr.pt-node td").first.inner_text() in ("draining", "drained")
    dialog.get_by_role("button", name="Take work").click()
    watched.page.get_by_role("button", name=re.compile("^Drain")).wait_for()
    for action in ("resize", "warm", "pause", "resume", "drain"):
        assert watched.page.locator("#events td", has_text=f"{action}: ").first.is_visible()


@pytest.mark.parametrize("width", [min(WIDTHS), max(WIDTHS)])
def test_keys_with_limits_are_shown_while_there_are_some(
    worked: Scene, watch: Callable[..., Watched], width: int
) -> None:
    watched = watch("/pools/code", width=width)
    watched.wait_for(LIVE, "the page is live")
    watched.wait_for("document.getElementById('limits-panel').hidden", "no keys")
    server = worked.deployment.redis
    names = {
        name: keys.flow("pool.code", name) for name in ("held", "messages", "running", "limits")
    }
    published_at = worked.pool.app.pooltasks.clock.now() - 90
    flow = f"shop.call/{quote(HOSTILE, safe='')}"
    server.hset(names["limits"], "code shop.call", "10 10.000000 10")
    server.hset(names["running"], mapping={flow: 10, "shop.call/bob": 1})
    server.zadd(names["held"], {f"{flow}\x000{1:016d}": 0})
    message = "0" + json.dumps({"flow": "", "headers": {"published_at": published_at}})
    server.hset(names["messages"], f"{flow}\x000{1:016d}", message)
    try:
        watched.wait_for("document.querySelectorAll('#limits tbody tr').length === 2", "both keys")
        first, second = (
            watched.page.locator(f"#limits tbody tr:nth-child({place}) td").all_text_contents()
            for place in (1, 2)
        )
        assert first[:4] == ["shop.call", HOSTILE, "10", "1"]
        assert re.fullmatch(r"[12] m \d+ s", first[4])
        assert first[5] == "10 at once; 100 a second, 10 of them at once"
        assert second[1:5] == ["bob", "1", "0", ""]
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        watched.page.locator("#limits-panel").screenshot(path=SCREENSHOTS / f"limits-{width}.png")
    finally:
        server.delete(*names.values())
    watched.wait_for("document.getElementById('limits-panel').hidden", "no keys")


def test_charts_are_read_by_keyboard_and_in_words(watch: Callable[..., Watched]) -> None:
    watched = watch("/pools/code")
    watched.wait_for(LIVE, "the page is live")
    chart = watched.page.locator("[data-chart=throughput]")
    chart.focus()
    watched.page.keyboard.press("End")
    last = chart.locator("[aria-live]").inner_text()
    assert re.fullmatch(r"\d\d:\d\d:\d\d: throughput (—|[\d.,]+ /s)", last)
    watched.page.keyboard.press("Home")
    assert chart.locator("[aria-live]").inner_text().endswith("throughput —")
    watched.page.keyboard.press("Escape")
    assert "Throughput: throughput now" in chart.locator("figcaption").inner_text()


def test_pages_work_below_a_prefix(worked: Scene, watch: Callable[..., Watched]) -> None:
    options = (f"--basic-auth={ACCOUNT}", "--url-prefix=flower")
    with running(worked.deployment, *options, prefix="/flower") as dashboard:
        watched = watch("/pools", at=dashboard)
        watched.page.get_by_role("link", name="code", exact=True).click()
        watched.page.wait_for_url("**/flower/pools/code")
        watched.wait_for(LIVE, "the page is live")
        watched.wait_for(
            "document.querySelector('[data-chart=throughput] .pt-canvas')?.data", "it is drawn"
        )
        watched.page.get_by_label("Pool", exact=True).select_option("idle")
        watched.page.wait_for_url("**/flower/pools/idle")
        watched.page.get_by_label("Reason contains").fill("x")
        watched.until(
            lambda: any("/dead?reason=x" in url for url in watched.asked), "letters are searched"
        )
    below = f"{dashboard.address}/flower/"
    assert [url for url in watched.asked if not url.startswith((below, "data:", "blob:"))] == []


_ORDINARY = 1600
_CUT_OFF = """
    [...document.querySelectorAll('.pt-table thead th')]
        .filter((title) => {
            const text = document.createRange();
            text.selectNodeContents(title);
            return text.getBoundingClientRect().right > title.getBoundingClientRect().right;
        })
        .map((title) => title.innerText)
        .concat([...document.querySelectorAll('.pt-table')]
            .filter((table) => table.offsetWidth > table.parentElement.clientWidth)
            .map((table) => table.className))
"""
"""Tables that are wider than their places, and column titles that are wider than their columns."""


@pytest.mark.parametrize("path", ["/pools", "/pools/code"])
@pytest.mark.parametrize("width", list(WIDTHS))
def test_pages_fit_stand_still_and_are_accessible(
    worked: Scene, watch: Callable[..., Watched], path: str, width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    watched = watch(path, width=width)
    watched.wait_for(LIVE, "the page is live")
    watched.page.evaluate("""
        window.shift = 0;
        window.moved = [];
        new PerformanceObserver((list) => {
            for (const entry of list.getEntries()) {
                window.shift += entry.value;
                for (const { node } of entry.sources) window.moved.push(node?.outerHTML);
            }
        }).observe({ type: 'layout-shift' });
    """)
    before = len(watched.refreshes())

    def refreshes_while_numbers_change() -> bool:
        worked.pool.submit("sample_operations.add", [1])
        return len(watched.refreshes()) >= before + 4

    watched.until(refreshes_while_numbers_change, "it refreshes")
    assert watched.page.evaluate("window.shift") < 0.01, watched.page.evaluate("window.moved")
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    if width > _ORDINARY:
        watched.page.set_viewport_size({"width": _ORDINARY, "height": WIDTHS[width]})
        assert watched.page.evaluate(_CUT_OFF) == []
    # The whole page at once: what is out of sight is not drawn.
    height = watched.page.evaluate("document.documentElement.scrollHeight")
    watched.page.set_viewport_size({"width": width, "height": height})
    watched.wait_for(
        "[...document.querySelectorAll('.pt-canvas')].every((canvas) => canvas.data)",
        "every chart is drawn",
    )
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    name = path.strip("/").replace("/", "-")
    for theme in ("light", "dark"):
        watched.page.emulate_media(color_scheme=theme)
        watched.wait_for(f"document.documentElement.dataset.bsTheme === '{theme}'", theme)
        picture = SCREENSHOTS / f"{name}-{width}-{theme}.png"
        watched.page.screenshot(path=picture, full_page=True, animations="disabled")
        violations = [
            f"{found['id']}: {node['html'][:200]}"
            for found in axe.run(watched.page).response["violations"]
            if found["impact"] in ("serious", "critical")
            for node in found["nodes"]
        ]
        assert violations == []
