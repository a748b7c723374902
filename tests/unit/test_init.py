"""``pooltasks init``: what it writes, what it refuses, and that its files stay the repository's."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import pooltasks
from pooltasks.cli.init import FILES, FILLED_IN, TEMPLATES
from pooltasks.cli.main import main
from pooltasks.settings import Settings

ROOT = Path(__file__).parents[2]
BLOCK = r"^  {}:\n(?:    .*\n|\n(?=    ))+\n?"
"""A service of a compose file."""

pytestmark = pytest.mark.usefixtures("bare_environment")


def init(folder: str | Path = "shop") -> Any:
    result = CliRunner().invoke(main, ["init", str(folder)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(folder: str | Path = "shop") -> str:
    """Return the sentence with which a folder is refused."""
    before = files_in(Path.cwd())
    result = init(folder)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert line.endswith(".")
    assert ". " not in line
    assert files_in(Path.cwd()) == before
    return line.removeprefix("Error: ")


@pytest.mark.parametrize("folder", ["shop", "deep/er/shop", "with spaces", "100% 'mine'", "."])
def test_it_writes_every_file_into_a_new_folder_and_says_so(folder: str) -> None:
    result = init(folder)
    assert result.exit_code == 0, result.output
    assert files_in(Path(folder)).keys() == FILES.keys()
    heading, *lines = result.stdout.splitlines()
    assert heading == f"Wrote in {folder}:"
    assert [line.split(None, 1) for line in lines[: len(FILES)]] == [list(i) for i in FILES.items()]


def test_it_says_the_next_two_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    up, call = init("my shop").stdout.splitlines()[-2:]
    assert up == "  cd 'my shop' && pooltasks up"
    assert call.startswith("  cd 'my shop' && python -c \"from words import count; ")
    Path("here").mkdir()
    monkeypatch.chdir("here")
    up, call = init(".").stdout.splitlines()[-2:]
    assert up == "  pooltasks up"
    assert call.startswith('  python -c "')


def test_an_empty_folder_is_taken_and_files_that_are_not_in_the_way_stay() -> None:
    Path("empty").mkdir()
    assert init("empty").exit_code == 0
    Path("other/config").mkdir(parents=True)
    Path("other/words").mkdir()
    Path("other/config/mine.toml").write_text("mine")
    assert init("other").exit_code == 0
    assert Path("other/config/mine.toml").read_text() == "mine"


@pytest.mark.parametrize("name", [*FILES, "words/__init__.py"])
def test_a_file_in_the_way_is_named_and_nothing_is_written(name: str) -> None:
    path = Path("shop") / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert refused() == (
        f"shop has files in the way ({name}): move them away, or choose a new or an empty folder."
    )


def test_links_to_nowhere_and_files_that_are_no_folders_are_in_the_way() -> None:
    Path("shop").mkdir()
    Path("shop/config").write_text("")
    Path("shop/words.py").symlink_to("nowhere")
    assert "in the way (config, words.py): " in refused()
    Path("shop/config").unlink()
    Path("shop/config").symlink_to("nowhere")
    assert "in the way (config, words.py): " in refused()


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_folder_is_refused(make: Any) -> None:
    make(Path("shop"))
    assert refused() == "shop is no folder: choose a new or an empty folder."


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    Path("file").touch()
    assert "because file cannot be made (File exists): choose another" in refused("file/shop")
    assert "cannot be made (File name too long): choose another" in refused("n" * 300)


@pytest.mark.parametrize("name", ["two\nlines", "back\\slash"])
def test_a_path_that_systemd_would_not_read_back_is_refused(name: str) -> None:
    assert "has a character that systemd cannot read: choose" in refused(name)


def test_what_was_written_is_removed_when_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    open_path = Path.open

    def opened(path: Path, *mode: Any, **options: Any) -> Any:
        if path.name == [*FILES][-1]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open_path(path, *mode, **options)

    monkeypatch.setattr(Path, "open", opened)
    assert refused("deep/shop") == (
        "Nothing is written, because deep/shop cannot be made (No space left on device): "
        "choose another folder."
    )
    assert not Path("deep").exists()


def test_the_settings_it_writes_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    init()
    monkeypatch.chdir("shop")
    pool = Settings.load().pool_settings("words")
    assert pool.imports == ("words",)
    assert [command.operation for command in pool.warmup.commands] == ["words.count"]


def test_the_requirement_is_this_version() -> None:
    init()
    line = Path("shop/requirements.txt").read_text()
    assert line == f"pooltasks[dashboard,embedded]=={pooltasks.__version__}\n"


def test_the_unit_names_the_folder_and_systemd_takes_it() -> None:
    init("100% mine")
    unit = Path("100% mine/pooltasks.service")
    lines = unit.read_text().splitlines()
    assert f"WorkingDirectory={str(unit.parent.absolute()).replace('%', '%%')}" in lines
    assert '#   sudo systemctl enable --now "$PWD/pooltasks.service"' in lines
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze on PATH (Debian: apt-get install systemd)")
    verified = subprocess.run(
        [program, "verify", "--man=no", unit.absolute()],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert "pooltasks.service" not in verified.stderr


# What the repository has, too, does not drift apart from it.


def test_the_templates_are_those_that_are_written() -> None:
    names = {
        path.relative_to(TEMPLATES).as_posix().removesuffix(FILLED_IN)
        for path in TEMPLATES.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == FILES.keys()


def test_the_compose_file_is_the_repository_s_without_its_second_pool_and_metrics() -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    for name in ("programs", "prometheus", "grafana"):
        text, removed = re.subn(BLOCK.format(name), "", text, flags=re.MULTILINE)
        assert removed == 1
        text = text.replace(f"  {name}-data:\n", "")
    text = text.replace(", with Prometheus and Grafana beside", "")
    # Deployments on one host would take each other's image.
    text = text.replace("  image: pooltasks\n", "")
    text = re.sub(r"\bcode\b", "words", text)
    assert (TEMPLATES / "docker-compose.yml").read_text("utf-8") == text
    assert yaml.safe_load(text)["services"].keys() == {
        *("server", "words", "control", "beat", "dashboard")
    }


def test_the_image_is_the_repository_s_with_pooltasks_from_its_requirement() -> None:
    def parts(path: Path) -> list[str]:
        return path.read_text("utf-8").split("\n\n")

    theirs, ours = parts(ROOT / "Dockerfile"), parts(TEMPLATES / "Dockerfile")
    *head, locked, _, code, user = theirs
    required = "COPY requirements.txt *.whl ./\nRUN pip install --find-links . -r requirements.txt"
    assert ours == [
        *head,
        locked.partition("COPY")[0] + required,
        code.replace("COPY workers ./workers", "COPY words.py ./"),
        user,
    ]


def test_the_image_copies_only_what_the_ignore_file_lets_through() -> None:
    theirs, ours = (
        (folder / ".dockerignore").read_text("utf-8").splitlines() for folder in (ROOT, TEMPLATES)
    )
    assert [line for line in ours if line[:1] != "!"] == [
        line for line in theirs if line[:1] != "!"
    ]
    lines = re.findall(
        r"^COPY (.+) \S+$", (TEMPLATES / "Dockerfile").read_text("utf-8"), re.MULTILINE
    )
    copied = [source for line in lines for source in line.split()]
    assert copied == [line[1:] for line in ours if line[:1] == "!"]


def test_the_pool_is_the_first_of_the_repository_with_another_module() -> None:
    theirs, ours = (
        tomllib.loads((folder / "config/pools.toml").read_text("utf-8"))["pools"]
        for folder in (ROOT, TEMPLATES)
    )
    (name, pool), first = next(iter(ours.items())), next(iter(theirs.values()))
    assert {**pool, "imports": None, "warmup": None} == {**first, "imports": None, "warmup": None}
    assert pool["warmup"]["strategy"] == first["warmup"]["strategy"]
    assert [name] == [*ours]


@pytest.mark.parametrize("name", ["words.py", "config/pools.toml"])
def test_the_tutorial_shows_the_files_as_they_are_written(name: str) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
    assert f"\n# {name}\n{(TEMPLATES / name).read_text('utf-8')}```\n" in page


def test_the_readme_names_every_other_file() -> None:
    text = (TEMPLATES / "README.md").read_text("utf-8")
    table = text.partition("##")[0]
    assert {*re.findall(r"`([\w./-]+\.\w+|Dockerfile|\.dockerignore)`", table)} == (
        FILES.keys() - {"README.md"}
    )
