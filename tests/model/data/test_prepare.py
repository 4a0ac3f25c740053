"""Preparing gives every part encoded, over the vocabulary of the training part alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import SpecError
from model.config import TrainConfig
from model.data.errors import DataError
from model.data.input_files import InputFiles
from model.data.prepare import Prepared, prepare, prepare_together
from model.group import Group
from tests.support import samples
from tests.support.samples import Sample


@pytest.fixture(scope="module")
def prepared(few: Sample) -> Prepared:
    """The small log, prepared."""
    return prepare(few.spec, InputFiles([few.data]), progress=False)


def test_every_part_is_encoded_as_the_service_would(few: Sample, prepared: Prepared) -> None:
    """The rows kept of the test part give its indices again, through the encoder."""
    assert {part: len(rows) for part, rows in prepared.data.items()} == {
        "train": 240,
        "validation": 30,
        "test": 30,
    }
    encoder, test = prepared.encoder, prepared.data["test"]
    for place, row in enumerate(prepared.test_rows):
        context = np.frombuffer(encoder.context.row(samples.context_of(dict(row))), np.int32)
        candidate = np.frombuffer(encoder.candidate.row(samples.candidate_of(dict(row))), np.int32)
        np.testing.assert_array_equal(test.context_rows[place], context)
        np.testing.assert_array_equal(test.candidate_rows[place], candidate)
    assert len(prepared.test_rows) == 30


def test_values_of_other_parts_are_not_learned(few: Sample, prepared: Prepared) -> None:
    """A value of the test part alone is OOV: the service has never seen it either."""
    train = {row["user_id"] for row in few.rows[:240] if "user_id" in row}
    later = {row["user_id"] for row in few.rows[270:] if "user_id" in row} - train
    assert later, "the log has users that come late"
    [slot] = [slot for slot in prepared.vocabulary.layout.context if slot.name == "user_id"]
    place = prepared.vocabulary.layout.context.index(slot)
    for row, encoded in zip(few.rows[270:], prepared.data["test"].context, strict=True):
        if row.get("user_id") in later:
            assert encoded[place] == slot.oov


def test_the_fingerprint_follows_the_data(few: Sample, prepared: Prepared) -> None:
    """The same files have one, another split has another."""
    again = prepare(few.spec, InputFiles([few.data]), progress=False)
    assert again.fingerprint() == prepared.fingerprint()
    other = prepare(few.spec, InputFiles([few.data], mode="random"), progress=False)
    assert other.fingerprint() != prepared.fingerprint()


def test_fields_that_are_always_there_are_named_in_one_line(
    few: Sample, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing trains their absence; a required field cannot be absent, and is not named."""
    prepare(few.spec, InputFiles([few.data]), progress=False)
    (line,) = (told for told in capsys.readouterr().err.splitlines() if "absence" in told)
    assert line.startswith("warning: no training row lacks time, item_id: their absence is")


def test_many_fields_are_not_all_named(few: Sample, tmp_path: Path, capsys: Any) -> None:
    """A line names three fields at most."""
    spec = tmp_path / "wide.toml"
    fields = "".join(
        f'[[fields]]\nname = "f{number}"\nkind = "categorical"\nside = "candidate"\n'
        for number in range(20)
    )
    spec.write_text(
        f'label = "click"\n[[fields]]\nname = "u"\nkind = "categorical"\nside = "context"\n{fields}'
    )
    names = ["click", "u", *(f"f{number}" for number in range(20))]
    log = tmp_path / "log.csv"
    lines = [",".join([str(number % 2), *"x" * 21]) for number in range(60)]
    log.write_text("\n".join([",".join(names), *lines]) + "\n")
    prepare(spec, InputFiles([log]), progress=False)
    (line,) = (told for told in capsys.readouterr().err.splitlines() if "absence" in told)
    assert "lacks u, f0, f1 and 18 more: their absence" in line


def test_only_wide_and_deep_has_crosses(prepared: Prepared) -> None:
    """Other networks have no weights of pairs, so none are counted."""
    assert prepared.crosses(TrainConfig(network="deepfm")) == ()


def test_a_broken_spec_is_told_before_the_data_are_read(few: Sample, tmp_path: Path) -> None:
    """The error names the spec's fault."""
    spec = tmp_path / "broken.toml"
    spec.write_text('label = "click"\nfields = []\n')
    with pytest.raises(SpecError, match="fields"):
        prepare(spec, InputFiles([Path("nowhere.csv")]), progress=False)


def test_several_processes_need_a_cache(few: Sample) -> None:
    """They share the encoded data through it."""
    with pytest.raises(DataError, match="give --cache"):
        prepare_together(Group(0, 2), few.spec, InputFiles([few.data]))
