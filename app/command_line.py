"""The command line of ``python -m app``: its help, and the settings from its flags."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from pydantic_settings import CliSettingsSource

from app import logs
from app.settings import Description, Settings, descriptions, unknown_variables

PROGRAM = "python -m app"
USAGE = f"usage: {PROGRAM} --bundle PATH [--SETTING VALUE ...]\n"
INTRODUCTION = """\
Serve a trained bundle over HTTP.

Each option is also an environment variable: --max-batch-rows is CTR_MAX_BATCH_ROWS.
A flag takes precedence over its variable.
"""
OTHER_COMMANDS = """
Instead of serving:
  --check BUNDLE [--against BUNDLE]
      Load and verify a bundle, score its golden requests, compare the requests that it takes with
      those of the bundle in use, and say what would happen; exit code 0 if it would be served,
      1 if it would be refused or would wait to be activated
  --openapi BUNDLE
      Print the OpenAPI document of a bundle, as its service shows it at /openapi.json, and exit
  items put|get|delete|export|count
      Store the items that /rank may name by id; items --help says how
  --version
      Show the version of this program and exit
  -h, --help
      Show this help and exit
"""
MISSING = {"bundle": "missing: give --bundle PATH or set CTR_BUNDLE (a bundle, or their directory)"}
"""Advice where a required setting is absent."""
_WIDTH, _INDENT = 96, 6
log = logging.getLogger(__name__)


def read_settings(arguments: Sequence[str] | None = None) -> Settings:
    """Read the settings from flags and the environment, or from the environment alone.

    Sets up the log as they say. Where a setting is wrong the process ends with exit code 2 and a
    line on standard error for each problem; ``--help`` prints the help and ends it with 0.
    """
    try:
        settings = _parse(arguments)
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(map(str, problem["loc"]))
            told = MISSING.get(name) if problem["type"] == "missing" else None
            print(f"setting {name}: {told or problem['msg']}", file=sys.stderr)
        sys.exit(2)
    logs.set_up(settings.log_level)
    for name in unknown_variables(os.environ):
        log.warning("unknown environment variable %s ignored", name)
    return settings


class Command(NamedTuple):
    """The process' task other than serving, and the arguments that are settings."""

    check: Path | None
    against: Path | None
    openapi: bool
    version: bool
    settings: list[str]


def read_command(arguments: Sequence[str]) -> Command:
    """Take the flags that are not settings out of the command line.

    Where one is wrong the process ends with exit code 2.
    """
    parser = _Parser(prog=PROGRAM, allow_abbrev=False, add_help=False)
    parser.add_argument("--check", type=Path, metavar="BUNDLE")
    parser.add_argument("--against", type=Path, metavar="BUNDLE")
    parser.add_argument("--openapi", type=Path, metavar="BUNDLE")
    parser.add_argument("--version", action="store_true")
    known, rest = parser.parse_known_args(list(arguments))
    if known.against is not None and known.check is None:
        parser.error("--against needs --check")
    if known.check is not None and known.openapi is not None:
        parser.error("--check and --openapi are two commands")
    bundle = known.check or known.openapi
    if bundle is not None:
        rest += ["--bundle", str(bundle)]
    return Command(known.check, known.against, known.openapi is not None, known.version, rest)


def _parse(arguments: Sequence[str] | None) -> Settings:
    if arguments is None:
        return Settings()
    source: CliSettingsSource[ArgumentParser] = CliSettingsSource(
        Settings,
        root_parser=_Parser(prog=PROGRAM, allow_abbrev=False),
        cli_parse_args=list(arguments),
    )
    return Settings(_cli_settings_source=source)


def help_text() -> str:
    """Return what each setting does, with its default and unit, group by group."""
    lines = [USAGE, INTRODUCTION.rstrip()]
    group = ""
    for setting in descriptions():
        if setting.group != group:
            group = setting.group
            lines.append(f"\n{group}:")
        lines += _described(setting)
    return "\n".join([*lines, OTHER_COMMANDS])


def _described(setting: Description) -> list[str]:
    value = "{" + ",".join(setting.choices) + "}" if setting.choices else setting.kind
    default = f"default: {setting.default} {setting.unit}".rstrip()
    if setting.unit == "bytes" and setting.default:
        default += f" = {readable_bytes(int(setting.default))}"
    if not setting.default:
        default = "required" if setting.name == "bundle" else "no default"
    text = textwrap.wrap(f"{setting.text} ({default})", _WIDTH - _INDENT)
    return [f"  {setting.flag} {value}", *(" " * _INDENT + line for line in text)]


def readable_bytes(size: int) -> str:
    """Return a size in the largest binary unit that holds it without a remainder."""
    for exponent, unit in ((20, "MiB"), (10, "KiB")):
        if size % 2**exponent == 0:
            return f"{size // 2**exponent} {unit}"
    return f"{size} bytes"


class _Parser(ArgumentParser):
    def format_help(self) -> str:
        return help_text()

    def format_usage(self) -> str:
        return USAGE
