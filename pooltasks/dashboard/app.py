"""PoolFlower: Flower with the pages of the pools.

Flower has no way in for other pages. This module uses three of Tornado's: rules
that are added come before Flower's, a template loader that is passed is used for
all templates, a UI module that is passed replaces one of the same name. Nothing of
Flower is patched, none of its templates copied.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flower.app import Flower, rewrite_handler
from tornado.template import Loader
from tornado.web import TemplateModule, url

from pooltasks.dashboard import handlers
from pooltasks.dashboard.assets import Assets
from pooltasks.dashboard.feed import Feed

if TYPE_CHECKING:
    from celery import Celery

_HERE = Path(__file__).parent
_NAVIGATION = '<ul class="app-nav navbar-nav">'
_POOL = r"([a-z0-9][a-z0-9_-]*)"


class PoolFlower(Flower):
    """Flower with the pages of the pools.

    Args:
        options: Flower's options.
        capp: The Celery application, with pools.
        metrics_login: Whether /metrics asks for the login, as the pages do.
        **settings: Tornado's, as Flower's command makes them.
    """

    def __init__(
        self, options: Any, capp: Celery, *, metrics_login: bool = False, **settings: Any
    ) -> None:
        settings["template_loader"] = _Templates(settings["template_path"])
        settings["ui_modules"] = {"Template": _TemplateWithPools}
        super().__init__(options=options, capp=capp, **settings)
        self.feed = Feed(capp)
        self.assets = Assets(_HERE / "static")
        rules = [
            url(r"/pools", handlers.PoolsPage, name="pools"),
            url(r"/pools/-/data", handlers.PoolsData),
            url(r"/pools/-/operation", handlers.OperationPage, name="pools-operation"),
            url(r"/pools/-/operation/data", handlers.OperationPlaces),
            url(r"/pools/-/files/([0-9a-f]+)/(.+)", handlers.File, name="pools-file"),
            url(rf"/pools/{_POOL}", handlers.PoolPage, name="pool"),
            url(rf"/pools/{_POOL}/data", handlers.PoolData),
            url(rf"/pools/{_POOL}/dead", handlers.DeadLetterList),
            url(rf"/pools/{_POOL}/dead/letter", handlers.DeadLetterText),
            url(rf"/pools/{_POOL}/error", handlers.ErrorText),
            url(rf"/pools/{_POOL}/actions/([a-z-]+)", handlers.PoolAction),
        ]
        if metrics_login:
            rules.append(url(r"/metrics", handlers.PrivateMetrics))
        if options.url_prefix:
            rules = [rewrite_handler(rule, options.url_prefix) for rule in rules]
        self.add_handlers(r".*", rules)

    def stop(self) -> None:
        """End Flower's threads and ours."""
        super().stop()
        self.feed.close()


class _Templates(Loader):
    """Our templates, then Flower's."""

    _own = _HERE / "templates"

    def _create_template(self, name: str) -> Any:
        own = self._own / name
        return super()._create_template(str(own) if own.is_file() else name)


class _TemplateWithPools(TemplateModule):
    """Puts the pools into Flower's navigation, on its pages too."""

    def render(self, path: str, **arguments: Any) -> bytes:
        html: bytes = super().render(path, **arguments)
        if path != "navbar.html":
            return html
        before, mark, after = html.partition(_NAVIGATION.encode())
        if not mark:
            raise RuntimeError(
                "Flower's navigation has changed; pooltasks works with flower>=2.2,<2.3."
            )
        item = self.render_string(
            "pools_navigation.html", active=arguments.get("active_tab") == "pools"
        )
        return before + mark + item + after
