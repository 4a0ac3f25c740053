"""Settings of the service: each is a command-line flag and a ``CTR_…`` environment variable."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError, PydanticUndefined
from pydantic_settings import BaseSettings, SettingsConfigDict

Provider = Literal["auto", "cuda", "cpu"]
Group = Literal[
    "Bundle",
    "Network",
    "Engine",
    "GPU",
    "Batching and limits",
    "Vocabulary in Redis",
    "Catalogue",
    "Explanations",
    "Metrics and logs",
    "Request log and feedback",
    "Admin",
    "Pages",
]
PREFIX = "CTR_"
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT_\d+_(TCP|UDP|SCTP)(_|$)")
_KINDS: dict[type, str] = {Path: "PATH", SecretStr: "URL", str: "TEXT"}


def _setting(
    group: Group, default: object, description: str, unit: str = "", **constraints: Any
) -> Any:
    """Describe a setting; ``unit`` is that of its value, and of its default."""
    return Field(
        default,
        description=description,
        json_schema_extra={"group": group, "unit": unit},
        **constraints,
    )


class Settings(BaseSettings):
    """All settings, read once at start and then frozen."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        cli_prog_name="python -m app",
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
    )

    bundle: Path = _setting(
        "Bundle",
        ...,
        "The bundle to serve, or a directory of bundles: then the newest complete one, or the one"
        " that its file CURRENT names",
    )
    bundle_poll_seconds: PositiveFloat = _setting(
        "Bundle", 2.0, "Time between two looks at a directory for another bundle", "seconds"
    )
    verified_files: Path | None = _setting(
        "Bundle",
        None,
        "File in which the service notes the large files of bundles that it has verified, so that"
        " the next start does not read them again while they are unchanged; without it every start"
        " reads every file. Only the service's user may be able to write to its directory",
    )
    gate: Path | None = _setting(
        "Bundle",
        None,
        "TOML file of bounds on quality: a newer bundle of the directory that breaks one is held"
        " until an operator activates it. Without it every whole bundle is taken up",
    )
    unknown_fields: Literal["ignore", "error"] = _setting(
        "Bundle",
        "ignore",
        "Fields in requests that the feature spec does not know: ignore counts them and logs each"
        " name once, error refuses the request with 422",
    )

    host: str = _setting(
        "Network",
        "127.0.0.1",
        "Address or name to listen on; :: is all addresses of IPv6 and IPv4, 0.0.0.0 all of IPv4,"
        " unix:/path a Unix socket; sockets that systemd passes take precedence",
        min_length=1,
    )
    port: int = _setting(
        "Network",
        8000,
        "Port to listen on; 0 takes a free one, which the log names",
        ge=0,
        le=65535,
    )
    workers: PositiveInt = _setting(
        "Network",
        1,
        "Worker processes that share the port, each with an event loop and an engine of its own",
    )
    receive_seconds: PositiveFloat = _setting(
        "Network",
        30.0,
        "Time limit for a request to arrive in full, and for its answer to be taken",
        "seconds",
    )
    keep_alive_seconds: PositiveInt = _setting(
        "Network",
        75,
        "Time that a connection is kept open for another request; longer than the proxy in front"
        " keeps it",
        "seconds",
    )
    max_connections: NonNegativeInt = _setting(
        "Network",
        0,
        "Open connections of a worker; one more closes the one that is idle for the longest."
        " 0 means the limit of file descriptors - 100",
        "connections",
    )
    lame_duck_seconds: NonNegativeFloat = _setting(
        "Network",
        0.0,
        "Time after SIGTERM in which /ready is 503 while requests and connections are still"
        " accepted, so that proxies can turn to other instances",
        "seconds",
    )
    drain_seconds: PositiveFloat = _setting(
        "Network", 20.0, "Time that accepted requests have to finish after that", "seconds"
    )

    provider: Provider = _setting(
        "Engine",
        "auto",
        "Where the engine runs: auto takes a GPU if it can be used, cuda does not start without"
        " one, cpu never looks for one",
    )
    precision: Literal["auto", "float32", "int8"] = _setting(
        "Engine",
        "float32",
        "Precision of the matrix products; int8 is for CPUs and needs a bundle that was trained"
        " with --quantize int8; auto measures both and takes the faster, which /ready tells",
    )
    engine_threads: NonNegativeInt = _setting(
        "Engine",
        0,
        "Engine threads per worker; 0 means (CPU quota / workers) - 1, at least 1",
        "threads",
    )
    engine_hang_seconds: PositiveFloat = _setting(
        "Engine",
        10.0,
        "Time limit of one engine run; if a run takes longer, its process answers waiting requests"
        " with 503 and ends with exit code 1",
        "seconds",
    )

    gpu_batch_rows: PositiveInt = _setting(
        "GPU",
        4_096,
        "Size of the largest graph on a GPU; batches are gathered up to it, or to a smaller graph"
        " where a run is predicted to take more than 2 ms",
        "rows",
    )
    gpu_small_rows: NonNegativeInt | None = _setting(
        "GPU",
        None,
        "Batches of fewer rows are scored on the CPU; without it those that a measurement at the"
        " start finds faster there",
        "rows",
    )
    gpu_memory_bytes: PositiveInt | None = _setting(
        "GPU",
        None,
        "Bound of the GPU's memory that an engine may use; a swap has two engines for a while, and"
        " each worker has its own",
        "bytes",
    )
    gpu_arena: Literal["exact", "doubling"] = _setting(
        "GPU",
        "exact",
        "How an engine's memory on the GPU grows: exact by what is asked for, doubling to the next"
        " power of two",
    )
    gpu_tf32: Literal["off", "on"] = _setting(
        "GPU",
        "off",
        "on lets matrix products use TF32, which has 10 bits of mantissa: faster, and a bundle is"
        " refused whose golden requests then come out beyond the tolerance",
    )
    gpu_graphs: Literal["on", "off"] = _setting(
        "GPU", "on", "CUDA graphs; off launches each kernel by itself"
    )

    max_batch_rows: PositiveInt = _setting(
        "Batching and limits", 256, "Maximum size of one engine run on the CPU", "rows"
    )
    batch_linger_us: NonNegativeInt = _setting(
        "Batching and limits",
        0,
        "Time that an idle engine waits for more rows before it begins",
        "microseconds",
    )
    max_queue_rows: PositiveInt = _setting(
        "Batching and limits",
        20_000,
        "Maximum number of rows that wait for the engine; beyond it requests get 429",
        "rows",
    )
    deadline_ms: PositiveInt = _setting(
        "Batching and limits",
        1_000,
        "Time limit of a request, 504 after it; a caller may shorten it by X-Request-Timeout-Ms",
        "milliseconds",
    )
    max_body_bytes: PositiveInt = _setting(
        "Batching and limits", 8 * 2**20, "Maximum size of a request body; 413 above it", "bytes"
    )
    max_row_bytes: PositiveInt = _setting(
        "Batching and limits",
        64 * 2**10,
        "Maximum size of one instance, context or candidate, or of a value in a column, as JSON",
        "bytes",
    )
    max_instances: PositiveInt = _setting(
        "Batching and limits", 5_000, "Maximum number of instances in /predict", "rows"
    )
    max_candidates: PositiveInt = _setting(
        "Batching and limits", 5_000, "Maximum number of candidates in /rank", "rows"
    )

    redis_url: SecretStr | None = _setting(
        "Vocabulary in Redis",
        None,
        "URL of the Redis to which the vocabulary is published; without it the vocabulary is kept"
        " in memory",
    )
    redis_password_file: Path | None = _setting(
        "Vocabulary in Redis",
        None,
        "File with the password of Redis, or with a user and a password on two lines",
    )
    redis_timeout_ms: PositiveInt = _setting(
        "Vocabulary in Redis",
        100,
        "Maximum time that a request waits for Redis, or for a profile",
        "milliseconds",
    )
    vocabulary_cache: PositiveInt = _setting(
        "Vocabulary in Redis",
        1_000_000,
        "Maximum number of values, known and unknown to Redis, that are cached",
        "values",
    )
    vocabulary_fallback: Literal["snapshot", "oov", "reject"] = _setting(
        "Vocabulary in Redis",
        "snapshot",
        "Look-ups while Redis does not answer: snapshot reads the bundle's own copy, oov treats"
        " every value as unknown, reject answers 503",
    )

    store: SecretStr | None = _setting(
        "Catalogue",
        None,
        "URL of the store of items that /rank may name by id, and of profiles:"
        " sqlite:///absolute/path or redis://host; without it there are none",
    )
    unknown_items: Literal["omit", "last", "error"] = _setting(
        "Catalogue",
        "omit",
        "Ids that are not in the catalogue: omit leaves them out of the ranking and names them,"
        " last puts them at its end without a score, error refuses the request with 422; a request"
        " may say otherwise",
    )
    item_parts_bytes: NonNegativeInt | None = _setting(
        "Catalogue",
        None,
        "Maximum size of what is computed of items before requests come, of all bundles in use and"
        " for all workers together; items beyond it are scored from their indices; without it a"
        " quarter of the memory limit, 0 computes nothing before",
        "bytes",
    )
    parts_dir: Path | None = _setting(
        "Catalogue",
        None,
        "Directory of the files that hold it, which workers share; without it the one for temporary"
        " files",
    )
    max_catalogue_rows: PositiveInt = _setting(
        "Catalogue", 20_000, "Maximum number of items when the whole catalogue is ranked", "rows"
    )
    item_key: str | None = _setting(
        "Catalogue",
        None,
        "Field of an instance that has the id of an item, for /predict with stored values; it need"
        " not be a field of the bundle",
        min_length=1,
    )
    profile_key: str | None = _setting(
        "Catalogue",
        None,
        "Field of the context that has the key of a profile, as a rule the user's id; it need not"
        " be a field of the bundle; without it no profile is looked up",
        min_length=1,
    )
    profile_seconds: NonNegativeFloat = _setting(
        "Catalogue", 60.0, "Time for which a worker remembers a profile", "seconds"
    )

    explain: Literal["on", "off"] = _setting(
        "Explanations",
        "off",
        "on offers /explain to all callers; the admin port always has it",
    )

    slow_request_ms: NonNegativeInt = _setting(
        "Metrics and logs",
        500,
        "A request that takes longer is logged with its stages; 0 logs none",
        "milliseconds",
    )
    metrics: Literal["on", "off"] = _setting(
        "Metrics and logs", "on", "off counts no requests and removes /metrics"
    )
    drift_rows: NonNegativeInt = _setting(
        "Metrics and logs",
        100_000,
        "Rows of the sliding window whose values and scores /drift and /metrics compare with the"
        " training part; 0 is without it",
        "rows",
    )
    access_log: Literal["off", "errors", "all"] = _setting(
        "Metrics and logs",
        "errors",
        "Requests that get a log line: errors are those answered with 400 or above, at most 20 a"
        " second",
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "Metrics and logs", "info", "Least severe log lines that are written"
    )

    request_log: Path | None = _setting(
        "Request log and feedback",
        None,
        "Directory of the request log: values, scores and places of a share of the requests;"
        " without it none is kept",
    )
    request_log_share: float = _setting(
        "Request log and feedback", 0.01, "Share of the requests that is logged", ge=0, le=1
    )
    request_log_key: str | None = _setting(
        "Request log and feedback",
        None,
        "Field of a context by whose value requests are chosen, as a rule the user's id, so that"
        " it is always the same users; without it, and where it is missing, each request is chosen"
        " by itself",
        min_length=1,
    )
    request_log_bytes: PositiveInt = _setting(
        "Request log and feedback",
        2**30,
        "Maximum size of the request log; its oldest files are deleted",
        "bytes",
    )
    request_log_omit: str | None = _setting(
        "Request log and feedback",
        None,
        "Fields that are left out of the request log, separated by commas",
    )
    feedback: Path | None = _setting(
        "Request log and feedback",
        None,
        "Directory of the events that POST /feedback takes; without it, and without"
        " feedback_key_file, there is no such endpoint",
    )
    feedback_key_file: Path | None = _setting(
        "Request log and feedback",
        None,
        "File with the SHA-256 of each key of POST /feedback, one per line; needed with --feedback",
    )
    feedback_bytes: PositiveInt = _setting(
        "Request log and feedback",
        2**30,
        "Maximum size of all events; beyond it they are refused with 503, and none is deleted",
        "bytes",
    )

    admin_port: int | None = _setting(
        "Admin",
        None,
        "Port of the admin endpoints, for bundles and items; without it there are none",
        ge=1,
        le=65535,
    )
    admin_host: str = _setting("Admin", "127.0.0.1", "Address of the admin endpoints", min_length=1)
    admin_key_file: Path | None = _setting(
        "Admin",
        None,
        "File with the SHA-256 of each key of the admin endpoints, one per line; needed with"
        " --admin-port",
    )

    pages: Literal["off", "on"] = _setting(
        "Pages",
        "off",
        "on shows the pages Try, Why and Now on the public port, without known values of context"
        " fields and without any action; the admin port always has all pages",
    )
    pages_hosts: str | None = _setting(
        "Pages",
        None,
        "Names, with commas between them, under which browsers may ask for pages, beside localhost"
        " and addresses in numbers: a name that is not known is refused",
    )

    @field_validator("store")
    @classmethod
    def _is_a_url(cls, value: SecretStr | None) -> SecretStr | None:
        """Refuse what no store can have as its URL."""
        url = "" if value is None else value.get_secret_value()
        scheme, separator, path = url.partition("://")
        if value is not None and (not separator or (scheme == "sqlite" and path[:1] != "/")):
            # No more of it: it may hold a password.
            raise PydanticCustomError("store", "give sqlite:///absolute/path or redis://host")
        return value

    @field_validator("item_key", "profile_key")
    @classmethod
    def _has_a_store(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Refuse a key by which nothing can be looked up."""
        if value is not None and info.data.get("store") is None:
            raise PydanticCustomError("needs_store", "needs the setting store")
        return value

    @field_validator("feedback_key_file")
    @classmethod
    def _has_feedback(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        """Refuse keys of an endpoint that there is not."""
        if value is not None and info.data.get("feedback") is None:
            raise PydanticCustomError("needs_feedback", "needs the setting feedback")
        return value

    @property
    def omitted(self) -> frozenset[str]:
        """The fields that the request log leaves out."""
        return frozenset(map(str.strip, (self.request_log_omit or "").split(","))) - {""}

    @field_validator("port", "admin_port", mode="before")
    @classmethod
    def _is_no_service_link(cls, value: object) -> object:
        """Explain a value that Kubernetes sets for a Service whose name gives such a variable."""
        if isinstance(value, str) and value.startswith(("tcp://", "udp://")):
            raise PydanticCustomError(
                "service_link",
                "{value} is the address of a Kubernetes Service, set by its name: rename the"
                " Service, set enableServiceLinks: false in the pod, or set the variable yourself",
                {"value": value},
            )
        return value


class Description(NamedTuple):
    """A setting as help and documentation show it."""

    name: str
    group: str
    default: str
    """As it would be typed; empty if there is none."""
    unit: str
    text: str
    kind: str
    """PATH, URL, TEXT or NUMBER."""
    choices: tuple[str, ...]

    @property
    def variable(self) -> str:
        """The name of its environment variable."""
        return f"{PREFIX}{self.name}".upper()

    @property
    def flag(self) -> str:
        """Its command-line flag."""
        return f"--{self.name.replace('_', '-')}"


def descriptions() -> Iterator[Description]:
    """Describe every setting, group by group."""
    found: dict[str, list[Description]] = {group: [] for group in get_args(Group)}
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        group, unit = str(extra["group"]), str(extra["unit"])
        default = "" if field.default in (None, PydanticUndefined) else str(field.default)
        choices = get_args(field.annotation)
        types = {*choices, field.annotation}
        found[group].append(
            Description(
                name,
                group,
                default.removesuffix(".0"),
                unit,
                field.description or "",
                next((kind for each, kind in _KINDS.items() if each in types), "NUMBER"),
                choices if all(isinstance(each, str) for each in choices) else (),
            )
        )
    for members in found.values():
        yield from members


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """Return the names that begin like settings but are not: a mistyped one has no effect.

    Variables that Kubernetes sets for a Service whose name begins like a setting are left out.
    """
    known = {each.variable for each in descriptions()}
    return sorted(
        name
        for name in environment
        if name.startswith(PREFIX) and name.upper() not in known and not _SERVICE_LINK.search(name)
    )
