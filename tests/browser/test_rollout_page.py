"""The pool's page while a new version is brought out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from stage import LIVE, SCREENSHOTS, WIDTHS

from pooltasks.metrics.counts import Counts
from pooltasks.metrics.rollout_store import RolloutStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stage import Scene, Watched

    from pooltasks.metrics.rollout import Rollout

pytestmark = [pytest.mark.timeout(180), pytest.mark.long]


@pytest.fixture
def store(scene: Scene) -> Iterator[RolloutStore]:
    with scene.deployment.bytes_client() as client:
        store = RolloutStore(client, "code")
        assert store.start("", "2024.2")
        yield store
        its = store.read()
        if its is not None and its.is_live:
            store.end(its, "aborted", "the test is over")
        store.forget()


def read(store: RolloutStore) -> Rollout:
    rollout = store.read()
    assert rollout is not None
    return rollout


@pytest.mark.parametrize("width", list(WIDTHS))
def test_a_rollout_is_shown_as_it_goes_on(
    store: RolloutStore, watch: Callable[..., Watched], width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for share in (5, 10, 25):
        assert store.step(read(store), share, "400 operations, not worse than the version before")
    assert store.note(read(store), {"before": Counts()}, {}, "30 of 200 operations are finished")
    watched = watch("/pools/code?window=60", width=width)
    watched.wait_for(LIVE, "the page is live")
    watched.wait_for("!document.getElementById('rollout').hidden", "the rollout")
    assert "Version 2024.2 has 25 %" in watched.text("#rollout-says")
    assert watched.page.locator("#rollout-steps li").count() == 3
    assert watched.page.evaluate("document.getElementById('rollout-share').value") == 25
    sides = watched.page.locator("#rollout-sides tbody tr > :first-child").all_inner_texts()
    assert sides == ["(none)", "2024.2"]
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        watched.page.emulate_media(color_scheme=theme)
        watched.wait_for(f"document.documentElement.dataset.bsTheme === '{theme}'", theme)
        watched.page.locator("#rollout").screenshot(
            path=SCREENSHOTS / f"rollout-{width}-{theme}.png", animations="disabled"
        )
        found = axe.run(watched.page).response["violations"]
        assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
    store.end(read(store), "aborted", "9 of 90 operations failed")
    watched.wait_for(
        "document.getElementById('rollout-says').textContent.includes('was rolled back')",
        "the end is said",
    )
    assert "9 of 90 operations failed" in watched.text("#status")


def test_a_rollout_is_led_on_the_page(store: RolloutStore, watch: Callable[..., Watched]) -> None:
    assert store.step(read(store), 25, "400 operations, not worse than the version before")
    watched = watch("/pools/code?window=60")
    watched.wait_for("!document.getElementById('rollout').hidden", "the rollout")
    page = watched.page

    def do(button: str, verb: str) -> str:
        page.get_by_role("button", name=button, exact=True).click()
        title = watched.text("#dialog-title")
        page.locator("#dialog-do", has_text=verb).click()
        watched.wait_for("!document.getElementById('dialog').open", f"{button} is done")
        return title

    # Only what can be done now is offered.
    assert page.locator("#rollout-actions button:visible").all_inner_texts() == [
        "Next step…",
        "Pause…",
        "Roll back…",
    ]
    page.locator("#actions").click()
    assert page.locator("#rollout-start").is_disabled()
    page.keyboard.press("Escape")
    assert do("Pause…", "Pause") == "Pause the rollout of 2024.2"
    assert read(store).paused
    watched.until(lambda: page.get_by_role("button", name="Go on…").count(), "it is paused")
    do("Go on…", "Go on")
    assert not read(store).paused
    do("Next step…", "Take the step")
    assert read(store).share == 50
    watched.until(lambda: "has 50 %" in watched.text("#rollout-says"), "the step is shown")
    # It goes on while the dialog is open: nothing is done to what was not seen.
    page.get_by_role("button", name="Roll back…").click()
    assert store.step(read(store), 75, "by hand")
    page.locator("#dialog-do").click()
    watched.until(
        lambda: "the rollout has gone on" in watched.text("#dialog-problem"), "it is refused"
    )
    page.locator("#dialog-cancel").click()
    assert read(store).is_live
    watched.until(lambda: "has 75 %" in watched.text("#rollout-says"), "the step is shown")
    do("Roll back…", "Roll back")
    assert read(store).state == "aborted"
    watched.until(lambda: page.get_by_role("button", name="Forget…").count(), "it has ended")
    do("Forget…", "Forget it")
    watched.until(lambda: page.locator("#rollout").is_hidden(), "it is forgotten")
    events = watched.text("#events")
    assert "rollout pause: 2024.2 keeps 25 %." in events
    assert "rollout abort: 2024.2 is rolled back" in events
