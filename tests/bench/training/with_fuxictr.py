"""FuxiCTR at the work, as ``python -m tests.bench.training.with_fuxictr FILE``.

Its package has the parts of which its model zoo is made; the networks are put together from them
here, as their papers and its own settings have them.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import (
    BilinearInteraction,
    CrossNetV2,
    FactorizationMachine,
    FeatureEmbedding,
    LogisticRegression,
    MLP_Block,
    SqueezeExcitation,
)
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything

from tests.bench.training.work import (
    COLUMNS,
    Watch,
    Work,
    answer,
    field_name,
    given,
    judged,
    read_rows,
)

PREFETCHING = 1
"""Processes that collate batches meanwhile, the loader's default. Tried on two cores: none, which
is slower by half; two, which gain nothing. Parquet through Ray, its other form, was
slower by far."""


class DeepFM(torch.nn.Module):
    """First order, inner products of all pairs, and hidden layers."""

    def __init__(self, features: Any, work: Work) -> None:
        super().__init__()
        self.fm = FactorizationMachine(features)
        self.mlp = hidden(features.sum_emb_out_dim(), work, 1)

    def forward(self, fields: Any, vectors: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, 1] of embeddings [N, F, K]."""
        found: torch.Tensor = self.fm(fields, vectors) + self.mlp(vectors.flatten(start_dim=1))
        return found


class DCNv2(torch.nn.Module):
    """Cross layers of full matrices beside hidden layers, both read by one output."""

    def __init__(self, features: Any, work: Work) -> None:
        super().__init__()
        size = features.sum_emb_out_dim()
        self.cross = CrossNetV2(size, work.cross_layers)
        self.mlp = hidden(size, work, None)
        self.output = torch.nn.Linear(size + work.hidden[-1], 1)

    def forward(self, fields: Any, vectors: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, 1] of embeddings [N, F, K]."""
        flat = vectors.flatten(start_dim=1)
        found: torch.Tensor = self.output(torch.cat([self.cross(flat), self.mlp(flat)], dim=1))
        return found


class FiBiNET(torch.nn.Module):
    """First order, and hidden layers over products by kernels, plain and weighted by field."""

    def __init__(self, features: Any, work: Work) -> None:
        super().__init__()
        fields = features.num_fields
        self.weights = LogisticRegression(features)
        self.weigh = SqueezeExcitation(fields)
        self.products = BilinearInteraction(fields, work.embedding_size)
        self.mlp = hidden(fields * (fields - 1) * work.embedding_size, work, 1)

    def forward(self, fields: Any, vectors: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, 1] of embeddings [N, F, K]."""
        pairs = torch.cat([self.products(vectors), self.products(self.weigh(vectors))], dim=1)
        found: torch.Tensor = self.weights(fields) + self.mlp(pairs.flatten(start_dim=1))
        return found


NETWORKS = {"deepfm": DeepFM, "dcn_v2": DCNv2, "fibinet": FiBiNET}


def hidden(inputs: int, work: Work, outputs: int | None) -> Any:
    """Return hidden layers of the library."""
    return MLP_Block(
        inputs, list(work.hidden), "ReLU", output_dim=outputs, dropout_rates=work.dropout,
        batch_norm=work.batch_norm,
    )  # fmt: skip


class Told(BaseModel):  # type: ignore[misc]
    """A network that tells what it did."""

    def __init__(self, features: Any, work: Work, home: Path) -> None:
        super().__init__(
            features, model_id=work.network, gpu=-1, verbose=int(work.usual), model_root=str(home),
            metrics=["AUC", "logloss"], embedding_regularizer=work.embedding_l2 or None,
        )  # fmt: skip
        self.embedding = FeatureEmbedding(features, work.embedding_size)
        self.network = NETWORKS[work.network](features, work)
        self.compile("adam", "binary_crossentropy", work.learning_rate)
        self.reset_parameters()
        self.model_to_device()
        self.watch = Watch(work.target)
        self.losses: list[torch.Tensor] = []
        self.validates = bool(work.validation)
        self.trained = 0.0

    def forward(self, inputs: Any) -> dict[str, Any]:
        """Return the scores [N, 1] of a batch."""
        fields = self.get_inputs(inputs)
        vectors = self.embedding(fields)
        return {"y_pred": self.output_activation(self.network(fields, vectors))}

    def train_step(self, batch_data: Any) -> Any:
        """As the library's, the loss being kept."""
        loss = super().train_step(batch_data)
        self.losses.append(loss.detach())
        return loss

    def train_epoch(self, data_generator: Any) -> None:
        """As the library's, and timed."""
        started = perf_counter()
        super().train_epoch(data_generator)
        self.trained += perf_counter() - started

    def eval_step(self) -> None:
        """As the library's where there are validation rows; ends the training at the target."""
        if self.validates:
            super().eval_step()

    def checkpoint_and_earlystop(self, logs: Any, min_delta: float = 1e-6) -> None:
        """As the library's, the AUC being noted."""
        reached = self.watch.note(float(logs["AUC"]))
        super().checkpoint_and_earlystop(logs, min_delta)
        if reached:
            self._stop_training = True


def described(sizes: list[int], home: Path) -> Any:
    """Return the library's description of the fields."""
    features = FeatureMap("rows", str(home))
    (home / "feature_map.json").write_text(json.dumps({
        "dataset_id": "rows", "num_fields": len(sizes), "total_features": sum(sizes),
        "input_length": len(sizes), "labels": ["label"],
        "features": [
            {field_name(f): {"source": "", "type": "categorical", "vocab_size": size}}
            for f, size in enumerate(sizes)
        ],
    }))  # fmt: skip
    return features


def main() -> None:
    """Train as the work says."""
    work = given()
    torch.set_num_threads(work.threads)
    seed_everything(work.seed)
    rows = read_rows(work.train)
    with TemporaryDirectory() as name:
        home = Path(name)
        features = described(rows.sizes, home)
        features.load(str(home / "feature_map.json"), {"embedding_dim": work.embedding_size})
        (home / "rows").mkdir()
        loaders = RankDataLoader(
            features, stage="train", train_data=str(Path(work.train) / COLUMNS),
            valid_data=str(Path(work.validation) / COLUMNS) if work.validation else None,
            batch_size=work.batch_size, shuffle=True, data_format="npz", num_workers=PREFETCHING,
        )  # fmt: skip
        model = Told(features, work, home)
        model.watch = Watch(work.target)
        started = perf_counter()
        if not work.validation:
            model.save_weights(model.checkpoint)
        model.fit(loaders[0], epochs=work.epochs, validation_data=loaders[1])
        seconds = perf_counter() - started
        figures = {}
        if work.test:
            last = RankDataLoader(
                features, stage="test", test_data=str(Path(work.test) / COLUMNS),
                batch_size=work.batch_size, shuffle=False, data_format="npz", num_workers=0,
            )  # fmt: skip
            score = model.predict(last).astype("float64")
            figures = judged(score, read_rows(work.test).label)
    losses = torch.stack(model.losses[-len(loaders[0]) :])
    answer(
        seconds=seconds, evaluations=model.watch.seen, **figures,
        rows_per_second=work.epochs * len(rows.label) / model.trained,
        train_loss=float(losses.mean()),
    )  # fmt: skip


if __name__ == "__main__":
    main()
