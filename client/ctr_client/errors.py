"""The errors of a call: what the service answers, by its code, and calls without an answer.

ClientError
├── ServiceError          the service refused; ``status``, ``code``, ``details``, ``retry_after``
│   ├── Undecodable, TooLarge, WrongMediaType, Invalid, HeadTooLarge, NotFound, MethodNotAllowed
│   ├── Unauthorized
│   ├── Overloaded, NotOffered
│   └── NotReady, EngineFailed, VocabularyUnavailable, DeadlinePassed
├── ConnectFailed         nothing was sent: no connection, or none free in the pool
├── TimedOut              the call's time ran out without an answer
├── Lost                  the connection ended after the request was sent
└── AnswerError           the answer is not one of this service
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple


class ClientError(Exception):
    """Base of all errors of this client."""


class Detail(NamedTuple):
    """One thing that is wrong with a request, and where."""

    path: str
    problem: str


class ServiceError(ClientError):
    """A refusal of the service; codes that this version does not know have this class."""

    status_of_class: ClassVar[int | None] = None
    code_of_class: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        status: int,
        code: str,
        details: tuple[Detail, ...] = (),
        total: int = 0,
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        shown = "".join(f"; {path}: {problem}" for path, problem in details[:3])
        super().__init__(f"{status} {code}: {message}{shown}")
        self.message, self.status, self.code = message, status, code
        self.details, self.total = details, total
        """The first problems, and how many there are."""
        self.retry_after = retry_after
        """Seconds after which another try makes sense, where the service says so."""
        self.request_id = request_id


class Undecodable(ServiceError):
    """400: the body is not JSON."""

    status_of_class, code_of_class = 400, "undecodable"


class Unauthorized(ServiceError):
    """401: the request has no valid key."""

    status_of_class, code_of_class = 401, "unauthorized"


class NotFound(ServiceError):
    """404: no endpoint has this path."""

    status_of_class, code_of_class = 404, "not_found"


class MethodNotAllowed(ServiceError):
    """405: the path exists, but not with this method."""

    status_of_class, code_of_class = 405, "method_not_allowed"


class TooLarge(ServiceError):
    """413: the body, or a list in it, is over a limit."""

    status_of_class, code_of_class = 413, "too_large"


class WrongMediaType(ServiceError):
    """415: the body is not announced as JSON."""

    status_of_class, code_of_class = 415, "wrong_media_type"


class Invalid(ServiceError):
    """422: a value breaks a rule of its field; ``details`` name the paths."""

    status_of_class, code_of_class = 422, "invalid"


class Overloaded(ServiceError):
    """429: the queue is full, or the deadline is out of reach."""

    status_of_class, code_of_class = 429, "overloaded"


class HeadTooLarge(ServiceError):
    """431: target and headers are over a limit."""

    status_of_class, code_of_class = 431, "head_too_large"


class NotOffered(ServiceError):
    """501: the bundle lacks what the request asks for."""

    status_of_class, code_of_class = 501, "not_offered"


class NotReady(ServiceError):
    """503: no bundle is loaded yet, or the service is about to stop."""

    status_of_class, code_of_class = 503, "not_ready"


class EngineFailed(ServiceError):
    """503: the engine gave no scores."""

    status_of_class, code_of_class = 503, "engine_failed"


class VocabularyUnavailable(ServiceError):
    """503: values are not in memory, and Redis does not answer."""

    status_of_class, code_of_class = 503, "vocabulary_unavailable"


class DeadlinePassed(ServiceError):
    """504: the request's time ran out in the service."""

    status_of_class, code_of_class = 504, "deadline_passed"


class ConnectFailed(ClientError):
    """Nothing was sent: there is no connection, or none became free in the pool."""


class TimedOut(ClientError):
    """The call's time ran out without an answer."""


class Lost(ClientError):
    """The connection ended after the request, or a part of it, was sent."""


class AnswerError(ClientError):
    """The answer is not one of this service: a proxy's page, for example."""


BY_CODE: Mapping[str, type[ServiceError]] = {
    kind.code_of_class: kind
    for kind in ServiceError.__subclasses__()
    if kind.code_of_class is not None
}


def refusal(
    status: int, content: bytes, retry_after: str | None, request_id: str | None
) -> ClientError:
    """Return the error that an answer other than 200 tells."""
    try:
        told: Any = json.loads(content)["error"]
        code, message = str(told["code"]), str(told["message"])
        details = tuple(Detail(each["path"], each["problem"]) for each in told.get("details", ()))
        total = int(told.get("total", 0))
    except (ValueError, KeyError, TypeError):
        shown = content[:80].decode("utf-8", "replace")
        return AnswerError(f"status {status} with a body that is no error of the service: {shown}")
    seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
    kind = BY_CODE.get(code, ServiceError)
    return kind(message, status, code, details, total, seconds, request_id)
