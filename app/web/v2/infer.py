"""``/v2/models/{name}/infer``: the exchange whose answer has tensors, and its route."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec
import numpy as np
from starlette.types import Receive, Scope

from app.errors import NotFound, ServiceError
from app.features.arrays import Floats
from app.features.graph_inputs import Scores
from app.scoring.scorer import Scorer
from app.scoring.steps import Steps
from app.web.asgi_exchange import AsgiExchange
from app.web.exchange import Endpoint, Exchange, Header, Route
from app.web.v2 import request
from app.web.v2.schemas import InferRequest, InferResponse, V2Error
from app.web.v2.wire import OUTPUTS

PATH = "/v2/models/{name}/infer"
VERSION_PATH = "/v2/models/{name}/versions/{version}/infer"
BINARY = b"application/octet-stream"


class InferExchange(AsgiExchange):
    """An exchange of tensors."""

    outputs: Sequence[request.Output] = tuple(request.Output(name, False) for name in OUTPUTS)
    id: str | None = None

    def __init__(self, endpoint: Endpoint, scope: Scope, receive: Receive) -> None:
        super().__init__(endpoint, scope, receive)
        # Both paths have these places: /v2/models/NAME and /v2/models/NAME/versions/VERSION.
        self.model, *rest = scope["path"].split("/")[3:-1]
        self.wanted: str | None = rest[-1] if rest else None
        self.head_length: bytes | None = None
        for name, value in scope["headers"]:
            if name == request.HEADER:
                self.head_length = value

    def scored(self, scores: Scores) -> None:
        if self.answered:
            return
        try:
            body, headers = self._rendered(scores)
        except Exception as error:
            self.failed(error)
        else:
            self._answer(200, body, headers)

    def scored_alone(self, logit: float, score: float) -> None:
        self.scored(Scores(np.array([logit], np.float32), np.array([score], np.float32)))

    def error_body(self, error: ServiceError) -> bytes:
        return v2_error(error)

    def _rendered(self, scores: Scores) -> tuple[bytes, Sequence[Header]]:
        """Return the answer and its headers."""
        values = {"score": scores.score, "logit": scores.logit}
        tensors: list[str] = []
        tail: list[bytes] = []
        for name, binary in self.outputs:
            said, raw = _tensor(values[name], binary)
            tensors.append(f'{{"name":"{name}",{said}}}')
            tail += raw
        head = (
            f'{{"model_name":{_json(self.model)},"model_version":"{self.version}"'
            f'{self._members()},"outputs":[{",".join(tensors)}]}}'
        ).encode()
        if not tail:
            return head, ()
        self.media = BINARY
        return b"".join([head, *tail]), [(request.HEADER, b"%d" % len(head))]

    def _members(self) -> str:
        """Return what an answer has where the request, or its company, gives reason."""
        own = "" if self.id is None else f',"id":{_json(self.id)}'
        return f'{own},"parameters":{{"degraded":"vocabulary"}}' if self.degraded else own


def _tensor(values: Floats, binary: bool) -> tuple[str, Iterable[bytes]]:
    """Return what a head says of a tensor [N], and its bytes behind the head."""
    said = f'"datatype":"FP32","shape":[{len(values)}]'
    if binary:
        raw = values.astype("<f4", copy=False).tobytes()
        return f'{said},"parameters":{{"binary_data_size":{len(raw)}}}', [raw]
    return f'{said},"data":[{",".join(map("%.9g".__mod__, values.tolist()))}]', ()


def _json(text: str) -> str:
    return msgspec.json.encode(text).decode()


def v2_error(error: ServiceError) -> bytes:
    """Return an error's answer: a text as the protocol has it, and the members of all others."""
    told = error.body()["error"]
    details = "; ".join(f"{each.path}: {each.problem}" for each in error.details)
    text = f"{told['message']}: {details}" if details else told["message"]
    told.pop("message")
    return msgspec.json.encode({"error": text, **told})


def prepare(scorer: Scorer, body: bytes, exchange: Exchange) -> Steps[None]:
    """Read the tensors of a body, and queue their rows.

    Raises:
        ServiceError: the request is refused.
    """
    assert isinstance(exchange, InferExchange)
    if exchange.wanted not in (None, scorer.version):
        raise NotFound(f"this version is not in use; {scorer.version} is")
    # The request log has bodies of JSON alone.
    exchange.trace = None
    found = yield from request.read(body, exchange.head_length, scorer.lists, scorer.limits)
    exchange.outputs, exchange.id = found.outputs, found.id
    yield from scorer.columns(found.columns, found.rows, exchange)


def _unused(exchange: Exchange, scores: object) -> str:
    raise AssertionError("an exchange of tensors renders its answers itself")


Make = Callable[[Endpoint, Scope, Receive], AsgiExchange]
ROUTE = Route(
    name="infer",
    paths={
        PATH: "Score rows as the Open Inference Protocol v2 has it: a tensor for each field.",
        VERSION_PATH: "The same, if this version is in use; else 404.",
    },
    prepare=prepare,
    render=partial(_unused),
    render_alone=partial(_unused),
    request=InferRequest,
    response=InferResponse,
    error=V2Error,
    media=(b"application/json", BINARY),
    exchange=InferExchange,
)
