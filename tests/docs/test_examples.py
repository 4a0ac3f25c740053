"""The examples of the documentation do what the pages say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.features.spec import FeatureSpec
from app.rollout.gate import Gate
from model.config import SettingsFile, TrainConfig
from tests.docs.examples import Reader, check, missing_program
from tests.support.markdown import ROOT, Block, blocks, pages
from tests.support.programs import program
from tests.support.redis_server import RedisServer
from tests.support.trained import trained

FOLLOWED = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
"""Pages whose examples run, from top to bottom."""


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a bundle like those that ``scripts/tiny-bundle`` makes."""
    scratch = tmp_path_factory.mktemp("films")
    spec, log = ROOT / "model/specs/movielens-100k.toml", scratch / "log.csv"
    subprocess.run(
        [sys.executable, "scripts/made_up_log.py", spec, log],
        cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    config = TrainConfig(
        embedding_size=4, hidden=(16,), batch_size=256, epochs=3, learning_rate=0.02, threads=1
    )
    trained(spec, log, config, scratch / "bundles")
    return scratch / "bundles"


@pytest.fixture
def reader(films: Path, tmp_path: Path) -> Iterator[Reader]:
    """A reader with a bundle and a Redis."""
    with RedisServer() as redis:
        someone = Reader(tmp_path, redis.port)
        shutil.copytree(films, tmp_path / "bundles")
        yield someone
        someone.close()


@pytest.mark.e2e
@pytest.mark.timeout(600)  # Some pages train.
@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.name)
def test_a_reader_can_follow(page: Path, reader: Reader) -> None:
    """Commands, requests and programs of a page work, and print what the page shows."""
    if page.name == "README.md":
        reader.serve("./ctr serve --bundle bundles/")
    for block in blocks(page):
        absent = missing_program(block)
        if absent is not None:
            pytest.skip(f"program not installed: {absent}; page followed to line {block.line}")
        reader.follow(block)


def of_language(*languages: str) -> list[object]:
    """Return all blocks of languages, named by page and line."""
    return [
        pytest.param(block, id=f"{page.relative_to(ROOT)}:{block.line}")
        for page in pages()
        for block in blocks(page)
        if block.language in languages
    ]


@pytest.mark.parametrize("block", of_language("toml"))
def test_settings_files_are_right(block: Block, tmp_path: Path) -> None:
    """A TOML block is a feature spec or a file of training settings, or a part of one."""
    found = tomllib.loads(block.text)
    if "label" in found:
        FeatureSpec.parse(block.text)
    elif found.keys() & {"fields", "negatives", "crosses"}:
        whole = 'label = "click"\n'
        sides = {field["side"] for field in found.get("fields", [])}
        text = whole + block.text
        for side in {"context", "candidate"} - sides:
            text += f'\n[[fields]]\nname = "{side}"\nkind = "categorical"\nside = "{side}"\n'
        FeatureSpec.parse(text)
    elif found.keys() & {"same_test", "test", "golden"}:
        file = tmp_path / "gate.toml"
        file.write_text(block.text)
        Gate.load(file)
    else:
        file = tmp_path / "some.train.toml"
        file.write_text(block.text)
        SettingsFile.read(file)


@pytest.mark.parametrize("block", of_language("sh", "bash"))
def test_commands_exist(block: Block) -> None:
    """bash parses each block of commands; the commands and their options exist."""
    check(block)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("deepfm-serving.service", ["systemd-analyze", "verify", "--man=no"]),
        ("deepfm-serving.socket", ["systemd-analyze", "verify", "--man=no"]),
        ("nginx.conf", ["nginx", "-t", "-e", "stderr", "-g", "pid nginx.pid;", "-p", ".", "-c"]),
        ("haproxy.cfg", ["haproxy", "-c", "-f"]),
    ],
)
def test_files_for_other_programs_are_right(name: str, words: list[str], tmp_path: Path) -> None:
    """The programs themselves accept the snippets of docs/operations.md."""
    program(words[0])
    page = ROOT / "docs" / "operations.md"
    # What nginx writes it may write without root.
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f" {kind}_temp_path {kind};" for kind in kinds)
    # All files, because a socket unit is checked together with its service unit.
    for block in blocks(page):
        if block.language not in ("ini", "nginx", "haproxy"):
            continue
        # The unit's program and user are those of a machine where it is installed.
        text = block.text.replace("/opt/deepfm-serving/.venv/bin/python", sys.executable)
        text = text.replace("/opt/deepfm-serving", str(ROOT)).replace("User=ctr\n", "")
        text = text.replace("http {", "http { access_log off;" + places)
        (tmp_path / block.words[0]).write_text(text)
    file = tmp_path / name
    done = subprocess.run([*words, str(file)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if name in line and "ignor" in line]
