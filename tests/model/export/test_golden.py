"""Golden requests are real rows, some altered, with what the network itself says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from app.features.encoder import Encoder
from app.features.spec import FeatureSpec
from model.export.golden import EXAMPLES, golden_examples
from model.networks.network import Network
from model.quality.calibration import Calibration
from model.quality.figures import sigmoid
from tests.support import samples
from tests.support.frames import learned, read
from tests.support.networks import trained
from tests.support.samples import Sample

pytestmark = pytest.mark.slow

Made = tuple[Encoder, Network, Sequence[Mapping[str, Any]]]


@pytest.fixture(scope="module")
def made(few: Sample) -> Made:
    """An encoder over a small log, a network of its layout, and the log's rows."""
    spec = FeatureSpec.parse(samples.SPEC)
    vocabulary = learned(spec, read(spec, [few.data]))
    return Encoder(spec, vocabulary), trained("fm", vocabulary.layout), few.rows


def test_the_same_seed_gives_the_same_requests(made: Made) -> None:
    """A bundle's id depends on them."""
    one, two, other = (golden_examples(*made, seed) for seed in (1, 1, 2))
    assert one == two
    assert one != other
    assert len(one) == EXAMPLES


def test_a_request_encodes_to_its_indices(made: Made) -> None:
    """Indices are those of the encoder, one row for the context and one a candidate."""
    encoder, network, rows = made
    for example in golden_examples(encoder, network, rows, 1):
        context = np.frombuffer(encoder.context.row(example.context), np.int32)
        assert context.tolist() == example.context_row
        found = [np.frombuffer(encoder.candidate.row(row), np.int32) for row in example.candidates]
        assert [row.tolist() for row in found] == example.candidate_rows
        assert len(example.logits) == len(example.candidates)
        assert example.scores is None


def test_missing_unseen_and_empty_values_are_among_them(made: Made) -> None:
    """A service that reads any of them otherwise than the trainer is refused."""
    examples = golden_examples(*made, 1)
    rows = [row for each in examples for row in (each.context, *each.candidates)]
    values = [value for row in rows for value in row.values()]
    assert None in values
    assert [] in values
    assert 2**63 - 25 in values
    assert any(isinstance(value, str) and value.endswith("never seen") for value in values)


def test_calibrated_scores_are_kept_beside_the_logits(made: Made) -> None:
    """A golden request's logits are the network's, its scores those that callers see."""
    calibration = Calibration("platt", (0.0,), (-0.5,), (0.7, 0.7))
    plain, found = golden_examples(*made, 1), golden_examples(*made, 1, calibration)
    for before, after in zip(plain, found, strict=True):
        assert after.logits == before.logits
        expected = sigmoid(-0.5 + 0.7 * np.array(after.logits))
        np.testing.assert_allclose(after.scores or [], expected, rtol=1e-6)


def test_few_rows_give_few_requests(made: Made) -> None:
    """A test part of three rows has three golden requests."""
    encoder, network, rows = made
    assert len(golden_examples(encoder, network, rows[:3], 1)) == 3
