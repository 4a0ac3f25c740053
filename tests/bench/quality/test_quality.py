"""The parts of the quality benchmark that need neither the network nor a trained bundle."""

from __future__ import annotations

import polars as pl
import pytest

from tests.bench.quality.__main__ import Parts, logistic_regression, one_hot, table

pytestmark = pytest.mark.slow


def ratings(count: int, first: int = 0) -> pl.DataFrame:
    """Rows as the data set has them; people click on horror films, and on nothing else."""
    numbers = range(first, first + count)
    return pl.DataFrame(
        {
            "click": [str(number % 2) for number in numbers],
            "time": ["881250949"] * count,
            "user_id": [str(number) for number in numbers],
            **{name: ["x"] * count for name in ("age", "gender", "occupation", "zip", "item_id")},
            "year": [None] * count,
            "genres": [("Drama", "Sci-Fi|Horror")[number % 2] for number in numbers],
        },
        schema_overrides={"year": pl.String},
    )


def test_a_row_becomes_one_word_per_feature() -> None:
    """Every field, every genre and the hour and weekday in UTC are a column of their own."""
    [words] = one_hot(ratings(1, first=1))
    assert words == [
        "user_id=1",
        "age=x",
        "gender=x",
        "occupation=x",
        "zip=x",
        "item_id=x",
        "year=",
        "hour=15",
        "weekday=4",
        "Sci-Fi",
        "Horror",
    ]


def test_the_baseline_learns_and_passes_over_values_it_never_saw() -> None:
    """People of the test part are unknown, genres are not: the ranking is perfect."""
    result = logistic_regression(Parts(ratings(40), ratings(20, 100), ratings(20, 200)))
    assert (result.metrics.rows, result.metrics.positives) == (20, 10)
    assert result.metrics.auc == pytest.approx(1.0)


def test_the_table_shows_the_difference_with_its_sign() -> None:
    """A reader sees at once which of the two is better."""
    result = {
        "split": "time",
        "deepfm": {"rows": 10_000, "auc": 0.7, "log_loss": 0.6},
        "logistic_regression": {"auc": 0.69, "log_loss": 0.62},
    }
    assert table([result]).splitlines()[2:] == [
        "| time | 10,000 | AUC | 0.6900 | 0.7000 | +0.0100 |",
        "| time | 10,000 | log loss | 0.6200 | 0.6000 | -0.0200 |",
    ]
