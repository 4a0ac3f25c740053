"""Raw columns → the index columns that the trainer reads, through the service's encoder."""

from __future__ import annotations

import numpy as np
import polars as pl

from app.features.arrays import Indices
from app.features.encoder import Encoder, SideEncoder
from app.features.spec import FeatureSpec
from model.data.dataset import Dataset
from model.data.reader import labels
from model.data.row_weights import row_weights
from model.data.values import field_values


def encode(spec: FeatureSpec, encoder: Encoder, frame: pl.DataFrame, label: bool = True) -> Dataset:
    """Encode every row of a frame; without ``label`` all labels are 0, and no row has a weight."""
    context = encode_side(spec, encoder.context, frame)
    candidate = encode_side(spec, encoder.candidate, frame)
    found = labels(spec, frame) if label else np.zeros(frame.height, np.uint8)
    weight = row_weights(spec, frame) if label and spec.weight is not None else None
    return Dataset.of_rows(context, candidate, encoder.shapes, found, weight)


def encode_side(spec: FeatureSpec, side: SideEncoder, frame: pl.DataFrame) -> Indices:
    """Encode one side's columns into [R, width], each distinct value once."""
    fields = {field.name: field for field in spec.fields}
    result = np.empty((frame.height, side.shape.width), np.int32)
    for encoder, places in zip(side.encoders, side.places, strict=True):
        values, codes = field_values(fields[encoder.name], frame[encoder.name])
        result[:, places] = encoder.many(values)[codes]
    return result
