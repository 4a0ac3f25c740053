"""Runs the examples of a page from top to bottom, as a reader would.

Examples are fenced blocks. The first word after the fence is the language:

- ``sh`` blocks run in a directory that looks like the repository's root. ``sh serves`` starts a
  service that runs until the page ends or the next one starts; ``sh not-run`` is only checked:
  bash parses it, and its commands and options exist.
- ``python`` and ``js`` blocks are programs and run too.
- ``toml``, ``csv`` and ``sh`` blocks with the name of a file write that file.
- ``text`` and ``json`` blocks after a block that runs are its output. Numbers, versions and hashes
  may differ; ``…`` stands for anything.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.markdown import ROOT, Block
from tests.support.programs import installed
from tests.support.serving import Service, environment, free_port
from tests.support.starting import interpreter_that_forks, passed, run

LINKED = ("app", "client", "model", "scripts", "docker", "tests", "ctr", "pyproject.toml",
          "docker-compose.yml", "docker-compose.gpu.yml",
          "docker-compose.catalogue.yml")  # fmt: skip
RUNNERS = {
    "sh": ["bash", "-euo", "pipefail", "-c"],
    "python": [sys.executable, "-c"],
    "js": ["node", "--input-type=module", "-e"],
}
OUTPUTS = ("text", "json")
PATIENT = {"timeout(500)": "timeout(60_000)", "timeout=0.5": "timeout=60", '"400"': '"60000"'}
"""Timeouts of the examples, and those of a test on a busy machine."""
SECONDS = 300
VERSION = r"\d{8}T\d{6}Z-[0-9a-f]{12}"
VARIES = re.compile(rf"{VERSION}|\b[0-9a-f]{{12,}}\b|\d[\d,.]*(?:e[+-]?\d+)?|\s*…\s*|\s+")


class Reader:
    """Someone who follows a page: a directory of their own, and the service that runs now."""

    def __init__(self, directory: Path, redis_port: int) -> None:
        self.directory = directory
        self._port, self._admin_port, self._redis_port = free_port(), free_port(), redis_port
        self._service: Service | None = None
        self._output = ""
        for name in LINKED:
            (directory / name).symlink_to(ROOT / name)
        python = directory / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        self._variables = interpreter_that_forks(python)

    def here(self, text: str) -> str:
        """Return a text with the documentation's ports replaced by free ones."""
        text = re.sub(r"(?<=127\.0\.0\.1:)8000\b", str(self._port), text)
        text = re.sub(r"(127\.0\.0\.1:|admin-port )8001\b", rf"\g<1>{self._admin_port}", text)
        for short, long in PATIENT.items():
            text = text.replace(short, long)
        return text.replace("cache:6379", f"127.0.0.1:{self._redis_port}")

    def follow(self, block: Block) -> None:
        """Do what a block says, or compare it with what the block before it has printed."""
        kind = block.words[0] if block.words else ""
        if kind == "not-run":
            check(block)
        elif kind == "serves":
            self.serve(block.text)
        elif kind:
            (self.directory / kind).write_text(block.text, encoding="utf-8")
        elif block.language in RUNNERS:
            self._output = self._run([*RUNNERS[block.language], self.here(block.text)])
        elif block.language in OUTPUTS and self._output:
            compare(block, self._output)
            self._output = ""

    def close(self) -> None:
        """End the service."""
        if self._service is not None:
            assert self._service.stop() == 0, self._service.log()
            self._service = None

    def _environment(self) -> dict[str, str]:
        # Keys that a page has made lie in the home directory.
        return environment({**self._variables, "COLUMNS": "100", "HOME": str(self.directory)})

    def _run(self, words: list[str]) -> str:
        env = self._environment()
        done = subprocess.run(
            words, cwd=self.directory, env=env, pass_fds=passed(env),
            capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, f"{words[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def serve(self, command: str) -> None:
        """Start a service, in place of the one that runs."""
        self.close()
        words = self.here(command.partition("#")[0].strip())
        program = ["bash", "-c", f'cd {self.directory} && exec env {words} "$@"', "serve"]
        patient = dict.fromkeys(("CTR_DEADLINE_MS", "CTR_REDIS_TIMEOUT_MS"), "60000")
        env = {**self._environment(), **patient}
        self._service = Service(None, self.directory / "log", env, program)
        self._port = self._service.port
        self._service.wait_ready()
        self._output = ""


def compare(block: Block, output: str) -> None:
    """Compare an answer or a command's output with what the page shows, in shape."""
    if block.language == "json" and "…" not in block.text:
        shown, found = json.loads(block.text), json.loads(output)
        assert shape(shown) == shape(found), f"line {block.line}:\n{output}"
        return
    pattern = pattern_of(block.text)
    assert re.search(pattern, output), f"line {block.line}: {block.text}\nbut was:\n{output}"


def pattern_of(text: str) -> str:
    """Return a regular expression for an output that is shown with ``…`` and other numbers."""
    pattern, place = "", 0
    for found in VARIES.finditer(text.strip()):
        pattern += re.escape(text.strip()[place : found.start()])
        word, place = found[0], found.end()
        if "…" in word:
            pattern += r"[\s\S]*?"
        elif word.isspace():
            # An answer has no line break at its end.
            pattern += r"\s*" if "\n" in word else r"\s+"
        elif re.fullmatch(VERSION, word):
            pattern += VERSION
        elif re.fullmatch(r"[0-9a-f]{12,}", word):
            pattern += r"[0-9a-f]+"
        else:
            pattern += r"-?\d[\d,.]*(?:e[+-]?\d+)?"
    return pattern + re.escape(text.strip()[place:])


def shape(value: Any) -> Any:
    """Return a JSON value with its numbers and versions made alike; texts and keys stay.

    A place of a ranking is like any other: the order depends on what was trained.
    """
    if isinstance(value, dict) and "score" in value:
        return {key: type(each).__name__ for key, each in value.items()}
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    if isinstance(value, float):
        return "a number"
    if isinstance(value, str):
        return re.sub(VERSION, "VERSION", value)
    return value


def check(block: Block) -> None:
    """Check a block that is not run: bash parses it, its commands and options exist."""
    done = subprocess.run(["bash", "-n", "-c", block.text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = block.text.replace("\\\n", " ")
    for command, rest in re.findall(r"(?:\./ctr|-m model|-m app)( +\w[\w-]*)?([^\n|;&]*)", text):
        name = command.strip()
        options = re.findall(r"(?<=\s)--[a-z][\w-]*", rest.partition("#")[0])
        if options or name:
            known = help_of(name)
            assert set(options) <= known, f"{name}: {set(options) - known}"
    for script in re.findall(r"(?<![\w/])scripts/[\w.-]+", text):
        assert (ROOT / script).is_file(), script


OF_APP = {
    "": [()],
    "serve": [()],
    "items": [("items", "put"), ("items", "get")],
    "profiles": [("profiles", "put"), ("profiles", "get")],
}
"""The commands of ``./ctr`` that are the service's, and the words whose help has their options."""


@cache
def help_of(command: str) -> set[str]:
    """Return the options that a command of ``./ctr`` has."""
    if command in OF_APP:
        shown = [
            run("app", *words, "--help", env=environment()).stdout for words in OF_APP[command]
        ]
        return set(re.findall(r"--[a-z][a-z-]*", "".join(shown)))
    from typer.main import get_command

    from model.__main__ import cli

    commands = get_command(cli).commands  # type: ignore[attr-defined]
    assert command in commands, f"./ctr {command}: no such command"
    found = {option for each in commands[command].params for option in each.opts}
    return found | {"--help"}


def missing_program(block: Block) -> str | None:
    """Return a program that a block needs and that is not installed here."""
    if block.words[:1] == ("not-run",):
        return None
    needed = ["node"] if block.language == "js" else []
    needed += ["curl"] if block.language == "sh" and re.search(r"\bcurl\b", block.text) else []
    needed += ["openssl"] if block.language == "sh" and "openssl" in block.text else []
    return next((name for name in needed if not installed(name)), None)
