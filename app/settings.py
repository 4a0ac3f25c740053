"""Every knob of the service: a command-line flag and a ``CTR_…`` environment variable."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

Provider = Literal["auto", "cuda", "cpu"]


class Settings(BaseSettings):
    """Read once at start, then frozen and handed down as plain values."""

    model_config = SettingsConfigDict(
        env_prefix="CTR_",
        frozen=True,
        extra="forbid",
        cli_prog_name="python -m app",
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
    )

    bundle: Path = Field(description="a bundle, or a directory of them (newest complete one)")
    bundle_poll_seconds: PositiveFloat = Field(
        2.0, description="how often a directory of bundles is looked at for another one to serve"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    workers: PositiveInt = Field(
        1, description="processes that serve the port together, each with an engine of its own"
    )
    admin_port: int | None = Field(
        None, ge=1, le=65535, description="port of the admin endpoints; without it, there are none"
    )
    admin_host: str = Field("127.0.0.1", description="address of the admin endpoints")
    admin_key_file: Path | None = Field(
        None, description="a file with the SHA-256 of the admin endpoints' keys, a line for each"
    )
    provider: Provider = Field(
        "auto", description="auto, cuda (refuses to start without it), or cpu"
    )
    precision: Literal["float32", "int8"] = Field(
        "float32", description="of the matrix products; int8 needs a bundle with such a graph"
    )
    engine_threads: NonNegativeInt = Field(
        0,
        description="threads of an engine; 0 is a worker's part of the CPU quota less one",
    )
    max_batch_rows: PositiveInt = Field(256, description="most rows of one engine run")
    batch_linger_us: NonNegativeInt = Field(
        0, description="how long an idle engine waits for more rows, in microseconds"
    )
    max_queue_rows: PositiveInt = Field(20_000, description="most rows waiting for the engine")
    deadline_ms: PositiveInt = Field(
        1_000, description="time a request has; X-Request-Timeout-Ms may shorten it"
    )
    receive_seconds: PositiveFloat = Field(
        30.0, description="how long a request may take to arrive, and its answer to be taken"
    )
    max_body_bytes: PositiveInt = Field(8 * 2**20, description="largest request body")
    max_row_bytes: PositiveInt = Field(
        64 * 2**10,
        description="largest instance, context or candidate, or value of a column, as JSON",
    )
    max_instances: PositiveInt = Field(5_000, description="most instances of a /predict")
    max_candidates: PositiveInt = Field(5_000, description="most candidates of a /rank")
    redis_url: SecretStr | None = Field(
        None, description="where the vocabulary is published; without it, it is kept in memory"
    )
    redis_password_file: Path | None = Field(
        None, description="a file with the password, or a user and a password on two lines"
    )
    redis_timeout_ms: PositiveInt = Field(
        100, description="most time of a request that Redis may take"
    )
    vocabulary_cache: PositiveInt = Field(
        1_000_000, description="values and absences out of Redis that are remembered"
    )
    vocabulary_fallback: Literal["snapshot", "oov", "reject"] = Field(
        "snapshot", description="what stands in while Redis does not answer"
    )
    unknown_fields: Literal["ignore", "error"] = Field(
        "ignore", description="what happens to fields that the spec does not know"
    )
    drain_seconds: PositiveFloat = Field(
        20.0, description="how long accepted requests may take to finish after SIGTERM"
    )
    slow_request_ms: NonNegativeInt = Field(
        500, description="a request that takes longer is logged with its stages; 0 is never"
    )
    metrics: Literal["on", "off"] = Field(
        "on", description="off: what passes is not counted, and /metrics is not there"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe log lines that are written"
    )
