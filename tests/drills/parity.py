"""Skew check: the logits of a bundle scored offline beside those of a running service.

Every row is asked for alone and in company, by /predict and by /rank, in order and shuffled,
by several callers at once. The offline side is the bundle's own graph; how far that is from
the network that was trained stands in the manifest, written by the export.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from app.features.graph_inputs import Batch
from model.data.encode import encode_side
from model.data.reader import Reader
from model.data.values import json_rows
from model.quality.calibration import calibrated
from model.score_files import Offline
from tests.support.own_connections import OwnConnections

LIST_ROWS = 50
CALLERS = 8
Floats = NDArray[np.float64]


class Check:
    """Compares one bundle over the rows of some files with the service at one address.

    Threads share the client: it needs connections that allow that.
    """

    def __init__(self, offline: Offline, data: Sequence[Path], rows: int, client: httpx.Client):
        spec = offline.bundle.spec
        frame = next(Reader(spec, data, max_bad_lines=1.0, label=False).frames()).head(rows)
        self.client = client
        self.engine = offline.engine
        self.calibration = offline.calibration
        self.raw = json_rows(spec, frame)
        self.context = encode_side(spec, offline.encoder.context, frame)
        self.candidate = encode_side(spec, offline.encoder.candidate, frame)
        self.context_fields = offline.encoder.context.fields
        self.rows = len(self.raw)
        self.expected = self.offline(np.arange(self.rows), np.arange(self.rows))
        self.shuffled = np.random.default_rng(1).permutation(self.rows)

    def offline(self, contexts: NDArray[np.int64], candidates: NDArray[np.int64]) -> Floats:
        """Logits of the scores of pairs of a context's row and a candidate's row."""
        pairs = np.arange(len(candidates), dtype=np.int32)
        batch = Batch(self.context[contexts], self.candidate[candidates], pairs)
        logit = calibrated(self.calibration, self.engine.score(batch).logit)
        return logit.astype(np.float64)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask the service; anything but a 200 ends the check."""
        response = self.client.post(path, json=body)
        if response.status_code != 200:
            raise SystemExit(f"{path} answered {response.status_code}: {response.text[:500]}")
        answer: dict[str, Any] = response.json()
        return answer

    def side(self, row: int, context: bool) -> dict[str, Any]:
        """One side of a raw row."""
        fields = self.context_fields
        return {k: v for k, v in self.raw[row].items() if (k in fields) == context}

    def predict(self, rows: NDArray[np.int64]) -> float:
        """Largest difference over rows sent in one /predict."""
        answer = self.post("/predict", {"instances": [self.raw[row] for row in rows.tolist()]})
        return worst_difference(answer["predictions"], self.expected[rows])

    def rank(self, context: int, rows: NDArray[np.int64], columnar: bool = False) -> float:
        """Largest difference over a candidate list, whose order must be that of its logits."""
        features = [self.side(row, context=False) for row in rows.tolist()]
        candidates: Any = [{"id": i, "features": f} for i, f in enumerate(features)]
        if columnar:
            names = sorted({name for f in features for name in f})
            columns = {name: [f.get(name) for f in features] for name in names}
            candidates = {"id": list(range(len(rows))), "features": columns}
        answer = self.post(
            "/rank", {"context": self.side(context, context=True), "candidates": candidates}
        )
        places = [ranked["id"] for ranked in answer["ranking"]]
        scores = [ranked["score"] for ranked in answer["ranking"]]
        if sorted(places) != list(range(len(rows))):
            raise SystemExit("/rank lost or repeated a candidate")
        if any(low < high for low, high in pairwise(scores)):
            raise SystemExit("/rank is out of order")
        expected = self.offline(np.full(len(rows), context), rows)
        return worst_difference(scores, expected[places])

    def each(self, ask: Callable[[int], float]) -> float:
        """Largest difference over all rows, asked by several callers at once."""
        with ThreadPoolExecutor(CALLERS) as callers:
            return max(callers.map(ask, self.shuffled.tolist()))

    def run(self) -> dict[str, float]:
        """Largest logit difference by way of asking."""
        ordered = np.arange(self.rows)
        chunks = np.array_split(ordered, max(1, self.rows // 1000))
        return {
            "predict_alone": self.each(lambda row: self.predict(np.array([row]))),
            "predict_batch": max(map(self.predict, chunks)),
            "predict_shuffled": max(self.predict(self.shuffled[chunk]) for chunk in chunks),
            "rank_alone": self.each(lambda row: self.rank(row, np.array([row]))),
            "rank_list": max(self.rank(c, self._list(c)) for c in range(0, self.rows, LIST_ROWS)),
            "rank_columnar": max(
                self.rank(c, self._list(c), columnar=True) for c in range(0, self.rows, LIST_ROWS)
            ),
        }

    def _list(self, context: int) -> NDArray[np.int64]:
        return self.shuffled[(np.arange(LIST_ROWS) + context) % self.rows]


def worst_difference(scores: Sequence[float], logits: Floats) -> float:
    """Largest difference in logits, beyond what a float32 score can hold.

    A difference of the score is one of p(1 - p) times as much in the logit. Near 1 the last
    bits of a float32 are worth more than the tolerance: four of them are taken off.
    """
    expected = 1 / (1 + np.exp(-logits))
    beyond = np.abs(np.array(scores, np.float64) - expected) - 4 * 2.0**-24 * expected
    return float((np.maximum(beyond, 0) / (expected * (1 - expected))).max(initial=0.0))


def main() -> int:
    """Run the check; the exit code is 1 where a difference is above the tolerance."""
    parser = argparse.ArgumentParser(prog="scripts/parity", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle that is served")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="raw data files")
    parser.add_argument("--url", required=True, help="address of the running service")
    parser.add_argument("--rows", type=int, default=1000, help="rows to compare")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    offline = Offline.open(options.bundle)
    with httpx.Client(base_url=options.url, timeout=30, transport=OwnConnections()) as client:
        served = client.get("/model").json()
        if served.get("version") != offline.bundle.version:
            raise SystemExit(f"the service has bundle {served.get('version')}, not this one")
        check = Check(offline, options.data, options.rows, client)
        figures = check.run()
    trained = offline.bundle.manifest.training["parity"]["worst_logit_difference"]
    figures = {"network_to_graph": trained, **figures}
    tolerance = served["tolerance"]
    worst = max(figures.values())
    print(f"largest logit difference over {check.rows:,} rows (tolerance {tolerance:g}):")
    for name, figure in figures.items():
        print(f"  {name:18} {figure:.2e}")
    if options.json:
        report = {"rows": check.rows, "tolerance": tolerance, "worst": worst, **figures}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if worst <= tolerance else 1


if __name__ == "__main__":
    raise SystemExit(main())
