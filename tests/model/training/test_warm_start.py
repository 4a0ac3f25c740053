"""Today's network begins where yesterday's bundle ended, over today's values."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from app.bundle.bundle import Bundle
from app.features.arrangement import arrange
from app.features.layout import PADDING
from app.features.spec import FeatureSpec
from app.features.vocabulary import Edges, Integers, Texts, Vocabulary
from model.config import TrainConfig
from model.data.encode import encode
from model.data.input_files import InputFiles
from model.data.prepare import Prepared, prepare
from model.export.weights import read_weights
from model.networks import build
from model.networks.crosses import Operand, Pairs
from model.pipeline import run
from model.quality.offline_scoring import score_dataset
from model.score_files import Offline
from model.training.evaluation import predict
from model.training.fit import FitResult, fit
from model.training.trainer import TrainingError
from model.training.warm_start import NEW, WarmStart, learned_rows, old_rows
from tests.support.days import CONFIG, MISSED, SPEC, Days
from tests.support.format_1 import as_format_1
from tests.support.frames import part_of
from tests.support.networks import long_but

pytestmark = pytest.mark.slow

MakeBundle = Callable[[str], Bundle]


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Days:
    return Days.make(tmp_path_factory.mktemp("days"))


@pytest.fixture(scope="module")
def first(days: Days) -> Prepared:
    return prepare(days.spec, InputFiles([days.first]))


@pytest.fixture(scope="module")
def yesterday(days: Days, tmp_path_factory: pytest.TempPathFactory) -> MakeBundle:
    """The first day's bundle of each network, opened once."""

    @cache
    def make(name: str) -> Bundle:
        return Bundle.open(days.first_bundle(name, tmp_path_factory.mktemp(name)))

    return make


def begun(bundle: Bundle, today: Prepared, config: TrainConfig) -> tuple[WarmStart, Any]:
    """Return the start and a network that has begun from it."""
    start = WarmStart.read(bundle, today.vocabulary, today.data["train"], config)
    torch.manual_seed(3)
    network = build(today.vocabulary.layout, config, 0.3, today.crosses(config))
    start.begin(network)
    return start, network


@pytest.mark.parametrize("name", long_but("lr", "fm", "wide_deep", "deepfm"))
def test_a_network_begins_as_the_bundle_ended(name: str, days: Days, yesterday: MakeBundle) -> None:
    """Rows without a value that has gone score as in yesterday's graph, new values as OOV."""
    bundle = yesterday(name)
    today = prepare(days.spec, InputFiles([days.second]), bundle)
    config = replace(CONFIG, network=name)
    start, network = begun(bundle, today, config)
    assert start.obstacle(network) is None
    assert start.values["new"] >= MISSED
    assert start.values["gone"] >= MISSED
    offline = Offline.open(bundle.path)
    for part in ("train", "test"):
        new = today.data[part]
        old = encode(today.spec, offline.encoder, part_of(today.spec, today.inputs, part))
        same = np.ones(len(new), bool)
        for mine, past in (
            (new.context, old.context), (new.candidate, old.candidate),
            *zip(new.candidate_lists, old.candidate_lists, strict=True),
        ):  # fmt: skip
            same &= (start.rows[mine] == past).all(1)
        assert same.mean() > 0.9
        if name == "wide_deep":
            # A pair that has become rare shares the weight of all that are.
            same &= kept_pairs(start, today, network, new, old)
            assert same.mean() > 0.3
        logit = predict(network, new)[same]
        expected = score_dataset(offline.engine, old).logit[same]
        assert np.ptp(expected) > 0.1
        np.testing.assert_allclose(logit, expected, atol=1e-4)


def kept_pairs(start: WarmStart, today: Prepared, network: Any, new: Any, old: Any) -> Any:
    """Rows whose pairs had a weight of their own on both days, or on none."""
    same = np.ones(len(new), bool)
    for place, term in enumerate(network.crosses):
        weight_of = start.weights[f"crosses.{place}.weight_of"].numpy()
        was = old_pairs(start, term, old)
        own, had = term.weight_of.numpy()[term.pairs.find(new.inputs()).numpy()], weight_of[was]
        same &= ((own > 1) | (had <= 1)).all(1)
    return same


