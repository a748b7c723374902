"""``pooltasks up``: the whole deployment on one machine.

The Procfile names the same programs for process managers, docker-compose.yml
for containers; a test holds the three together.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pooltasks import keys
from pooltasks.cli.login import Login, kept_login
from pooltasks.cli.notices import WarmUpNotice
from pooltasks.cli.supervisor import Program, Supervisor
from pooltasks.dashboard.command import is_installed
from pooltasks.embedded import READY_LINE, EmbeddedServer
from pooltasks.errors import PooltasksError
from pooltasks.keys import CONTROL_POOL
from pooltasks.node.celery import command
from pooltasks.running import announced
from pooltasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pooltasks.pool_settings import PoolSettings


_NO_POOL = "No pool is configured, so that only the control node runs"


def _application(context: click.Context) -> str:
    """Return the application of ``pooltasks -A …``, which ``up`` need not repeat."""
    return str(context.find_root().params.get("app") or "pooltasks")


@click.command()
@click.option("-A", "--app", help="The Celery application.  [default: pooltasks]")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".pooltasks"),
    show_default=True,
    help="Where the embedded server and beat keep their data.",
)
@click.option(
    "--dashboard-port",
    type=click.IntRange(1, 65535),
    default=5555,
    show_default=True,
    help="The dashboard's port on 127.0.0.1.",
)
@click.option("--dashboard/--no-dashboard", default=True, help="Run the dashboard if installed.")
@click.option(
    "--login",
    is_flag=True,
    help="Ask for a login on the dashboard, and allow its actions then. The name and the "
    "password are in the file login of the data folder.",
)
@click.pass_context
def up(
    context: click.Context,
    *,
    app: str | None,
    data_dir: Path,
    dashboard_port: int,
    dashboard: bool,
    login: bool,
) -> None:
    """Run the whole deployment on this machine until Ctrl-C.

    That is: an embedded server (unless the settings name one of your own), a
    node for every pool, the control node, beat, and the dashboard when it is
    installed. A program that dies is started again.
    """
    settings = Settings.read()
    if not settings.pools:
        click.secho(
            f"{_NO_POOL}.",
            fg="yellow",
            err=True,
        )
    if dashboard and not is_installed():
        click.secho(
            "The dashboard is not installed. Install it: pip install 'pooltasks[dashboard]'. "
            "To run without it: --no-dashboard.",
            fg="yellow",
            err=True,
        )
    elif dashboard:
        _refuse_busy_port(dashboard_port)
    data_dir = data_dir.absolute()
    has_own_server = "redis_url" in settings.model_fields_set
    server = None if has_own_server else EmbeddedServer(data_dir)
    try:
        with server.reserve() if server else nullcontext():
            _make_folder(data_dir)
            url = server.url if server else settings.redis_url.get_secret_value()
            application = app or _application(context)
            running = clients(
                {
                    name: settings.pool_settings(name)
                    for name in dict.fromkeys([*settings.pools, CONTROL_POOL])
                },
                app=application,
                redis_url=url,
                data_dir=data_dir,
                dashboard_port=dashboard_port if dashboard and is_installed() else None,
                login=kept_login(data_dir) if login else None,
            )
            if server:
                running.insert(0, _server_program(server))
            with announced(url, application):
                Supervisor(running, closing=_closing(settings, running)).run()
    except PooltasksError as error:
        raise click.ClickException(str(error)) from error


def _closing(settings: Settings, programs: Sequence[Program]) -> str:
    """Return what is said again when everything is up: the first lines are out of sight then."""
    found = [f"Dashboard: {its.note}" for its in programs if its.name == "dashboard"]
    if not settings.pools:
        found.append(_NO_POOL)
    return ". ".join(found)


def clients(
    pools: Mapping[str, PoolSettings],
    *,
    app: str,
    redis_url: str,
    data_dir: Path,
    dashboard_port: int | None,
    login: Login | None = None,
) -> list[Program]:
    """Return every program of a deployment but the server.

    Args:
        pools: The settings of each pool, the control pool's too.
        app: The Celery application, as after ``celery -A``.
        redis_url: The server; goes to the programs in their environment, where
            only their own user can read it.
        data_dir: The folder in which beat keeps its schedule.
        dashboard_port: The dashboard's port; None for no dashboard.
        login: The dashboard's name and password; None: everybody on this machine may see it.
    """
    # Quiet: the banners of a few programs would hide what one of them says.
    quiet = command(arguments=["-A", app, "-q"])
    env = {
        **os.environ,
        "POOLTASKS_REDIS_URL": redis_url,
        "PYTHONUNBUFFERED": "1",  # a pipe would hold lines back
    }
    env.pop("POOLTASKS_POOL", None)  # each node has its own
    programs = [
        Program(
            name=pool,
            argv=[*quiet, "worker", "-Q", keys.queue(pool), "-n", f"{pool}@%h", "-l", "info"],
            env=env,
            ready_text=_ready_text(pool, lazy=settings_of_pool.lazy),
            notice=WarmUpNotice(pool) if not settings_of_pool.lazy else None,
        )
        for pool, settings_of_pool in pools.items()
    ]
    schedule = str(data_dir / "celerybeat-schedule")
    programs.append(
        Program(
            name="beat",
            argv=[*quiet, "beat", "-l", "info", "--schedule", schedule],
            env=env,
            ready_text="beat: Starting...",
        )
    )
    if dashboard_port is not None:
        programs.append(
            Program(
                name="dashboard",
                argv=[
                    *(sys.executable, "-m", "celery", "-A", app),
                    *("dashboard", "--address=127.0.0.1", f"--port={dashboard_port}"),
                ],
                env={**env, "FLOWER_BASIC_AUTH": login.text} if login else env,
                ready_text="Visit me at",
                note=f"http://127.0.0.1:{dashboard_port}/pools"
                + (f" (name and password: {login.path})" if login else ""),
            )
        )
    return programs


def _ready_text(pool: str, *, lazy: bool) -> str:
    """Return the line of a node's log that says that it takes operations."""
    # The workers of a lazy pool warm up at their first operation.
    if lazy:
        return f"{pool}@{socket.gethostname()} ready."
    return "workers are warm after"


def _refuse_busy_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise click.BadParameter(
                f"The dashboard cannot listen on 127.0.0.1 port {port}: {error.strerror}. "
                "Does another `pooltasks up` run? End it, choose another port, or --no-dashboard.",
                param_hint="--dashboard-port",
            ) from error


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise click.BadParameter(
            f"{path} cannot be made: {error.strerror}. Choose another folder.",
            param_hint="--data-dir",
        ) from error


def _server_program(server: EmbeddedServer) -> Program:
    return Program(
        name="server",
        argv=server.argv,
        env=os.environ,
        ready_text=READY_LINE,
        note=f"POOLTASKS_REDIS_URL={server.url}",
        is_foundation=True,
        pass_fds=server.pass_fds,
    )
