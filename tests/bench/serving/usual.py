"""The usual way, as the benchmark's baseline: FastAPI, pydantic models, one run per request.

Started as ``python -m tests.bench.serving.usual BUNDLE PLAIN_GRAPH PORT def|async``. It is
written with care where care is usual: a typed model, a vocabulary in memory, one session for all
requests.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, create_model

from app.bundle.bundle import Bundle
from app.features.vocabulary import Texts


def build(bundle_path: Path, graph: Path, kind: str) -> FastAPI:
    """Build the service; ``kind`` says whether its route is ``def`` or ``async def``."""
    bundle = Bundle.open(bundle_path)
    names = [field.name for field in bundle.spec.fields]
    lookups: list[tuple[dict[Any, int], int]] = []
    for slot in bundle.vocabulary.layout.context + bundle.vocabulary.layout.candidate:
        texts = bundle.vocabulary.slots[slot.name]
        assert isinstance(texts, Texts)
        lookups.append((texts.lookup(), slot.oov))
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    fields: Any = dict.fromkeys(names, (str | None, None))
    row: Any = create_model("Row", **fields)

    class Request(BaseModel):
        instances: list[row]

    class Response(BaseModel):
        predictions: list[float]

    def score(request: Request) -> Response:
        index = np.array(
            [
                [known.get(getattr(instance, name), oov)
                 for name, (known, oov) in zip(names, lookups, strict=True)]
                for instance in request.instances
            ],
            np.int32,
        )  # fmt: skip
        (scores,) = session.run(["score"], {"index": index})
        return Response(predictions=scores.tolist())

    app = FastAPI()
    if kind == "def":

        @app.post("/predict")
        def predict(request: Request) -> Response:
            return score(request)

    else:

        @app.post("/predict")
        async def predict_async(request: Request) -> Response:
            return score(request)

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    return app


if __name__ == "__main__":
    bundle_path, graph_path, port, route_kind = sys.argv[1:]
    uvicorn.run(
        build(Path(bundle_path), Path(graph_path), route_kind),
        port=int(port), access_log=False, log_level="warning",
    )  # fmt: skip
