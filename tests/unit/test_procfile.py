"""The Procfile and docker-compose.yml name the programs that ``pooltasks up`` runs."""

from __future__ import annotations

import os
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from honcho.environ import parse_procfile

from pooltasks.cli.up import _closing, clients
from pooltasks.pool_settings import PoolSettings
from pooltasks.settings import Settings

ROOT = Path(__file__).parents[2]
BESIDE = {"server", "prometheus", "grafana"}
"""Of docker-compose.yml only: other people's images."""


@pytest.fixture
def commands() -> dict[str, list[str]]:
    """The command of each program of ``up`` for the pools of config/pools.toml."""
    pools = tomllib.loads((ROOT / "config/pools.toml").read_text("utf-8"))["pools"]
    programs = clients(
        {**{name: PoolSettings(**its) for name, its in pools.items()}, "control": PoolSettings()},
        app="pooltasks",
        redis_url="redis://127.0.0.1:6379/0",
        data_dir=Path("/data"),
        dashboard_port=5555,
    )
    return {program.name: ["celery", *program.argv[3:]] for program in programs}


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))


def without_place(command: list[str]) -> list[str]:
    """Leave out what depends on where a program runs: beat's file, the dashboard's address, -q."""
    kept = [part for part in command if part != "-q" and not part.startswith("--address=")]
    if "--schedule" in kept:
        at = kept.index("--schedule")
        del kept[at : at + 2]
    return kept


def test_the_procfile_runs_what_up_runs(commands):
    processes = parse_procfile((ROOT / "Procfile").read_text("utf-8")).processes
    assert {name: without_place(shlex.split(command)) for name, command in processes.items()} == {
        name: without_place(command) for name, command in commands.items()
    }
    assert "--address=127.0.0.1" in processes["dashboard"]


def test_what_one_program_says_is_not_hidden_by_the_banners_of_others(commands):
    talkative = {name for name, command in commands.items() if "-q" not in command}
    assert talkative == {"dashboard"}  # Flower has no banner


@pytest.mark.parametrize(
    ("pools", "port", "said"),
    [
        ({"shop": {}}, 5555, "Dashboard: http://127.0.0.1:5555/pools"),
        ({"shop": {}}, None, ""),
        ({}, None, "No pool is configured, so that only the control node runs"),
    ],
)
def test_up_ends_with_what_a_newcomer_needs(monkeypatch, pools, port, said):
    monkeypatch.setenv("POOLTASKS_CONFIG", os.devnull)
    programs = clients(
        {"control": PoolSettings()},
        app="pooltasks",
        redis_url="redis://127.0.0.1:6379/0",
        data_dir=Path("/data"),
        dashboard_port=port,
    )
    assert _closing(Settings.read(pools=pools), programs) == said


def test_compose_runs_what_up_runs(commands, compose):
    services = {
        name: without_place(shlex.split(service["command"]))
        for name, service in compose["services"].items()
        if name not in BESIDE
    }
    assert services == {name: without_place(command) for name, command in commands.items()}


def test_every_container_starts_again_and_all_but_beat_say_how_they_are(compose):
    services = compose["services"]
    assert {service["restart"] for service in services.values()} == {"unless-stopped"}
    assert {name for name, service in services.items() if "healthcheck" not in service} == {"beat"}


def test_compose_publishes_ports_to_this_machine_only(compose):
    ports = [port for s in compose["services"].values() for port in s.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_mounts_what_there_is(compose):
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (ROOT / source).is_dir(), volume


def test_prometheus_scrapes_the_dashboard_and_grafana_reads_prometheus(compose, commands):
    prometheus = yaml.safe_load((ROOT / "config/prometheus/prometheus.yml").read_text("utf-8"))
    (job,) = prometheus["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    name, _, port = target.partition(":")
    assert f"--port={port}" in commands[name]

    provisioning = ROOT / "config/grafana/provisioning/datasources/prometheus.yml"
    (source,) = yaml.safe_load(provisioning.read_text("utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose["services"]


def test_the_image_copies_only_what_the_ignore_file_lets_through():
    let_through = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line[:1] == "!"
    }
    copied = {
        source
        for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    }
    assert copied == let_through
