"""``pooltasks dashboard``: Flower with the pages of the pools, and who may see them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dashboard_process import ACCOUNT, Dashboard, running
from deployment import DEADLINE, Deployment, wait_until

from pooltasks import Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pooltasks.embedded import EmbeddedServer

pytest.importorskip("flower", reason="the extra 'dashboard' is not installed")

STATIC = Path(__file__).parents[2] / "pooltasks/dashboard/static"
CSS = "text/css; charset=utf-8"
CONFIGURATION = """
[pools.code]
imports = ["sample_operations"]
pool_size = 2
"""


@pytest.fixture(scope="module")
def place(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A configuration and an empty database, without a node."""
    with Deployment(
        tmp_path_factory.mktemp("dashboard"), valkey.url.removesuffix("/0") + "/3"
    ) as deployment:
        deployment.redis.flushdb()
        deployment.app = deployment.configure(CONFIGURATION)
        yield deployment


@pytest.fixture(scope="module")
def guarded(place: Deployment) -> Iterator[Dashboard]:
    """A dashboard behind a password."""
    with running(place, f"--basic-auth={ACCOUNT}") as dashboard:
        yield dashboard


def files_of(page: str) -> list[str]:
    return re.findall(r'"(/[^"]*/-/files/[^"]+)"', page)


def test_pages_data_and_files_are_there_and_load_nothing_from_elsewhere(
    guarded: Dashboard,
) -> None:
    for path in ("/pools", "/pools/code", "/pools/control"):
        status, page, headers = guarded.ask(path)
        assert status == 200
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert files_of(page)
        assert re.findall(r'(?:src|href)="(?!/|#)([^"]+)"', page) == [
            # Flower's own links in its navigation; a link loads nothing.
            "https://flower.readthedocs.io/",
            "https://github.com/mher/flower",
        ]
        for file in files_of(page):
            status, content, headers = guarded.ask(file)
            assert status == 200
            assert content
            assert "immutable" in headers["Cache-Control"]
    assert [pool["pool"] for pool in guarded.json("/pools/-/data")["pools"]] == ["code", "control"]
    assert guarded.json("/pools/code/data?window=60")["load"]["warm"] is None


def test_data_and_files_are_compressed_for_those_who_can_read_it(guarded: Dashboard) -> None:
    script = next(file for file in files_of(guarded.ask("/pools")[1]) if file.endswith(".js"))
    for path in ("/pools/-/data", "/pools/code/data", script):
        _, text, headers = guarded.ask(path)
        assert headers["Content-Encoding"] == "gzip"
        assert "Accept-Encoding" in headers["Vary"]
        _, plain, headers = guarded.ask(path, headers={"Accept-Encoding": "identity"})
        assert "Content-Encoding" not in headers
        assert text[:5] == plain[:5]


def test_an_operation_is_found_by_its_id(place: Deployment, guarded: Dashboard) -> None:
    its = Pool("code", app=place.app).submit("sample_operations.echo", [1])
    found = guarded.json(f"/pools/-/operation/data?id={its.id}")
    said = place.run("pooltasks", "inspect", its.id, "--json")
    (there,), (here,) = json.loads(said.stdout), found["places"]
    # They are asked one after the other.
    for moving in ("text", "waited"):
        assert there.pop(moving) != here.pop(moving)
    assert here == there
    assert (here["state"], found["nowhere"]) == ("waiting", None)
    found = guarded.json("/pools/-/operation/data?id=absent")
    assert found["places"] == []
    assert found["nowhere"].startswith("The operation absent is found nowhere: ")
    place.redis.delete("pool.code")


def test_each_page_links_every_stylesheet_once(guarded: Dashboard) -> None:
    sheets = sorted(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*.css"))
    for path in ("/pools", "/pools/code", "/pools/-/operation", "/pools/absent"):
        linked = [file for file in files_of(guarded.ask(path)[1]) if file.endswith(".css")]
        assert sorted(re.sub(".*/-/files/[0-9a-f]+/", "", file) for file in linked) == sheets
        assert {guarded.ask(file)[2]["Content-Type"] for file in linked} == {CSS}


def test_flower_is_still_there_and_leads_to_the_pools(guarded: Dashboard) -> None:
    for path in ("/", "/workers", "/tasks"):
        status, page, _ = guarded.ask(path)
        assert status == 200
        assert 'href="/pools"' in page


def test_flowers_metrics_tell_about_the_pools_too(guarded: Dashboard) -> None:
    text = wait_until(
        lambda: "pooltasks_up 1.0" in (its := guarded.ask("/metrics", account=None)[1]) and its,
        "the pools have been read",
    )
    assert 'pooltasks_nodes{pool="code",state="live"} ' in text
    assert "flower_" in text


@pytest.mark.parametrize("account", [None, "operator:guess"])
def test_a_stranger_gets_nothing(guarded: Dashboard, account: str | None) -> None:
    files = files_of(guarded.ask("/pools/code")[1])
    assert files
    data = [
        "/pools/-/operation",
        "/pools/-/operation/data?id=code",
        "/pools/-/data",
        "/pools/code/data",
        "/pools/code/dead",
        "/pools/code/dead/letter?id=1",
    ]
    for path in ("/pools", "/pools/code", *data, *files):
        status, text, _ = guarded.ask(path, account=account)
        assert (path, status) == (path, 401)
        assert "code" not in text
    for name in ("resize", "warm", "drain", "retry", "drop", "rollout-abort", "absent"):
        assert guarded.act(name, {"size": 1}, account=account)[0] == 401


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/pools/absent", 404),
        ("/pools/absent/data", 404),
        ("/pools/<script>alert(1)</script>", 404),
        ("/pools/-/operation/data", 400),
        ("/pools/-/operation/data?id=" + 256 * "x", 400),
        ("/pools/-/operation?id=<script>alert(1)</script>", 200),
        ("/pools/code/data?window=61", 400),
        ("/pools/code/data?window=x", 400),
        ("/pools/code/data?since=x", 400),
        ("/pools/-/files/0123/pool.js", 404),
        ("/pools/-/files/0123/../app.py", 404),
    ],
)
def test_nonsense_is_refused(guarded: Dashboard, path: str, status: int) -> None:
    found, text, _ = guarded.ask(path.replace("<", "%3C").replace(">", "%3E"))
    assert found == status
    assert "<script>alert" not in text


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"X-XSRFToken": ""},
        {"X-XSRFToken": "2|00000000|11111111111111111111111111111111|1700000000"},
        {"Cookie": ""},
    ],
)
def test_what_another_site_sends_is_refused(guarded: Dashboard, headers: dict[str, str]) -> None:
    assert guarded.act("warm", {}, headers=headers)[0] == 403
    assert guarded.json("/pools/code/data")["audit"] == []


