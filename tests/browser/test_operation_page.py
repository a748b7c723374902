"""One operation is found by its id on the pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from stage import SCREENSHOTS, WIDTHS

if TYPE_CHECKING:
    from collections.abc import Callable

    from stage import Scene, Watched

pytestmark = [pytest.mark.timeout(180), pytest.mark.long]
FOUND = "!document.getElementById('status').textContent.startsWith('Looking')"


@pytest.mark.parametrize("width", list(WIDTHS))
def test_an_operation_is_found_from_any_page(
    scene: Scene, watch: Callable[..., Watched], width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    its = scene.pool.submit("sample_operations.echo", ["well"])
    its.get(timeout=30)
    for path in ("/pools", "/pools/code"):
        watched = watch(path, width=width)
        field = watched.page.get_by_role("searchbox", name="Operation id")
        field.fill(its.id)
        field.press("Enter")
        watched.page.wait_for_url(f"**/pools/-/operation?id={its.id}")
        watched.wait_for(FOUND, "an answer")
        assert watched.text("#status") == "It has a result: SUCCESS, with the value 'well'."
    waiting = scene.deployment.app.send_task("sample_operations.echo", ["idle"], queue="pool.idle")
    watched.page.get_by_role("searchbox", name="Operation id").fill(waiting.id)
    watched.page.get_by_role("button", name="Find").click()
    watched.page.wait_for_url(f"**id={waiting.id}")
    watched.wait_for(
        "document.getElementById('status').textContent.includes('at place 1 of 1')", "its place"
    )
    places = watched.text("#places")
    assert places.startswith("Waiting")
    assert "idle" in places
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        watched.page.emulate_media(color_scheme=theme)
        watched.wait_for(f"document.documentElement.dataset.bsTheme === '{theme}'", theme)
        watched.page.screenshot(
            path=SCREENSHOTS / f"operation-{width}-{theme}.png", animations="disabled"
        )
        found = axe.run(watched.page).response["violations"]
        assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
    scene.deployment.redis.delete("pool.idle")
    watched.page.get_by_role("button", name="Look again").click()
    watched.wait_for(
        "document.getElementById('status').textContent.includes('is found nowhere')",
        "that it is gone",
    )
    assert watched.text("#places") == ""


def test_an_id_is_text(watch: Callable[..., Watched]) -> None:
    watched = watch("/pools/-/operation?id=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
    watched.wait_for(FOUND, "an answer")
    assert '"><script>alert(1)</script> is found nowhere' in watched.text("#status")
