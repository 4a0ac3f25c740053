"""Data and bundles in an object store: a real S3 server of this machine, and its failures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from app.bundle.bundle import Bundle
from app.bundle.directory import newest
from app.bundle.manifest import MANIFEST
from model.remote import bundles, file_systems
from model.remote.bundles import BundlePlace, local_bundle
from model.remote.file_systems import TRIES, RemoteError, find, listing, remove, upload
from model.remote.files import RemoteFile
from tests.support.object_store import FaultyWay, S3Server
from tests.support.registry import environment_or_skip
from tests.support.samples import Sample
from tests.support.starting import run

pytestmark = pytest.mark.extras
PINNED = Path(__file__).with_name("moto.txt")
SETTINGS = "embedding_size = 4\nhidden = [16]\nbatch_size = 256\nepochs = 1\nthreads = 1\n"


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the server's environment."""
    return environment_or_skip(PINNED, tmp_path_factory.mktemp("by-hand")) / "bin" / "python"


@pytest.fixture(scope="module")
def server(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server with the bucket ``clicks``."""
    with S3Server(python, tmp_path_factory.mktemp("moto") / "log") as server:
        yield server


@pytest.fixture(autouse=True)
def store(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process, and those that it starts, find the server and its empty bucket."""
    use(server.variables(), monkeypatch)
    from pyarrow import fs

    system = fs.S3FileSystem(
        endpoint_override=f"http://127.0.0.1:{server.port}", allow_bucket_creation=True
    )
    system.create_dir("clicks")
    remove([entry.url for entry in listing("s3://clicks")])
    yield
    file_systems._system.cache_clear()


def use(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(file_systems, "FIRST_PAUSE", 0.01)
    file_systems._system.cache_clear()


def put(path: Path, url: str) -> str:
    with path.open("rb") as content:
        upload(content, url)
    return url


def model(*words: object) -> str:
    """Run a command that succeeds; return what it prints."""
    done = command(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def command(*words: object) -> CompletedProcess[str]:
    """Run a command to its end."""
    return run("model", *words)


def test_data_of_a_store_train_and_score_as_files_do(sample: Sample, tmp_path: Path) -> None:
    """Text, gzipped and Parquet; the bundle has the same id, and every score the same bits."""
    (tmp_path / "s.toml").write_text(SETTINGS)
    pl.read_csv(sample.data, infer_schema=False).write_parquet(tmp_path / "clicks.parquet")
    url = put(sample.data, "s3://clicks/days/1/clicks.csv")
    parquet = put(tmp_path / "clicks.parquet", "s3://clicks/days/2/clicks.parquet")
    words = ("--config", tmp_path / "s.toml", "--out")
    here = Path(model("train", sample.spec, sample.data, *words, tmp_path / "bundles"))
    there = Path(model("train", sample.spec, url, *words, tmp_path / "others"))
    assert Bundle.open(here).manifest.id == Bundle.open(there).manifest.id
    assert Bundle.open(there).manifest.data[0]["name"] == "clicks.csv"
    tables = []
    for name, data in (
        ("local", (sample.data, tmp_path / "clicks.parquet")),
        ("far", (url, parquet)),
    ):
        out = tmp_path / f"{name}.parquet"
        model("predict", here, *data, "--out", out)
        tables.append(pl.read_parquet(out))
    assert_frame_equal(*tables, check_exact=True)


def test_patterns_are_looked_up_in_the_store(sample: Sample, tmp_path: Path) -> None:
    """A shell cannot; each file is named in the results, markers beside them are passed over."""
    for name in ("day=1/part-0.csv", "day=2/part-1.csv", "day=2/_SUCCESS", "day=2/deep/part-2.csv"):
        put(sample.data, f"s3://clicks/{name}")
    out = tmp_path / "spec.toml"
    model("spec", "s3://clicks/day=*/part-*.csv", "--label", "click", "--out", out)
    text = out.read_text()
    assert "part-0.csv" in text
    assert "part-1.csv" in text
    assert "part-2.csv" not in text
    done = command("spec", "s3://clicks/day=3/*", "--label", "click", "--out", out, "--replace")
    assert (done.returncode, done.stderr) == (
        1, "error: s3://clicks/day=3/*: no file of the store fits\n",
    )  # fmt: skip


def test_a_bundle_goes_to_the_store_whole(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files first, the manifest last; commands take it from there, the newest of a directory."""
    (tmp_path / "s.toml").write_text(SETTINGS)
    words = ("--config", tmp_path / "s.toml", "--out", "s3://clicks/bundles")
    url = model("train", sample.spec, sample.data, *words)
    assert url.startswith("s3://clicks/bundles/")
    names = {entry.url.removeprefix("s3://clicks/bundles/") for entry in listing("s3://clicks")}
    version = url.rpartition("/")[2]
    assert f"{version}/{MANIFEST}" in names
    assert any(name.startswith(f"{version}.report/") for name in names)
    assert all(name.partition("/")[0].removesuffix(".report") == version for name in names)
    for place in (url, "s3://clicks/bundles"):
        out = tmp_path / "scores.parquet"
        model("predict", place, sample.data, "--out", out)
        assert pl.read_parquet(out)["version"].unique().to_list() == [version]
    copied = local_bundle(RemoteFile("s3://clicks/bundles"))
    assert Bundle.open(newest(copied)).version == version


def test_nobody_sees_half_a_bundle(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload that fails in the middle leaves nothing that a reader takes for a bundle."""
    shutil.copytree(tiny_bundle, tmp_path / tiny_bundle.name)
    place = BundlePlace(tmp_path, "s3://clicks/bundles")
    sent: list[str] = []

    def failing(content: object, url: str) -> None:
        if len(sent) == 3:
            raise RemoteError(f"cannot write {url}: made to fail")
        sent.append(url)
        upload(content, url)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(bundles, "upload", failing)
        with pytest.raises(RemoteError, match="made to fail"):
            place.publish(tmp_path / tiny_bundle.name)
    assert len(sent) == 3
    assert not [url for url in sent if url.endswith(MANIFEST)]
    assert listing("s3://clicks") == []
    assert (tmp_path / tiny_bundle.name / MANIFEST).exists(), "the bundle itself is kept"


def test_what_is_wrong_is_one_line_with_the_name(
    python: Path, server: S3Server, sample: Sample, tiny_bundle: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """No file, no bucket, a directory, an output that cannot be there: nothing is written."""
    put(sample.data, "s3://clicks/days/1.csv")
    out = tmp_path / "scores.parquet"
    for address, problem in (
        ("s3://clicks/2.csv", "there is no such file"),
        ("s3://absent/1.csv", "there is no bucket 'absent'"),
        ("s3://clicks/days", "it is a directory: name the files in it, such as"
         " s3://clicks/days/*"),
    ):  # fmt: skip
        done = command("predict", tiny_bundle, address, "--out", out)
        assert (done.returncode, done.stderr) == (1, f"error: cannot read {address}: {problem}\n")
    done = command("predict", tiny_bundle, sample.data, "--out", "s3://clicks/scores.parquet")
    assert done.returncode == 1
    assert "s3://clicks/scores.parquet cannot be written: of all results only" in done.stderr
    words = ("train", sample.spec, sample.data, "--out", "s3://absent/bundles")
    assert command(*words).stderr.startswith("error: cannot write s3://absent/bundles/")
    assert not list(tmp_path.iterdir())
    assert not Path("s3:").exists()
    with S3Server(python, tmp_path / "guarded.log", guarded=True) as guarded:
        use(guarded.variables(), monkeypatch)
        with pytest.raises(RemoteError, match=r"^cannot read s3://clicks/1.csv: access is denied"):
            find("s3://clicks/1.csv")


def test_throttling_and_cut_connections_are_overcome(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the tries; what was read before the cut is kept, and the content is whole."""
    content = os.urandom(20 * 2**20)
    (tmp_path / "many").write_bytes(content)
    put(tmp_path / "many", "s3://clicks/many")
    with FaultyWay(server.port) as way:
        use(server.variables(way.port), monkeypatch)
        way.throttled, way.cut, way.cut_after = 2, 2, 3_000_000
        assert RemoteFile("s3://clicks/many").read_bytes() == content
        assert way.faults == 4


def test_a_store_that_never_recovers_is_given_up(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many tries in a row, and no copy of a part is left."""
    content = os.urandom(3 * 2**20)
    (tmp_path / "many").write_bytes(content)
    put(tmp_path / "many", "s3://clicks/lost")
    with FaultyWay(server.port) as way:
        use(server.variables(way.port), monkeypatch)
        way.cut = 1_000_000
        with pytest.raises(RemoteError) as caught:
            RemoteFile("s3://clicks/lost").read_bytes()
        assert str(caught.value).startswith("cannot read s3://clicks/lost: ")
        assert str(caught.value).endswith(f"({TRIES} tries failed)")
        way.cut, way.throttled = 0, 1_000_000
        with pytest.raises(RemoteError) as caught:
            find("s3://clicks/lost")
        assert str(caught.value) == (
            "cannot read s3://clicks/lost: the store asks for fewer requests"
            f" ({TRIES} tries failed)"
        )
