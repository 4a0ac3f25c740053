"""The peer Triton: the model that its Python backend runs, in the peer's own environment."""

from __future__ import annotations

from typing import Any

import msgspec
import triton_python_backend_utils as triton

from tests.bench.serving.peers.scoring import Scorer, Values


class TritonPythonModel:
    """``ROW``, JSON objects as strings [N, 1], to ``SCORE``, float32 [N, 1]."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load vocabulary and graph."""
        self.scorer = Scorer()
        self.decode = msgspec.json.Decoder(self.scorer.row_type).decode

    def execute(self, requests: list[Any]) -> list[Any]:
        """Score the rows of all requests in one run."""
        rows: list[Values] = []
        ends = []
        for request in requests:
            texts = triton.get_input_tensor_by_name(request, "ROW").as_numpy()
            rows += [msgspec.structs.astuple(self.decode(text)) for text in texts[:, 0].tolist()]
            ends.append(len(rows))
        scores = self.scorer.score(rows).reshape(-1, 1)
        answers, start = [], 0
        for end in ends:
            tensor = triton.Tensor("SCORE", scores[start:end])
            answers.append(triton.InferenceResponse([tensor]))
            start = end
        return answers
