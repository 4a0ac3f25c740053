"""The peer mosec: one worker that decodes, encodes and scores what has come together.

Runs in the peer's own environment:
``python -m tests.bench.serving.peers.mosec_server --port N``.
"""

from __future__ import annotations

from typing import Any

import msgspec
from mosec import Server, Worker

from tests.bench.serving.peers.scoring import Scorer, Values


class Click(Worker):
    """``/predict`` as the product has it, without a version in the answer."""

    def __init__(self) -> None:
        self.scorer = Scorer()
        row: Any = self.scorer.row_type
        request: Any = msgspec.defstruct("Request", [("instances", list[row])], gc=False)
        self.decode = msgspec.json.Decoder(request).decode

    def deserialize(self, data: bytes) -> list[Values]:
        """One caller's rows, in the order of the graph's columns."""
        return [msgspec.structs.astuple(row) for row in self.decode(data).instances]

    def forward(self, data: list[list[Values]]) -> list[list[float]]:
        """Score the rows of all callers in one run."""
        scores = self.scorer.score([row for rows in data for row in rows]).tolist()
        answers, start = [], 0
        for rows in data:
            answers.append(scores[start : start + len(rows)])
            start += len(rows)
        return answers

    def serialize(self, data: list[float]) -> bytes:
        """One caller's answer."""
        return msgspec.json.encode({"predictions": data})


if __name__ == "__main__":
    server = Server()
    options: dict[str, Any] = {"num": 2, "max_batch_size": 64, "max_wait_time": 1}
    server.append_worker(Click, route="/predict", **options)
    server.run()
