"""Every setting is read from the environment and from a flag, and checked."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from pydantic_settings import CliSettingsSource

from app.settings import Settings, unknown_variables

OTHER: dict[str, tuple[str, Any]] = {
    "gpu_small_rows": ("0", 0),
    "gpu_memory_bytes": ("1000", 1000),
    "gpu_arena": ("doubling", "doubling"),
    "gpu_tf32": ("on", "on"),
    "gpu_graphs": ("off", "off"),
    "item_parts_bytes": ("0", 0),
    "parts_dir": ("/var/lib/parts", Path("/var/lib/parts")),
    "bundle": ("elsewhere", Path("elsewhere")),
    "host": ("0.0.0.0", "0.0.0.0"),
    "provider": ("cpu", "cpu"),
    "precision": ("int8", "int8"),
    "unknown_fields": ("error", "error"),
    "drain_seconds": ("1.5", 1.5),
    "lame_duck_seconds": ("1.5", 1.5),
    "receive_seconds": ("1.5", 1.5),
    "engine_hang_seconds": ("1.5", 1.5),
    "bundle_poll_seconds": ("0.5", 0.5),
    "log_level": ("debug", "debug"),
    "explain": ("on", "on"),
    "metrics": ("off", "off"),
    "access_log": ("all", "all"),
    "admin_port": ("17", 17),
    "pages": ("on", "on"),
    "pages_hosts": ("ctr.example", "ctr.example"),
    "admin_host": ("0.0.0.0", "0.0.0.0"),
    "verified_files": ("/var/cache/ctr/verified.json", Path("/var/cache/ctr/verified.json")),
    "admin_key_file": ("/run/secrets/admin", Path("/run/secrets/admin")),
    "gate": ("/etc/ctr/gate.toml", Path("/etc/ctr/gate.toml")),
    "redis_url": ("redis://cache", SecretStr("redis://cache")),
    "redis_password_file": ("/run/secrets/redis", Path("/run/secrets/redis")),
    "vocabulary_fallback": ("oov", "oov"),
    "store": ("sqlite:///var/lib/ctr/items.db", SecretStr("sqlite:///var/lib/ctr/items.db")),
    "unknown_items": ("error", "error"),
    "item_key": ("item_id", "item_id"),
    "profile_key": ("user_id", "user_id"),
    "profile_seconds": ("0", 0.0),
    "request_log": ("/var/log/ctr", Path("/var/log/ctr")),
    "request_log_share": ("0.5", 0.5),
    "request_log_key": ("user_id", "user_id"),
    "request_log_omit": ("zip, age", "zip, age"),
    "feedback": ("/var/lib/events", Path("/var/lib/events")),
    "feedback_key_file": ("/run/secrets/feedback", Path("/run/secrets/feedback")),
}
"""Values other than the default; settings that are not here take a whole number."""
NO_DEFAULT = (
    "bundle",
    "gpu_small_rows",
    "gpu_memory_bytes",
    "item_parts_bytes",
    "parts_dir",
    "gate",
    "verified_files",
    "redis_url",
    "redis_password_file",
    "admin_port",
    "admin_key_file",
    "store",
    "item_key",
    "profile_key",
    "pages_hosts",
    "request_log",
    "request_log_key",
    "request_log_omit",
    "feedback",
    "feedback_key_file",
)


NEEDED = {
    "item_key": ("CTR_STORE", "sqlite:///store.db"),
    "profile_key": ("CTR_STORE", "sqlite:///store.db"),
    "feedback_key_file": ("CTR_FEEDBACK", "events"),
}
"""Settings that another one has no meaning without."""


def other(name: str) -> tuple[str, Any]:
    """A value that differs from the default: as text, and as the setting holds it."""
    if name in OTHER:
        return OTHER[name]
    assert Settings.model_fields[name].annotation is int, f"give {name} a value in OTHER"
    return "17", 17


@cache
def flags() -> CliSettingsSource[Any]:
    """The parser of command lines: making it costs more than all that a test reads by it."""
    return CliSettingsSource(Settings)


def read(*words: str) -> Settings:
    """The settings that a command line gives."""
    return Settings(_cli_settings_source=flags()(args=list(words)))  # type: ignore[call-arg]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CTR_{name.upper()}", raising=False)


@pytest.fixture(scope="module")
def defaults() -> Settings:
    """All settings where only the bundle is given."""
    with pytest.MonkeyPatch.context() as environment:
        for name in Settings.model_fields:
            environment.delenv(f"CTR_{name.upper()}", raising=False)
        return read("--bundle", "somewhere")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_environment_and_flag_both_work(
    name: str, defaults: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each setting has a variable and a flag, and the flag wins."""
    text, value = other(name)
    monkeypatch.setenv("CTR_BUNDLE", "somewhere")
    if name in NEEDED:
        monkeypatch.setenv(*NEEDED[name])
    default = getattr(defaults, name)
    assert default != value
    assert getattr(read(f"--{name.replace('_', '-')}", text), name) == value
    monkeypatch.setenv(f"CTR_{name.upper()}", text)
    assert getattr(read(), name) == value
    if name not in NO_DEFAULT:
        assert getattr(read(f"--{name.replace('_', '-')}", str(default)), name) == default