def test_a_browser_that_tells_only_the_origin_is_judged_by_it(guarded: Dashboard) -> None:
    without = {"Sec-Fetch-Site": ""}
    status, _ = guarded.act("warm", {}, headers={**without, "Origin": "https://example.org"})
    assert status == 403
    status, _ = guarded.act("retry", {}, headers={**without, "Origin": guarded.address})
    assert status == 400  # past the guard: it lacks its arguments


@pytest.mark.parametrize(
    ("name", "arguments", "status"),
    [
        ("resize", {"size": -1}, 400),
        ("resize", {"size": "<script>"}, 400),
        ("resize", None, 400),
        ("absent", {}, 404),
    ],
)
def test_a_wrong_action_is_refused(
    guarded: Dashboard, name: str, arguments: Any, status: int
) -> None:
    found, text = guarded.act(name, arguments or [])
    assert found == status
    assert "<script>" not in text


def test_a_dashboard_that_only_shows_or_asks_for_no_login_does_nothing(place: Deployment) -> None:
    for options, why in (
        ((f"--basic-auth={ACCOUNT}", "--read-only"), "--read-only"),
        ((), "Actions need a login"),
    ):
        with running(place, *options) as dashboard:
            status, text = dashboard.act("drop", {"letters": ["1"]})
            assert status == 403
            assert why in text
            assert why in dashboard.ask("/pools/code")[1]


def test_flower_by_itself_works_as_ever(place: Deployment) -> None:
    with running(place, f"--basic-auth={ACCOUNT}", stock=True) as flower:
        for path in ("/", "/workers", "/tasks", "/broker"):
            assert flower.ask(path)[0] == 200
        assert "/pools" not in flower.ask("/workers")[1]
        assert flower.ask("/pools")[0] == 404


def test_everything_moves_below_a_prefix(place: Deployment) -> None:
    with running(
        place, f"--basic-auth={ACCOUNT}", "--url-prefix=flower", prefix="/flower"
    ) as dashboard:
        status, page, _ = dashboard.ask("/pools/code")
        assert status == 200
        assert '"root": "/flower/pools"' in page
        files = files_of(page)
        assert files
        assert all(file.startswith("/flower/pools/-/files/") for file in files)
        for file in files:
            assert dashboard.ask(file.removeprefix("/flower"))[0] == 200
        assert dashboard.json("/pools/-/data")["pools"]
        assert 'href="/flower/pools"' in dashboard.ask("/workers")[1]


def test_the_numbers_are_those_of_the_pool(guarded: Dashboard) -> None:
    place = guarded.deployment
    place.start_node("-Q", "pool.code")
    pool = Pool("code", app=place.app)
    for number in range(20):
        assert pool.execute("sample_operations.add", [number], timeout=DEADLINE) == number

    def agree() -> bool:
        page = guarded.json("/pools/code/data?window=300")
        work = pool.metrics(300).work
        return bool(
            work.wait is not None
            and page["work"]["wait"] is not None
            and page["work"]["operations"]["success"] == work.operations["success"] == 20
            and page["work"]["wait"]["p99"] == work.wait.p99
            and page["load"]["warm"] == 2
        )

    wait_until(agree, "the page says what Pool.metrics() says")


def test_actions_act_and_are_written_down(guarded: Dashboard) -> None:
    """Needs the node of the test above."""
    (node,) = wait_until(
        lambda: [
            node
            for node in guarded.json("/pools/code/data")["nodes"]
            if node["workers"] is not None and len(node["workers"]) == 2
        ],
        "the node says what its workers do",
    )
    status, text = guarded.act("resize", {"size": 3})
    assert (status, json.loads(text)) == (200, {"outcome": "The pool has 3 workers."})
    status, text = guarded.act("drain", {"node": node["celery_name"]})
    assert status == 200, text
    wait_until(
        lambda: [n["state"] for n in guarded.json("/pools/code/data")["nodes"]] == ["drained"],
        "the page shows that the node drains",
    )
    assert guarded.act("drain", {"node": node["celery_name"], "undo": True})[0] == 200
    status, text = guarded.act("drop", {"letters": ["absent"]})
    assert status == 409
    audit = guarded.json("/pools/code/data")["audit"]
    assert [(entry["action"], entry["user"]) for entry in audit[:4]] == [
        ("drop", "operator"),
        ("drain", "operator"),
        ("drain", "operator"),
        ("resize", "operator"),
    ]
