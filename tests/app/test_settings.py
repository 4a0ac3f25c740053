"""Every setting: by environment, by flag, checked, and in docs/settings.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from app.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
TABLE_ROW = re.compile(r"^\| *(`CTR_[A-Z_]+`.*?) *\| *(.*?) *\|", re.MULTILINE)
OTHER: dict[str, tuple[str, Any]] = {
    "bundle": ("elsewhere", Path("elsewhere")),
    "host": ("0.0.0.0", "0.0.0.0"),
    "provider": ("cpu", "cpu"),
    "precision": ("int8", "int8"),
    "unknown_fields": ("error", "error"),
    "drain_seconds": ("1.5", 1.5),
    "receive_seconds": ("1.5", 1.5),
    "bundle_poll_seconds": ("0.5", 0.5),
    "log_level": ("debug", "debug"),
    "metrics": ("off", "off"),
    "admin_port": ("17", 17),
    "admin_host": ("0.0.0.0", "0.0.0.0"),
    "admin_key_file": ("/run/secrets/admin", Path("/run/secrets/admin")),
    "redis_url": ("redis://cache", SecretStr("redis://cache")),
    "redis_password_file": ("/run/secrets/redis", Path("/run/secrets/redis")),
    "vocabulary_fallback": ("oov", "oov"),
}
"""Values other than the default; settings that are not here take a whole number."""
NO_DEFAULT = ("bundle", "redis_url", "redis_password_file", "admin_port", "admin_key_file")


def other(name: str) -> tuple[str, Any]:
    """A value that differs from the default: as text, and as the setting holds it."""
    if name in OTHER:
        return OTHER[name]
    assert Settings.model_fields[name].annotation is int, f"give {name} a value in OTHER"
    return "17", 17


def read(*words: str) -> Settings:
    """The settings that a command line gives."""
    return Settings(_cli_parse_args=list(words))  # type: ignore[call-arg]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CTR_{name.upper()}", raising=False)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_environment_and_flag_both_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting has a variable and a flag, and the flag wins."""
    text, value = other(name)
    monkeypatch.setenv("CTR_BUNDLE", "somewhere")
    default = getattr(read(), name)
    assert default != value
    assert getattr(read(f"--{name.replace('_', '-')}", text), name) == value
    monkeypatch.setenv(f"CTR_{name.upper()}", text)
    assert getattr(read(), name) == value
    if name not in NO_DEFAULT:
        assert getattr(read(f"--{name.replace('_', '-')}", str(default)), name) == default


def test_settings_are_frozen() -> None:
    """What was read at start stays."""
    settings = read("--bundle", "x")
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_does(name: str) -> None:
    """--help has a sentence for each."""
    assert Settings.model_fields[name].description


def test_every_setting_is_in_the_documentation() -> None:
    """The table of docs/settings.md has exactly the settings that exist."""
    rows = TABLE_ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert {name for names, _ in rows for name in re.findall(r"CTR_[A-Z_]+", names)} == {
        f"CTR_{name.upper()}" for name in Settings.model_fields
    }