def test_settings_are_frozen() -> None:
    """Settings do not change after they have been read."""
    settings = read("--bundle", "x")
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "65536"),
        ("store", "sqlite://relative.db"),
        ("store", "/no/url"),
        ("item_key", "sku"),
        ("profile_key", "user_id"),
        ("feedback_key_file", "keys"),
        ("request_log_share", "1.01"),
        ("port", "-1"),
        ("admin_port", "0"),
        ("workers", "0"),
        ("workers", "two"),
        ("deadline_ms", "0"),
        ("drain_seconds", "0"),
        ("engine_hang_seconds", "0"),
        ("batch_linger_us", "-1"),
        ("provider", "gpu"),
        ("log_level", "INFO"),
    ],
)
def test_values_out_of_range_are_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that a setting cannot have is an error that names the setting."""
    monkeypatch.setenv("CTR_BUNDLE", "somewhere")
    monkeypatch.setenv(f"CTR_{name.upper()}", value)
    with pytest.raises(ValidationError) as caught:
        Settings()  # type: ignore[call-arg]
    assert [problem["loc"] for problem in caught.value.errors()] == [(name,)]


def test_variables_that_are_not_settings_are_found() -> None:
    """Names with the prefix that no setting has, in any case; other names are not ours."""
    names = ["CTR_PORT", "CTR_PROT", "ctr_port", "CTR_max_body_bytes", "PATH", "CTR_"]
    assert unknown_variables(names) == ["CTR_", "CTR_PROT"]


def test_links_of_kubernetes_services_are_not_told() -> None:
    """Kubernetes sets these for a Service named ``ctr``: nobody mistyped them."""
    links = [
        "CTR_SERVICE_HOST", "CTR_SERVICE_PORT", "CTR_SERVICE_PORT_HTTP", "CTR_PORT_8000_TCP",
        "CTR_PORT_8000_TCP_ADDR", "CTR_PORT_8000_TCP_PORT", "CTR_PORT_8000_TCP_PROTO",
    ]  # fmt: skip
    assert unknown_variables([*links, "CTR_SERVICE"]) == ["CTR_SERVICE"]


@pytest.mark.parametrize("name", ["port", "admin_port"])
def test_a_kubernetes_service_is_explained(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``CTR_PORT`` of a Service named ``ctr`` is an error that says what it is and what to do."""
    monkeypatch.setenv("CTR_BUNDLE", "somewhere")
    monkeypatch.setenv(f"CTR_{name.upper()}", "tcp://10.96.0.7:8000")
    with pytest.raises(ValidationError) as caught:
        Settings()  # type: ignore[call-arg]
    (problem,) = caught.value.errors()
    assert problem["loc"] == (name,)
    for expected in ("tcp://10.96.0.7:8000", "Kubernetes Service", "enableServiceLinks: false"):
        assert expected in problem["msg"]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_an_empty_variable_is_an_unset_one(
    name: str, defaults: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compose files and templates set what they have no value for to nothing."""
    monkeypatch.setenv("CTR_BUNDLE", "somewhere")
    monkeypatch.setenv(f"CTR_{name.upper()}", "")
    if name == "bundle":
        with pytest.raises(ValidationError, match="Field required"):
            Settings()  # type: ignore[call-arg]
    else:
        assert Settings() == defaults  # type: ignore[call-arg]


@pytest.mark.parametrize("variable", ["CTR_PORT", "ctr_port", "Ctr_Port"])
def test_a_variable_has_its_name_in_any_case(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment of Windows knows no case, and templates write it as they like."""
    monkeypatch.setenv(variable, "17")
    assert read("--bundle", "x").port == 17


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--gpu-small-rows", "3", "--gpu-small-rows", "5"], 5),
        (["--gpu-small-rows=5"], 5),
        (["--gpu-small-rows", ""], 4),
        (["--gpu-small-rows", "None"], None),
    ],
    ids=["the last counts", "with a sign", "empty is not given", "None unsets"],
)
def test_flags_beside_a_variable(
    words: list[str], value: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flag that says something takes precedence."""
    monkeypatch.setenv("CTR_GPU_SMALL_ROWS", "4")
    assert read("--bundle", "x", *words).gpu_small_rows == value


def test_a_flag_is_not_the_value_of_another(capsys: pytest.CaptureFixture[str]) -> None:
    """One that lacks its value is told, whichever flag follows."""
    with pytest.raises(SystemExit) as ended:
        read("--bundle", "x", "--gate", "--port", "5")
    assert ended.value.code == 2
    assert "argument --gate: expected one argument" in capsys.readouterr().err


def test_what_is_given_counts_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """For programs that build the settings themselves."""
    monkeypatch.setenv("CTR_PORT", "17")
    monkeypatch.setenv("CTR_HOST", "::")
    settings = Settings(bundle=Path("x"), port=18)
    assert (settings.port, settings.host) == (18, "::")