def old_pairs(start: WarmStart, term: Any, old: Any) -> Any:
    """The pairs of rows that yesterday's encoder has encoded, by yesterday's numbers."""
    layout = start.bundle.vocabulary.layout
    left, right = term.pairs.left.slot.name, term.pairs.right.slot.name
    pairs = Pairs(Operand.find(layout, left), Operand.find(layout, right))
    return pairs.find(old.inputs()).numpy()


def test_the_second_day_starts_where_the_first_ended_and_learns_faster(
    days: Days, first: Prepared, tmp_path: Path
) -> None:
    """Before the first step the AUC is the old bundle's; a cold start takes longer to get there."""
    config = replace(CONFIG, network="fm", embedding_l2=1e-4, patience=0, learning_rate=0.1)
    bundle = Bundle.open(run(first, replace(config, epochs=10), tmp_path, progress=False))
    today = prepare(days.spec, InputFiles([days.second]), bundle)
    config = replace(config, evaluations_per_epoch=4, epochs=2, learning_rate=0.01)
    start = WarmStart.read(bundle, today.vocabulary, today.data["train"], config)

    def trained(begin: Any = None) -> FitResult:
        data = today.data["train"], today.data["validation"]
        return fit(today.vocabulary.layout, *data, config, False, begin)

    warm, cold = trained(start.begin), trained()
    offline = Offline.open(bundle.path)
    old = offline.evaluate([part_of(today.spec, today.inputs, "validation")])
    at_first = warm.history[0]
    assert (at_first.step, at_first.train_loss) == (0, None)
    assert at_first.auc == pytest.approx(old.auc, abs=0.005)
    assert at_first.log_loss == pytest.approx(old.log_loss, abs=0.005)
    for warmer, colder in zip(warm.history[1:3], cold.history[:2], strict=True):
        assert warmer.step == colder.step
        assert warmer.auc is not None
        assert colder.auc is not None
        assert warmer.auc > colder.auc + 0.02
    assert warm.best.auc is not None
    assert at_first.auc is not None
    assert warm.best.auc >= at_first.auc


def test_a_deep_network_trains_on(days: Days, yesterday: MakeBundle) -> None:
    """Batch norm that was set up to pass its input on learns as any other."""
    today = prepare(days.spec, InputFiles([days.second]), yesterday("deepfm"))
    data = today.data["train"], today.data["validation"]
    config = replace(CONFIG, epochs=1)
    start = WarmStart.read(yesterday("deepfm"), today.vocabulary, data[0], config)
    result = fit(today.vocabulary.layout, *data, config, False, start.begin)
    assert [each.step > 0 for each in result.history] == [False, True, True]
    norms = [each for each in result.network.modules() if isinstance(each, nn.BatchNorm1d)]
    before = [copy.deepcopy(each.state_dict()) for each in norms]
    assert len(norms) == 2
    predict(result.network, data[1])
    for norm, values in zip(norms, before, strict=True):
        for name, value in norm.state_dict().items():
            assert torch.equal(value, values[name]), f"scoring changes {name}"


def test_batch_norm_changes_little_in_training_too(days: Days, yesterday: MakeBundle) -> None:
    """Normalised by the rows' own statistics the network is what it is in inference."""
    bundle = yesterday("deepfm")
    today = prepare(days.spec, InputFiles([days.second]), bundle)
    _, network = begun(bundle, today, replace(CONFIG, dropout=0.0))
    rows = today.data["train"].inputs()
    with torch.no_grad():
        still = network.eval()(rows)
        moving = network.train()(rows)
    assert still.std() > 0.05
    torch.testing.assert_close(moving, still, atol=1e-3, rtol=0)


def test_a_run_that_learns_nothing_keeps_what_was(
    days: Days, yesterday: MakeBundle, tmp_path: Path
) -> None:
    """Steps that only harm leave yesterday's weights; the manifest says what was started from."""
    bundle = yesterday("lr")
    today = prepare(days.spec, InputFiles([days.second]), bundle)
    config = replace(CONFIG, network="lr", learning_rate=30.0, epochs=1, metric="log_loss")
    found = Bundle.open(run(today, config, tmp_path, progress=False, init_from=bundle.path))
    training = found.manifest.training
    assert training["best"]["step"] == 0
    told = training["init_from"]
    assert told["version"] == bundle.version
    assert told["validation"]["auc"] == training["best"]["auc"]
    assert told["values"]["known"] + told["values"]["new"] == sum(
        slot.size - 2 for slot in today.vocabulary.layout.slots
    )
    # What was evaluated is what is exported: no row that yesterday trained became a mean.
    found_auc = found.manifest.metrics["validation"]["auc"]
    assert found_auc == pytest.approx(told["validation"]["auc"], abs=0.005)


