"""All errors that this project raises on purpose: one tree.

CtrError
├── SpecError            a feature spec cannot be used
├── TomlError            a file that people write cannot be read as TOML, beside its reader
├── BundleError          a bundle must not be served: incomplete, altered, or not reproducible
├── GateError            the file of the gate's bounds cannot be used
├── HeldBack             a bundle does not pass the gate
├── ProviderError        the execution provider that was asked for cannot be used
├── AddressError         the address of Redis, or its login, cannot be used
├── StoreError           the store of items cannot be used
├── FellBehind           the changes of a store that a follower needs are gone
├── KeyFileError         a file of keys, of the admin port or of feedback, cannot be used
├── FeedbackError        the directory of the request log, or of events, cannot be used
├── LinkError            Redis did not answer; holds the Problem that callers may see
├── RegisterError        an entry of the register of vocabularies in Redis cannot be read
├── ValueProblem         a raw value breaks a rule of its field
│   ├── ColumnProblem        values of a column do, by row
│   └── FieldProblems        values of several columns do, by field
├── ServiceError         a refused request: HTTP status and code are data of the class
│   ├── Undecodable 400, TooLarge 413, WrongMediaType 415, Invalid 422, HeadTooLarge 431
│   ├── NotFound 404, MethodNotAllowed 405
│   ├── WrongOrigin 403: on the pages and the admin port only
│   ├── Unauthorized 401, ActivationRefused 409: where a key is needed only
│   ├── Overloaded 429
│   ├── NotReady 503, EngineFailed 503, VocabularyUnavailable 503, DeadlinePassed 504
│   │   └── DeviceLost 503: an EngineFailed after which the process ends
│   ├── StoreUnavailable 503: on the admin port only
│   ├── EventsUnwritten 503: events that cannot be kept
│   └── NotOffered 501
└── the trainer's, each beside the code that raises it
    ├── ConfigError      training settings cannot be used
    ├── RemoteError      a file of an object store cannot be read or written
    ├── ClusterError     a Ray cluster cannot be used, or lost its workers
    ├── ShardingError    a table cannot be cut into parts
    ├── DataError        files cannot be read as training data
    │   └── AbsentColumns    a file lacks columns that the spec names
    ├── UnreadableColumn     nor can a Parquet column: a DataError once the file is named
    ├── CrossError       a network cannot use the crosses of its spec
    ├── TrainingError    training cannot begin or continue
    ├── CheckpointError  the state of a training cannot be written
    ├── GroupError       a training failed in one of its processes
    ├── NotBetterError   a new bundle breaks a bound of the gate
    ├── ResultError      results cannot be written to the place that was named
    ├── CalibrationError the validation part gives no calibration
    ├── FeedbackDataError, JoinError    logs of requests and events cannot be used, or joined
    ├── FrameError, RowError    a data frame, or a row to explain, cannot be used
    ├── SkewFound        rows were served other scores than they have offline
    ├── ExportError      a network cannot be exported, or its graph does not agree with it
    ├── DamagedError     arrays on disk are not what was written
    ├── TuneError, CompareError, PublishError    a command cannot be carried out
    └── FetchError           a data set cannot be made
        └── DownloadFailed       its server does not give it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple


class CtrError(Exception):
    """Base of all errors of this project.

    ``exit_code`` is that of a command which ends by it.
    """

    exit_code: ClassVar[int] = 1


class SpecError(CtrError):
    """A feature spec that cannot be used; the message names the field and the key."""


class BundleError(CtrError):
    """A bundle that must not be served; the message names the file or value at fault."""


class GateError(CtrError):
    """A file of a gate's bounds that cannot be used; the message names the key."""


class HeldBack(CtrError):
    """A bundle that does not pass the gate; the message says which bounds it breaks."""


class ProviderError(CtrError):
    """The execution provider that was asked for cannot be used here."""


class AddressError(CtrError):
    """An address of Redis, or a login, that cannot be used."""


class StoreError(CtrError):
    """The store of items cannot be used; the message says why, and what to do.

    Callers may see ``shown``; addresses, users and the words of Redis appear in the detail only.
    """

    def __init__(self, shown: str, detail: str = "") -> None:
        self.shown = shown
        super().__init__(f"{shown}: {detail}" if detail else shown)


class FellBehind(CtrError):
    """The changes after a position are not all there any longer: read everything again."""


class KeyFileError(CtrError):
    """A file of keys that cannot be read or holds no key."""


class FeedbackError(CtrError):
    """A directory of the request log, or of events, that cannot be used."""


