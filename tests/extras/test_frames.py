"""Frames of pandas and pyarrow, as ``model.api`` takes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.environments import PACKAGES, told_by
from tests.support.realdata import SPECS

pytestmark = pytest.mark.extras
PROGRAM = """\
import importlib.util, sys
from pathlib import Path
import pandas as pd
import polars as pl
from polars.testing import assert_frame_equal
from model.api import Bundle, train

spec, data, out = map(Path, sys.argv[1:4])
with_pyarrow = importlib.util.find_spec("pyarrow") is not None
assert with_pyarrow == (sys.argv[4] == "with"), sys.path
rows = pd.read_csv(data, dtype={"zip": str})
assert rows["year"].dtype == "float64", "integers with gaps, as pandas has them"
rows.loc[::9, "occupation"] = None  # a text with gaps
bundle = train(spec, rows, out=out, network="lr", epochs=1)
assert bundle.metrics["test"]["rows"] > 0
assert Bundle.open(out).version == bundle.version

some = rows.head(500)
assert some["occupation"].isna().sum() > 50
text = {"zip": pl.String}
expected = bundle.score(pl.read_csv(some.to_csv(index=False).encode(), schema_overrides=text))
assert expected["score"].n_unique() > 100
split = some.assign(genres=some["genres"].str.split("|"))
frames = [some, some.sample(frac=1, random_state=1).sort_index(), some.convert_dtypes(), split]
films = some[["item_id", "year", "genres"]].drop_duplicates("item_id")
lists = [films]
if with_pyarrow:
    import pyarrow as pa

    table = pa.Table.from_pandas(some, preserve_index=False)
    frames += [table, table.to_batches()[0], some.convert_dtypes(dtype_backend="pyarrow")]
    lists.append(pa.Table.from_pandas(films, preserve_index=False))
for number, frame in enumerate(frames):
    print(number, type(frame))
    assert_frame_equal(bundle.score(frame), expected, check_exact=True)
person = some.iloc[1][["user_id", "age", "gender", "occupation", "zip", "time"]].to_dict()
for each in lists:
    ranked = bundle.rank(person, each)
    assert ranked["logit"].is_sorted(descending=True)
    assert sorted(ranked["item_id"]) == sorted(films["item_id"])
"""


def test_frames_of_pandas_and_arrow_score_alike(
    shap_python: Path, small: Path, tmp_path: Path
) -> None:
    """Trained on a frame of pandas; rows of pandas, pyarrow and polars get the same scores."""
    spec = SPECS / "movielens-100k.toml"
    told_by(shap_python, PROGRAM, spec, small, tmp_path / "bundles", "with")


def test_pandas_needs_no_pyarrow(shap_python: Path, small: Path, tmp_path: Path) -> None:
    """The trainer's environment has none: texts with gaps, lists and pandas' own integers too."""
    spec = SPECS / "movielens-100k.toml"
    told_by(
        shap_python, PROGRAM, spec, small, tmp_path / "bundles", "without",
        packages=without("pyarrow", tmp_path / "packages"),
    )  # fmt: skip


def without(package: str, directory: Path) -> Path:
    """Return a directory with the product's packages except one."""
    directory.mkdir()
    for path in PACKAGES.iterdir():
        if not path.name.startswith(package):
            (directory / path.name).symlink_to(path)
    return directory
