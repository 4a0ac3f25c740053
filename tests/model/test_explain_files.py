"""Explanations offline: rows and files, by the command and by its parts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from app.bundle.bundle import Bundle
from app.explain.players import Row
from app.features.spec import FeatureSpec
from model.config import NETWORKS, TrainConfig
from model.data.encode import encode
from model.data.reader import Reader
from model.explain_files import OfflineExplainer, _drawn
from model.quality.offline_scoring import score_dataset
from tests.support.realdata import SPECS, files
from tests.support.samples import Sample
from tests.support.starting import run
from tests.support.trained import trained

ROWS = 1_000


def explain(*words: object) -> tuple[int, str, str]:
    """Run the command; its exit code, its result and its messages."""
    done = run("model", "explain", *map(str, words))
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_row_is_explained(tiny_bundle: Path, sample: Sample, tmp_path: Path) -> None:
    """The numbers printed are those of the file, which add up."""
    out = tmp_path / "row.json"
    code, told, problem = explain(
        tiny_bundle, "--row", json.dumps(sample.rows[0]), "--json", out, "--precision", "int8"
    )
    assert code == 0, problem
    found = json.loads(out.read_text())
    assert found["version"] == tiny_bundle.name
    total = found["baseline_logit"] + sum(found["shapley"].values())
    assert total == pytest.approx(found["logit"], abs=1e-4)
    shown = dict(re.findall(r"^  (\w+) +([+-][\d.]+)", told.split("terms of")[0], re.M))
    expected = {name: f"{value:+.4f}" for name, value in found["shapley"].items()}
    assert shown == expected


@pytest.mark.slow
def test_fields_of_a_file_are_compared(tiny_bundle: Path, sample: Sample, tmp_path: Path) -> None:
    """A table, a page that loads nothing, and numbers: means over the rows that were drawn."""
    page, numbers = tmp_path / "fields.html", tmp_path / "fields.json"
    code, told, problem = explain(
        tiny_bundle, "--data", sample.data, "--rows", 40, "--out", page, "--json", numbers
    )
    assert code == 0, problem
    found = json.loads(numbers.read_text())
    assert found["rows"] == 40
    shares = [each["share"] for each in found["fields"]]
    assert shares == sorted(shares, reverse=True)
    assert [line.split()[0] for line in told.splitlines()] == [
        each["field"] for each in found["fields"]
    ]
    html = page.read_text()
    assert "<svg" in html
    assert not re.search(r"(src|href)=.http", html)


WRONG = [
    (["--row", "{"], 2, "expected a JSON object"),
    (["--row", "[1]"], 2, "expected a JSON object"),
    (["--row", '{"price": "x"}'], 1, "price: expected a number"),
    (["--row", '{"pric": 1}'], 1, "unknown field 'pric'; did you mean 'price'?"),
    ([], 2, "either --row or --data"),
    (["--row", "{}", "--out", "x.html"], 2, "for --data only"),
    (["--data", "absent.csv"], 1, "absent.csv"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "code", "problem"), WRONG)
def test_bad_input_is_named(tiny_bundle: Path, words: list[str], code: int, problem: str) -> None:
    """One line that says what is wrong, and nothing written."""
    ended, told, message = explain(tiny_bundle, *words)
    assert (ended, told) == (code, "")
    assert problem in message
    assert "Traceback" not in message


def test_rows_are_drawn_alike_however_many_pieces_come() -> None:
    """Each row is as likely as any other, and none comes twice."""
    rows = pl.DataFrame({"n": range(1_000)})
    pieces = [rows[start : start + 100] for start in range(0, 1_000, 100)]
    drawn = [_drawn(pieces, 50, seed)["n"].to_list() for seed in range(40)]
    assert all(len(set(each)) == 50 and each == sorted(each) for each in drawn)
    assert abs(np.mean(drawn) - 499.5) < 5 * 288 / np.sqrt(40 * 50)
    assert _drawn(pieces, 5_000, 0)["n"].to_list() == [*range(1_000)]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("network", NETWORKS)
def test_parts_of_real_rows_add_up(network: str, tmp_path: Path) -> None:
    """A thousand rows of MovieLens, every network, float32 and int8."""
    [log] = files("movielens-100k", tmp_path)
    small, spec = tmp_path / "small.csv", SPECS / "movielens-100k.toml"
    lines = log.read_text().splitlines(keepends=True)
    small.write_text("".join(lines[:20_001]))
    config = TrainConfig(network=network, hidden=(32,), epochs=2, batch_size=512, threads=1)
    path = trained(spec, small, config, tmp_path / "bundles", int8=True)
    bundle = Bundle.open(path)
    [frame] = Reader(FeatureSpec.load(spec), [small], 0.0).frames()
    for precision in ("float32", "int8"):
        if f"score{'.int8' * (precision == 'int8')}.onnx" not in bundle.manifest.files:
            continue
        offline = OfflineExplainer.of(bundle, precision)
        data = encode(bundle.spec, offline.encoder, frame[:ROWS])
        logit = score_dataset(offline.explainer.engine, data).logit.tolist()
        rows = zip(data.context_rows, data.candidate_rows, strict=True)
        for row, expected in zip(rows, logit, strict=True):
            found = offline.explainer.explain(Row(*row))
            total = found.baseline_logit + sum(found.shapley.values())
            assert found.logit == pytest.approx(expected, abs=1e-4)
            assert total == pytest.approx(expected, abs=1e-4)
            if found.bias is not None and found.first_order is not None:
                pairs = sum(pair.value for pair in found.pairs or ())
                terms = found.bias + sum(found.first_order.values()) + pairs + (found.deep or 0)
                assert terms == pytest.approx(expected, abs=1e-4)
