"""Explanations beside those of shap, the library, on real rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.explain.players import Baseline, Row
from app.features.spec import FeatureSpec
from model.config import TrainConfig
from model.data.encode import encode
from model.data.reader import Reader
from model.explain_files import OfflineExplainer
from model.score_files import Offline
from tests.support.environments import told_by
from tests.support.realdata import SPECS
from tests.support.trained import trained

pytestmark = pytest.mark.extras
ROWS = 200
BASELINES: tuple[Baseline, ...] = ("mean", "missing")
SHAP = """\
import json, sys
from pathlib import Path
import numpy as np
import shap
from app.features.graph_inputs import Batch
from app.features.spec import FeatureSpec
from model.data.encode import encode
from model.data.reader import Reader
from model.score_files import Offline

path, data, count, kinds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
offline = Offline.open(path)
spec, layout = offline.bundle.spec, offline.bundle.vocabulary.layout
[frame] = Reader(spec, [data], 0.0).frames()
rows = encode(spec, offline.encoder, frame[:count])


def absent(slot, kind):
    return slot.mean if kind == "mean" else slot.missing


def explained(kind):
    # Each side's words, with the baseline as row 0, and the field of each word.
    sides = []
    for words, single, lists, shape in (
        (rows.context_rows, layout.context, layout.context_lists, offline.encoder.shapes[0]),
        (rows.candidate_rows, layout.candidate, layout.candidate_lists, offline.encoder.shapes[1]),
    ):
        assert not any(slot.scaled for slot in single)
        background = np.zeros((1, shape.width), np.int32)
        fields = [slot.field for slot in single] + [None] * (shape.width - len(single))
        background[0, : len(single)] = [absent(slot, kind) for slot in single]
        for slot, (start, stop) in zip(lists, shape.lists):
            background[0, start] = absent(slot, kind)
            fields[start:stop] = [slot.field] * (stop - start)
        sides.append((np.concatenate([background, words]), fields))
    names = list(dict.fromkeys(name for _, fields in sides for name in fields))

    def logit(chosen):
        # A column a field: the row whose value it has.
        chosen = np.asarray(chosen, np.int64)
        context, candidate = (
            np.stack([words[chosen[:, names.index(f)], n] for n, f in enumerate(fields)], axis=1)
            for words, fields in sides
        )
        context, candidate = (np.ascontiguousarray(each) for each in (context, candidate))
        owners = np.arange(len(chosen), dtype=np.int32)
        return offline.engine.score(Batch(context, candidate, owners)).logit.astype(np.float64)

    masker = shap.maskers.Independent(np.zeros((1, len(names))))
    shown = np.tile(np.arange(1, count + 1)[:, None], (1, len(names)))
    found = shap.ExactExplainer(logit, masker)(shown, silent=True)
    return {"names": names, "values": found.values.tolist(),
            "base": np.broadcast_to(found.base_values, count).tolist()}


json.dump({kind: explained(kind) for kind in kinds}, sys.stdout)
"""


@pytest.fixture(scope="module")
def bundle(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network to explain."""
    config = TrainConfig(network="deepfm", hidden=(32,), epochs=2, batch_size=512, threads=1)
    directory = tmp_path_factory.mktemp("bundles")
    return trained(SPECS / "movielens-100k.toml", small, config, directory)


@pytest.fixture(scope="module")
def theirs(shap_python: Path, bundle: Path, small: Path) -> dict[str, Any]:
    """Shap's values for each baseline, by one process: it compiles itself for 15 seconds."""
    return dict(json.loads(told_by(shap_python, SHAP, bundle, small, ROWS, *BASELINES)))


@pytest.mark.parametrize("baseline", BASELINES)
def test_shap_finds_the_same_values(
    baseline: Baseline, theirs: dict[str, Any], bundle: Path, small: Path
) -> None:
    """Its exact explainer, with the baseline as the one background row, scored by the engine."""
    shown = theirs[baseline]
    offline = Offline.open(bundle)
    explainer = OfflineExplainer.of(offline.bundle).explainer
    [frame] = Reader(FeatureSpec.load(SPECS / "movielens-100k.toml"), [small], 0.0).frames()
    data = encode(offline.bundle.spec, offline.encoder, frame[:ROWS])
    largest = 0.0
    for number, row in enumerate(zip(data.context_rows, data.candidate_rows, strict=True)):
        found = explainer.explain(Row(*row), baseline)
        values = dict(zip(shown["names"], shown["values"][number], strict=True))
        assert found.method == "exact"
        assert found.shapley == pytest.approx(values, abs=1e-4)
        assert found.baseline_logit == pytest.approx(shown["base"][number], abs=1e-4)
        largest = max(largest, *map(abs, values.values()))
    assert largest > 0.1, "the network has learned something to explain"