class Problem(NamedTuple):
    """A problem with Redis: ``shown`` to callers; its text, with the detail, is for operators.

    Addresses, users, paths and the words of Redis itself appear in the detail only.
    """

    shown: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.shown}: {self.detail}" if self.detail else self.shown


class LinkError(CtrError):
    """Redis did not answer; ``reason`` is one word of a small set, used as a metric's label."""

    def __init__(self, reason: str, shown: str, detail: str = "") -> None:
        self.reason = reason
        self.problem = Problem(shown, detail)
        super().__init__(str(self.problem))


class ValueProblem(CtrError):
    """A raw value that breaks the rules of its field.

    ``position`` is the place inside a list value. The code that catches it knows the field.
    """

    def __init__(self, problem: str, position: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.position = position


class Detail(NamedTuple):
    """One problem of a request, and the path of the value."""

    path: str
    problem: str


class ServiceError(CtrError):
    """An error that is the answer to a request."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    headers: Mapping[str, str] = {}

    def __init__(
        self, message: str, details: Sequence[Detail] = (), total: int | None = None
    ) -> None:
        super().__init__(message)
        self.details = tuple(details)
        self.total = len(self.details) if total is None else total

    @property
    def reason(self) -> str:
        """The label under which metrics count the error; finer than ``code`` where that helps."""
        return self.code

    def body(self) -> dict[str, Any]:
        """Return the JSON of the answer; all errors have this one shape."""
        error: dict[str, Any] = {"code": self.code, "message": str(self)}
        if self.details:
            error["details"] = [detail._asdict() for detail in self.details]
            error["total"] = self.total
        return {"error": error}


class Undecodable(ServiceError):
    """The body is not JSON."""

    status, code = 400, "undecodable"


class NotFound(ServiceError):
    """No endpoint has this path."""

    status, code = 404, "not_found"


class MethodNotAllowed(ServiceError):
    """The path exists, but not with this method."""

    status, code = 405, "method_not_allowed"


class Unauthorized(ServiceError):
    """The request has no valid key for this operation."""

    status, code = 401, "unauthorized"
    headers: Mapping[str, str] = {"www-authenticate": "Bearer"}


class WrongOrigin(ServiceError):
    """The request is a browser's, for a page of elsewhere or under a name that is not known."""

    status, code = 403, "wrong_origin"


class ActivationRefused(ServiceError):
    """A bundle cannot replace the one in use; the message says why."""

    status, code = 409, "refused"


class TooLarge(ServiceError):
    """The body, or a list in it, is over a limit."""

    status, code = 413, "too_large"


class WrongMediaType(ServiceError):
    """The ``Content-Type`` is not ``application/json``, or the body is compressed."""

    status, code = 415, "wrong_media_type"


class Invalid(ServiceError):
    """The body is JSON, but not a request that this bundle can score."""

    status, code = 422, "invalid"


class HeadTooLarge(ServiceError):
    """The target or the headers of a request are over a limit."""

    status, code = 431, "head_too_large"


class Overloaded(ServiceError):
    """The scoring queue is full, or the deadline is out of reach; back off and retry."""

    status, code = 429, "overloaded"

    def __init__(
        self,
        message: str,
        retry_after: float = 1.0,
        reason: Literal["queue_full", "deadline_out_of_reach"] = "queue_full",
    ) -> None:
        super().__init__(message)
        self.headers = {"retry-after": str(max(1, round(retry_after)))}
        self._reason = reason

    @property
    def reason(self) -> str:
        return self._reason


class NotReady(ServiceError):
    """No verified bundle is loaded yet, or the service is draining."""

    status, code = 503, "not_ready"


class EngineFailed(ServiceError):
    """The graph did not give one finite score for each row."""

    status, code = 503, "engine_failed"


class DeviceLost(EngineFailed):
    """The device does not work any more in this process, which must end."""


class VocabularyUnavailable(ServiceError):
    """Values are not in memory, and Redis does not answer."""

    status, code = 503, "vocabulary_unavailable"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = {"retry-after": "1"}


class NotOffered(ServiceError):
    """The bundle in use lacks what the request asks for; the message says what."""

    status, code = 501, "not_offered"


class StoreUnavailable(ServiceError):
    """The store of items does not answer."""

    status, code = 503, "store_unavailable"


class EventsUnwritten(ServiceError):
    """Events cannot be kept: their directory is full, or the disk takes nothing."""

    status, code = 503, "events_unwritten"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = {"retry-after": "60"}


class DeadlinePassed(ServiceError):
    """The request's time ran out before its rows were scored."""

    status, code = 504, "deadline_passed"
