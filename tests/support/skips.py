"""A pytest plugin: skipped tests are counted by reason, and may be held against a list."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path

import pytest

LIST = Path(__file__).resolve().parents[1] / "skips.toml"
OPTION = "--listed-skips"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that ``.ci/run`` gives."""
    parser.addoption(
        OPTION, action="store_true", help=f"fail where a reason to skip is not in tests/{LIST.name}"
    )


def reasons(reporter: pytest.TerminalReporter) -> Counter[str]:
    """Return how many tests were skipped for each reason."""
    found: Counter[str] = Counter()
    for report in reporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple):
            found[str(report.longrepr[2]).removeprefix("Skipped: ").splitlines()[0]] += 1
    return found


def unlisted(found: Counter[str]) -> list[str]:
    """Return the reasons that the list does not have."""
    listed = tomllib.loads(LIST.read_text(encoding="utf-8"))["skips"]
    known = tuple(each["reason"] for each in listed)
    return [reason for reason in sorted(found) if not reason.startswith(known)]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in which a test was skipped for a reason that is not listed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and session.config.getoption(OPTION) and unlisted(reasons(reporter)):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the reasons, and those that are not listed where that matters."""
    found = reasons(terminalreporter)
    if not found:
        return
    surprises = unlisted(found) if config.getoption(OPTION) else []
    terminalreporter.section("skipped, by reason")
    for reason, count in sorted(found.items()):
        note = f"  NOT LISTED in tests/{LIST.name}" if reason in surprises else ""
        terminalreporter.line(f"{count:4}  {reason}{note}")
