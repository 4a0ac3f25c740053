"""The command line tells at once what is wrong, and says what every flag does."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from app.command_line import USAGE, help_text, read_settings, readable_bytes
from app.settings import Settings, descriptions


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting comes from the environment of the tests."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CTR_{name.upper()}", raising=False)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_printed(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help ends with exit code 0, and needs no setting."""
    with pytest.raises(SystemExit) as ended:
        read_settings([flag])
    assert ended.value.code == 0
    assert "--max-batch-rows NUMBER" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "setting bundle: missing: give --bundle PATH or set CTR_BUNDLE"),
        (["--bundle", "x", "--port", "tcp"], "setting port: Input should be a valid integer"),
        (["--bundle", "x", "--workers", "0"], "setting workers: Input should be greater than 0"),
    ],
)
def test_a_wrong_setting_is_named(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and a line on standard error that names the setting."""
    with pytest.raises(SystemExit) as ended:
        read_settings(words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(line)
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [["--nope"], ["--max-batch-row", "3"]])
def test_an_unknown_flag_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 with a short usage, not with all flags; the start of a flag is not a flag."""
    with pytest.raises(SystemExit) as ended:
        read_settings(["--bundle", "x", *words])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"{USAGE}python -m app: error: unrecognized arguments: {' '.join(words)}\n"
    )


@pytest.fixture
def log_as_before() -> Iterator[None]:
    """The log is set up as it was once the test is over."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("log_as_before")
def test_without_arguments_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server's application has no command line: flags of that are not its own."""
    monkeypatch.setattr("sys.argv", ["uvicorn", "--port", "1"])
    monkeypatch.setenv("CTR_BUNDLE", "somewhere")
    assert read_settings().port == 8000


@pytest.mark.parametrize(
    ("size", "text"), [(8 * 2**20, "8 MiB"), (1536, "1536 bytes"), (2**10, "1 KiB")]
)
def test_sizes_are_readable(size: int, text: str) -> None:
    """A size is shown in the largest unit that holds it exactly."""
    assert readable_bytes(size) == text


def test_every_setting_is_described() -> None:
    """No setting is without a text and a group, and numbers of time and size have a unit."""
    found = {setting.name: setting for setting in descriptions()}
    assert set(found) == set(Settings.model_fields)
    units = {"seconds": "seconds", "ms": "milliseconds", "us": "microseconds", "bytes": "bytes"}
    for name, setting in found.items():
        assert setting.text
        ending = name.rpartition("_")[2]
        assert setting.unit == units[ending] if ending in units else True, name
        assert setting.choices == () or setting.default in setting.choices


def test_the_help_shows_every_setting() -> None:
    """Each flag is followed by its text, its default and its unit, in lines that fit a screen."""
    rest = " ".join(help_text().split())
    for setting in descriptions():
        _, _, rest = rest.partition(f" {setting.flag} ")
        assert setting.text in rest, setting.name
        start = rest.index(setting.text) + len(setting.text)
        default = f"default: {setting.default} {setting.unit}".rstrip()
        expected = default if setting.default else ("required", "no default")
        assert rest[start:].startswith(" (")
        assert rest[start + 2 :].startswith(expected), setting.name
    assert max(map(len, help_text().splitlines())) <= 100
