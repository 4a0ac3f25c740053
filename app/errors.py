"""Every error that this project raises on purpose.

CtrError
├── SpecError            the feature spec is not usable
├── BundleError          a bundle is incomplete, altered, or does not reproduce
├── ProviderError        the wanted execution provider cannot be used
├── AddressError         the address of Redis, or the login, cannot be used
├── KeyFileError         the file of the admin port's keys cannot be used
├── LinkError            Redis did not answer; carries the Problem that callers may see
├── ValueProblem         one raw value breaks the rules of its field
└── ServiceError         an answer to a caller: carries its HTTP status and code as data
    ├── Undecodable 400, TooLarge 413, WrongMediaType 415, Invalid 422
    ├── HeadTooLarge 431
    ├── NotFound 404, MethodNotAllowed 405
    ├── Unauthorized 401, ActivationRefused 409: on the admin port
    ├── Overloaded 429
    └── NotReady 503, EngineFailed 503, VocabularyUnavailable 503, DeadlinePassed 504
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple


class CtrError(Exception):
    """Base of all errors of this project."""


class SpecError(CtrError):
    """A feature spec that cannot be used; the message names the key or field."""


class BundleError(CtrError):
    """A bundle that must not be served; the message names what does not agree."""


class ProviderError(CtrError):
    """The execution provider that was asked for cannot be used here."""


class AddressError(CtrError):
    """An address of Redis, or a login, that cannot be used."""


class KeyFileError(CtrError):
    """A file of keys that cannot be read, or holds none."""


class Problem(NamedTuple):
    """What is wrong with Redis: ``shown`` to callers; as text, for operators, with the detail.

    Addresses, users and paths stand in the detail only, and so does all that Redis itself says.
    """

    shown: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.shown}: {self.detail}" if self.detail else self.shown


class LinkError(CtrError):
    """Redis did not answer; ``reason`` is one word out of few."""

    def __init__(self, reason: str, shown: str, detail: str = "") -> None:
        self.reason = reason
        self.problem = Problem(shown, detail)
        super().__init__(str(self.problem))


class ValueProblem(CtrError):
    """A raw value that breaks the rules of its field.

    ``position`` is the place inside a list value; the caller knows the field.
    """

    def __init__(self, problem: str, position: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.position = position


class Detail(NamedTuple):
    """One thing that is wrong with a request, and where."""

    path: str
    problem: str


class ServiceError(CtrError):
    """An error that is answered to the caller."""

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
        """What metrics count it as: one word out of few, finer than the code where that helps."""
        return self.code

    def body(self) -> dict[str, Any]:
        """The one shape in which every error is answered."""
        error: dict[str, Any] = {"code": self.code, "message": str(self)}
        if self.details:
            error["details"] = [detail._asdict() for detail in self.details]
            error["total"] = self.total
        return {"error": error}


class Undecodable(ServiceError):
    """The body is not the JSON that was announced."""

    status, code = 400, "undecodable"


class NotFound(ServiceError):
    """There is nothing at this path."""

    status, code = 404, "not_found"


class MethodNotAllowed(ServiceError):
    """The path is known, but not with this method."""

    status, code = 405, "method_not_allowed"


class Unauthorized(ServiceError):
    """The request has no valid key for what it asks."""

    status, code = 401, "unauthorized"
    headers: Mapping[str, str] = {"www-authenticate": "Bearer"}


class ActivationRefused(ServiceError):
    """A bundle cannot take the place of the one in use; the message says why."""

    status, code = 409, "refused"


class TooLarge(ServiceError):
    """The body, or a list in it, is over a limit."""

    status, code = 413, "too_large"


class WrongMediaType(ServiceError):
    """The body was not announced as JSON."""

    status, code = 415, "wrong_media_type"


class Invalid(ServiceError):
    """The body is JSON but not a request that this bundle can score."""

    status, code = 422, "invalid"


class HeadTooLarge(ServiceError):
    """A request's target and headers are over a limit."""

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


class VocabularyUnavailable(ServiceError):
    """Values are not known yet and Redis, which knows them, does not answer."""

    status, code = 503, "vocabulary_unavailable"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = {"retry-after": "1"}


class DeadlinePassed(ServiceError):
    """The request's time ran out before its rows were scored."""

    status, code = 504, "deadline_passed"
