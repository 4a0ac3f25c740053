"""Fields that only a person can mark for serving are marked in the spec, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from app.features.spec import FeatureSpec, served_value
from model.data.errors import DataError
from model.draft.draft import Draft, draft
from model.draft.items import with_items
from model.draft.look import look_at
from model.draft.serving import Serving
from tests.support.frames import read
from tests.support.starting import run

ROWS = 600
NUMBERS = np.random.default_rng(5)
LOG = pl.DataFrame(
    {
        "click": NUMBERS.integers(0, 2, ROWS),
        "user": NUMBERS.integers(0, 40, ROWS),
        "time": [f"2026-03-{1 + row // 30:02d}T{row % 24:02d}:00:00Z" for row in range(ROWS)],
        "film": NUMBERS.integers(0, 30, ROWS),
        "position": NUMBERS.integers(1, 4, ROWS),
        "slot": [("top", "side")[row % 2] for row in NUMBERS.integers(0, 2, ROWS)],
        "wide": [("true", "false")[row % 2] for row in NUMBERS.integers(0, 2, ROWS)],
        "age": NUMBERS.random(ROWS).round(2),
        "tags": [("a|b", "b", "c|a")[row] for row in NUMBERS.integers(0, 3, ROWS)],
        "constant": ["x"] * ROWS,
    }
)


def drafted(
    path: Path, serve: tuple[str, ...] = (), dynamic: tuple[str, ...] = (), **sides: list[str]
) -> Draft:
    LOG.write_csv(path / "log.csv")
    look = look_at([path / "log.csv"], "click", progress=False)
    return draft(look, **({"candidate": ["film"]} | sides), serving=Serving.of(serve, dynamic))


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("position=1", 1),
        ("position = 2", 2),
        ("slot=top", "top"),
        ("wide=True", True),
        ("age=0.5", 0.5),
        ("age=1", 1),
    ],
)
def test_the_value_has_the_type_of_the_field(given: str, value: Any, tmp_path: Path) -> None:
    """The file says it as its own reader takes it, and the side is no question any more."""
    found = drafted(tmp_path, (given,))
    spec = FeatureSpec.parse(found.text())
    assert spec == found.spec
    [field] = [each for each in spec.fields if served_value(each) is not None]
    assert served_value(field) == value
    assert type(served_value(field)) is type(value)
    assert field.name not in found.unsure
    assert "# known in training only: every request counts" in found.text()
    assert read(spec, [tmp_path / "log.csv"], moment=True).height == ROWS
    assert not any("OOV" in line for line in found.warnings())


def test_a_value_without_a_row_is_told(tmp_path: Path) -> None:
    """It counts as OOV, which is hardly what was meant."""
    for given in ("position=0", "slot=left"):
        [told] = [line for line in drafted(tmp_path, (given,)).warnings() if "OOV" in line]
        assert told.startswith(f"--serve: no row that was looked at has this value of {given[:4]}")


def test_a_dynamic_field_is_the_candidates(tmp_path: Path) -> None:
    """Even where it varies within the rows of an item; a moment may be one, too."""
    found = drafted(tmp_path, dynamic=("age", "time"))
    spec = FeatureSpec.parse(found.text())
    assert {each.name: each.side for each in spec.fields if each.dynamic} == {
        "age": "candidate", "time": "candidate",
    }  # fmt: skip
    assert found.guesses["age"].reason == "given by --dynamic"


@pytest.mark.parametrize(
    ("serve", "dynamic", "problem"),
    [
        (("positon=1",), (), "--serve: there is no column 'positon'; did you mean 'position'?"),
        ((), ("agee",), "--dynamic: there is no column 'agee'"),
        (("position",), (), "--serve: expected FIELD=VALUE, such as position=1, got 'position'"),
        (("=1",), (), "--serve: expected FIELD=VALUE, such as position=1, got '=1'"),
        (("position=1", "position=2"), (), "--serve: 'position' is given more than once"),
        (("position=1",), ("position",), "'position' is named by --serve and by --dynamic"),
        (("position=x",), (), "--serve: field 'position': `serve` must be a value of type integer"),
        (("position=",), (), "--serve: field 'position': `serve` must be a value of type integer"),
        (("position=" + "1" * 5000,), (), "`serve` must be a value of type integer"),
        (("wide=2",), (), "--serve: field 'wide': `serve` must be a value of type boolean"),
        (("age=old",), (), "--serve: field 'age': `serve` must be a number, got 'old'"),
        (("age=1e99",), (), "--serve: field 'age': `serve` must be a number"),
        (("tags=a",), (), "--serve: 'tags' is of kind 'multi_categorical'"),
        (("time=1",), (), "--serve: 'time' is of kind 'time'"),
        (("click=1",), (), "--serve: 'click' is the label"),
        (("constant=x",), (), "--serve: column 'constant' is left out: constant"),
        ((), ("constant",), "--dynamic: column 'constant' is left out: constant"),
    ],
)
def test_what_a_field_cannot_have_is_refused(
    serve: tuple[str, ...], dynamic: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    """The error names the option, the column and what is allowed."""
    with pytest.raises(DataError) as caught:
        drafted(tmp_path, serve, dynamic)
    assert problem in str(caught.value)


def test_a_dynamic_field_is_neither_of_the_context_nor_of_items(tmp_path: Path) -> None:
    """A request has its value, so no file of items does."""
    with pytest.raises(DataError, match="'age' is named by --context and by --dynamic"):
        drafted(tmp_path, dynamic=("age",), context=["age"])
    pl.DataFrame({"film": range(30), "length": range(30)}).write_csv(tmp_path / "films.csv")
    look = look_at([tmp_path / "log.csv"], "click", progress=False)
    look = with_items(look, [tmp_path / "films.csv"], "film", progress=False)
    for name in ("length", "film"):
        with pytest.raises(DataError, match=f"'{name}' is named by --dynamic, and is a column of"):
            draft(look, serving=Serving.of((), (name,)))


def test_a_field_that_may_be_one_says_how(tmp_path: Path) -> None:
    """A place varies within an item's rows, and its name is the item's."""
    asked = "# known in training only, as a position is? Then `serve`: --serve position=VALUE"
    for sides in (
        {}, {"candidate": [], "context": ["user"]}, {"candidate": []}, {"context": ["position"]},
    ):  # fmt: skip
        assert asked in drafted(tmp_path, **sides).text()
    found = drafted(tmp_path, ("slot=top",), candidate=["film", "tags"])
    [told] = [line for line in found.warnings() if "guess" in line]
    assert told.startswith("the side of position is a guess, and /rank refuses")
    assert "# depends on the moment? Then `dynamic = true`: --dynamic position" in found.text()
    assert "--serve FIELD=VALUE and --dynamic FIELD" in found.text()
    assert asked not in drafted(tmp_path, ("position=1",)).text()
    assert asked not in drafted(tmp_path, dynamic=("position",)).text()
    assert "--serve user" not in found.text()


@pytest.mark.slow
def test_the_command_takes_both(tmp_path: Path) -> None:
    """``--serve`` is repeated, ``--dynamic`` has commas; nothing is written after an error."""
    LOG.write_csv(tmp_path / "log.csv")
    out = tmp_path / "spec.toml"
    words = ["spec", str(tmp_path / "log.csv"), "--label", "click", "--out", str(out)]
    done = run("model", *words, "--candidate", "film", "--serve", "position=first")
    assert done.returncode == 1
    assert "field 'position': `serve` must be a value of type integer" in done.stderr
    assert not out.exists()
    done = run(
        "model", *words, "--candidate", "film", "--serve", "position=1", "--serve", "slot=top",
        "--dynamic", "age, tags",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    fields = {each.name: each for each in FeatureSpec.load(out).fields}
    assert [served_value(fields[name]) for name in ("position", "slot")] == [1, "top"]
    assert [name for name, each in fields.items() if each.dynamic] == ["age", "tags"]
