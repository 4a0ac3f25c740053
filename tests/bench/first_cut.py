"""What the first cut of a catalogue loses, on MovieLens-100k: for ``scripts/bench --catalogue``.

For 500 people all 1,682 films are ranked by a trained DeepFM. Its best 20 should be among the 200
that the first cut leaves. Beside it: the 200 best by another network, an FM that was trained on the
same rows, and 200 films at random.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from app.bundle.bundle import Bundle
from app.features.encoder import Encoder
from app.features.graph_inputs import Batch
from app.scoring.engine import Engine
from app.scoring.split_engine import SplitEngine
from model.fetch import fetch

ROOT = Path(__file__).resolve().parents[2]
SPEC = ROOT / "model" / "specs" / "movielens-100k.toml"
PEOPLE, BEST, LEFT = 500, 20, 200


def first_cut_figures(data: Path, scratch: Path) -> dict[str, float]:
    """Shares of the best films that are among those left: means over people, and the least."""
    folder = fetch("movielens-100k", data)
    deepfm, fm = (_trained(network, folder, scratch) for network in ("deepfm", "fm"))
    chosen = np.random.default_rng(3)
    ratings = pl.read_csv(folder / "ratings.csv").unique("user_id", keep="last").sort("user_id")
    people = ratings[chosen.choice(len(ratings), PEOPLE, replace=False).tolist()].to_dicts()
    films = pl.read_csv(folder / "movies.csv").to_dicts()
    logits, cuts = _orders(deepfm, people, films)
    others, _ = _orders(fm, people, films)
    best = np.argsort(-logits, axis=1)[:, :BEST]
    random = chosen.random(logits.shape)
    return {
        "recall_prefilter": float(_recall(best, cuts).mean()),
        **{
            f"recall_prefilter_{left}": float(_recall(best, cuts, left).mean())
            for left in (50, 100, 400)
        },
        "recall_prefilter_least": float(_recall(best, cuts).min()),
        "recall_of_fm_alone": float(_recall(best, others).mean()),
        "recall_of_random": float(_recall(best, random).mean()),
    }


def _trained(network: str, folder: Path, scratch: Path) -> Bundle:
    """Train a bundle with the shipped settings."""
    words = ["train", SPEC, folder / "ratings.csv", "--network", network, "--split", "random",
             "--out", scratch / network]  # fmt: skip
    command = [sys.executable, "-m", "model", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return Bundle.open(Path(done.stdout.splitlines()[-1]))


def _orders(
    bundle: Bundle, people: Sequence[dict[str, object]], films: Sequence[dict[str, object]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the logit and the first cut's product [people, films]."""
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    shapes = encoder.context.shape, encoder.candidate.shape
    engine = Engine(bundle.graph, bundle.vocabulary.layout, *shapes)
    graphs, parts = bundle.split_graphs_in("float32"), bundle.manifest.parts
    assert graphs is not None
    assert parts is not None
    split = SplitEngine(engine, graphs, parts, *shapes)
    values = [{**film, "genres": str(film["genres"] or "").split("|")} for film in films]
    packed = b"".join(encoder.candidate.row(_of_side(each, encoder, False)) for each in values)
    rows = np.frombuffer(packed, np.int32).reshape(len(films), -1)
    held = split.item_parts(rows)
    logits, products = [], []
    for person in people:
        context = np.frombuffer(encoder.context.row(_of_side(person, encoder, True)), np.int32)
        batch = Batch(context.reshape(1, -1), rows, np.zeros(len(rows), np.int32))
        logits.append(split.score(batch, held).logit)
        products.append(held[-1] @ split.vector(batch.context))
    return np.stack(logits), np.stack(products)


def _of_side(row: dict[str, object], encoder: Encoder, context: bool) -> dict[str, object]:
    fields = (encoder.context if context else encoder.candidate).fields
    return {name: value for name, value in row.items() if name in fields}


def _recall(
    best: NDArray[np.int64], order: NDArray[np.float32], left: int = LEFT
) -> NDArray[np.float64]:
    """Return the share [people] of the best that are among the first of an order."""
    first = np.argsort(-order, axis=1)[:, :left]
    pairs = zip(best, first, strict=True)
    return np.array([np.isin(mine, theirs).mean() for mine, theirs in pairs])