def test_numbers_keep_their_buckets_and_scale(days: Days, yesterday: MakeBundle) -> None:
    """Edges and scale are yesterday's for a warm start, today's for a cold one."""
    bundle = yesterday("lr")
    warm = prepare(days.spec, InputFiles([days.second]), bundle)
    cold = prepare(days.spec, InputFiles([days.second]))
    for name in ("price", "age"):
        before, after, other = (
            vocabulary.slots[name]
            for vocabulary in (bundle.vocabulary, warm.vocabulary, cold.vocabulary)
        )
        assert np.array_equal(numbers(before), numbers(after))
        assert not np.array_equal(numbers(before), numbers(other))
    assert warm.fingerprint() != cold.fingerprint()


def numbers(vocabulary: Any) -> Any:
    return vocabulary.edges if isinstance(vocabulary, Edges) else vocabulary.mean_std


def test_other_layers_or_fields_begin_anew(
    days: Days, yesterday: MakeBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where hidden layers do not fit, only they begin anew, and a warning says why."""
    bundle = yesterday("deepfm")
    today = prepare(days.spec, InputFiles([days.second]), bundle)
    for config, why in (
        (replace(CONFIG, hidden=(12, 8)), r"mlp.first.weight is [16, 40] there and [12, 40] here"),
        (replace(CONFIG, hidden=(16,)), "mlp.output.weight is [1, 8] there and [1, 16] here"),
    ):
        start, network = begun(bundle, today, config)
        assert start.obstacle(network) == why
        assert torch.equal(network.bias, start.weights["bias"])
        known = np.flatnonzero(start.rows != NEW)
        assert torch.equal(network.table[known], start.weights["table"][start.rows[known]])

    fewer = days.spec.with_name("fewer.toml")
    fields = SPEC.split("[[fields]]")
    fewer.write_text("[[fields]]".join(f for f in fields if 'name = "quality"' not in f))
    less = prepare(fewer, InputFiles([days.second]), bundle)
    run(less, replace(CONFIG, epochs=1), tmp_path, progress=False, init_from=bundle.path)
    told = capsys.readouterr().err
    assert "the hidden layers started from random weights: the fields are others" in told
    ffm = yesterday("ffm")
    with pytest.raises(TrainingError, match="has other fields"):
        WarmStart.read(ffm, less.vocabulary, less.data["train"], replace(CONFIG, network="ffm"))


def test_a_number_that_is_taken_as_it_is_was_another_field_in_buckets(
    days: Days, yesterday: MakeBundle
) -> None:
    """Of the same name and shape; but hidden layers have learned its multiples."""
    bundle = yesterday("deepfm")
    # The last single value of its side: the order of the fields stays.
    before, _, after = SPEC.rpartition('encoding = "scaled"')
    other = days.spec.with_name("buckets.toml")
    other.write_text(f'{before}encoding = "edges"\nedges = [0.5]{after}', encoding="utf-8")
    today = prepare(other, InputFiles([days.second]), bundle)
    start, network = begun(bundle, today, CONFIG)
    assert start.obstacle(network) == "the fields are others"


def test_a_new_cross_leaves_the_others_their_weights(days: Days, yesterday: MakeBundle) -> None:
    """It begins from zero; those after it begin where they ended."""
    bundle = yesterday("wide_deep")
    config = replace(CONFIG, network="wide_deep")
    more = days.spec.with_name("more.toml")
    new = '[[crosses]]\nfields = ["country", "item_id"]\n'
    more.write_text(SPEC.replace("[[crosses]]", f"{new}[[crosses]]", 1), encoding="utf-8")
    (_, usual), (_, network) = (
        begun(bundle, prepare(spec, InputFiles([days.second]), bundle), config)
        for spec in (days.spec, more)
    )
    first, *others = network.crosses
    assert not first.weight.any()
    for mine, expected in zip(others, usual.crosses, strict=True):
        assert expected.weight.any()
        assert torch.equal(mine.weight, expected.weight)


def test_an_lr_has_no_embedding_size(days: Days, yesterday: MakeBundle) -> None:
    """A default that has changed with the number of rows refuses nothing."""
    bundle = yesterday("lr")
    today = prepare(days.spec, InputFiles([days.second]), bundle)
    start, network = begun(bundle, today, replace(CONFIG, network="lr", embedding_size=9))
    assert start.obstacle(network) is None


@pytest.mark.parametrize("name", ["lr", "fm", "deepfm"])
def test_rows_that_nothing_has_trained_have_the_mean(name: str, yesterday: MakeBundle) -> None:
    """A single column tells it; beside vectors the first one may round otherwise."""
    bundle = yesterday(name)
    layout = bundle.vocabulary.layout
    table = read_weights(bundle.graph, name, layout)["table"].clone()
    (placement,) = (slot for slot in layout.slots if slot.name == "placement")
    own = slice(placement.first, placement.first + placement.size)
    assert learned_rows(bundle, table)[own].tolist() == [False, True, True, True]
    if table.shape[1] > 1:
        table[placement.missing, 0] += 1e-3
        assert learned_rows(bundle, table)[own].tolist() == [False, True, True, True]


def test_rows_that_nothing_has_trained_are_not_carried_on(
    days: Days, yesterday: MakeBundle, tmp_path: Path
) -> None:
    """Yesterday's means stand for nothing that was learned: today's take their place.

    Yesterday's bundle may be of format 1; there only the shares of missing and OOV values tell.
    """
    now = yesterday("fm")
    old = Bundle.open(as_format_1(now.path, tmp_path))
    today = prepare(days.spec, InputFiles([days.second]), now)
    config = replace(CONFIG, network="fm", oov_rate=0.0)
    for bundle in (now, old):
        start, network = begun(bundle, today, config)
        slots = {slot.name: slot for slot in today.vocabulary.layout.slots}
        placement = slots["placement"]
        learned = network.learned[placement.first : placement.first + placement.size].tolist()
        # Yesterday hid values (``oov_rate``), so OOV was trained though none is rare.
        assert learned == [False, True, True, True]
        user = slots["user_id"]
        assert network.learned[user.first : user.first + user.size].all()
        assert not network.learned[[slot.mean for slot in slots.values()]].any()

        data = today.data["train"], today.data["validation"]
        result = fit(today.vocabulary.layout, *data, config, False, start.begin)
        table = result.network.table
        assert torch.equal(table[placement.missing], table[placement.mean])
        values = data[0].context[:, today.vocabulary.layout.context.index(placement)]
        expected = table[torch.tensor(values)].mean(0)
        torch.testing.assert_close(table[placement.mean], expected, rtol=0, atol=1e-5)


def vocabulary(users: list[int], countries: list[str], edges: list[float]) -> Vocabulary:
    """A vocabulary of three slots."""
    text = 'label = "click"\n' + "".join(
        f'[[fields]]\nname = "{name}"\nkind = "{kind}"\nside = "{side}"\n'
        for name, kind, side in (
            ("user", 'categorical"\ndtype = "integer', "context"),
            ("country", "categorical", "context"),
            ("price", "numeric", "candidate"),
        )
    )
    sizes = {"user": len(users), "country": len(countries), "price": len(edges) + 1}
    layout = arrange(FeatureSpec.parse(text), sizes)
    rows = {s.name: np.arange(s.first + 2, s.first + s.size, dtype=np.int32) for s in layout.slots}
    return Vocabulary(
        layout,
        {
            "user": Integers.of(users, rows["user"]),
            "country": Texts.of(countries, rows["country"]),
            "price": Edges(np.array(edges, np.float32)),
        },
    )


def test_rows_are_found_by_value() -> None:
    """Known values have their old row, new ones the old OOV; buckets count if they are the same."""
    old = vocabulary([3, 5, 2**64 - 1], ["DE", "é"], [1.0, 2.0])
    new = vocabulary([5, 7, 2**64 - 1], ["FR", "é"], [1.0, 2.0])
    #       padding, users: missing, OOV, 5, 7, 2**64 - 1; countries: missing, OOV, FR, é
    expected = [PADDING, 1, 2, 4, 2, 5, 6, 7, 7, 9]
    means = [NEW] * 3
    assert old_rows(new, old).tolist() == [*expected, 10, 11, 12, 13, 14, *means]
    other = vocabulary([5, 7, 2**64 - 1], ["FR", "é"], [1.0, 2.5])
    assert old_rows(other, old).tolist() == [*expected, *[NEW] * 5, *means]
    assert old_rows(old, old).tolist() == [*range(15), *means]
