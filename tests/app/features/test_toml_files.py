"""TOML files as people give them: each mistake has a line that says what the file is."""

from __future__ import annotations

import gzip
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest

from app.features.toml_files import MOST_BYTES, TomlError, parse_toml, read_toml_text


def problem(path: Path) -> str:
    """Read and parse a file that cannot be used; return the message from the file's name on."""
    with pytest.raises(TomlError) as caught:
        parse_toml(read_toml_text(path, "feature spec"), str(path), "feature spec")
    return str(caught.value).replace(f"{path.parent}/", "")


def parquet() -> bytes:
    """A small Parquet file."""
    content = BytesIO()
    pl.DataFrame({"click": [0, 1]}).write_parquet(content)
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("log.csv", b"user_id,click\n7,1\n", "log.csv is a data file; the feature spec must be"),
        ("log.tsv", b"user_id\tclick\n7\t1\n", "log.tsv is a data file"),
        ("log", b"user_id;click\n7;1\n", "log is a data file"),
        ("log.csv", b"user,click\n\xe9t\xe9,1\n", "log.csv is a data file"),
        ("log.csv.gz", gzip.compress(b"user,click\n", mtime=0), "log.csv.gz is a gzip file"),
        ("log.parquet", parquet(), "log.parquet is a Parquet file"),
        ("spec.toml", parquet(), "spec.toml is a Parquet file"),
        ("log.xlsx", b"PK\x03\x04\x14\0", "log.xlsx is a zip archive or an Excel file"),
        ("model.bin", b"\x7fELF\x02\0\0", "model.bin is a binary file"),
        ("huge", b"# \n" * (MOST_BYTES // 3 + 1), "huge is a data file (larger than 16 MiB)"),
    ],
)  # fmt: skip
def test_another_kind_of_file_is_told(
    tmp_path: Path, name: str, content: bytes, wanted: str
) -> None:
    """Data, archives and binaries are named for what they are, not by a decoding error."""
    (tmp_path / name).write_bytes(content)
    found = problem(tmp_path / name)
    assert found.startswith(wanted)
    assert "must be a TOML file" in found
    assert "\n" not in found


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_told(tmp_path: Path, encoding: str) -> None:
    """Texts that some editors and shells write; without a mark they are binary."""
    (tmp_path / "spec.toml").write_bytes('label = "click"\n'.encode(encoding))
    wanted = "UTF-16; save the feature spec as UTF-8" if encoding == "utf-16" else "binary"
    assert wanted in problem(tmp_path / "spec.toml")


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    """UTF-8 with a mark is read like UTF-8 without it."""
    (tmp_path / "spec.toml").write_bytes(b'\xef\xbb\xbflabel = "click"\r\n')
    text = read_toml_text(tmp_path / "spec.toml", "feature spec")
    assert parse_toml(text, "spec.toml", "feature spec") == {"label": "click"}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_make_no_difference(tmp_path: Path, end: str) -> None:
    """The text, of which a bundle keeps a copy, is the same for files of any system."""
    (tmp_path / "spec.toml").write_bytes(f'label = "click"{end}a = 1{end}'.encode())
    text = read_toml_text(tmp_path / "spec.toml", "feature spec")
    assert text == 'label = "click"\na = 1\n'


def test_a_place_without_a_file_is_told(tmp_path: Path) -> None:
    """A missing file, a directory and a name that cannot be one."""
    start = f"cannot read feature spec {tmp_path}"
    for path, reason in (
        (tmp_path / "no.toml", "/no.toml: No such file or directory"),
        (tmp_path, ": it is a directory; name a file"),
        (tmp_path / "a\0b", "/a\0b: embedded null byte"),
    ):
        with pytest.raises(TomlError) as caught:
            read_toml_text(path, "feature spec")
        assert str(caught.value) == start + reason


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b'label = "click"\nside = \n', "spec.toml:2, column 8: not TOML: invalid value: side ="),
        (b"label: click\n", "spec.toml:1, column 6: not TOML: expected '=' after a key in a key"),
        (b'a = 1\n\nb = "open\n', "spec.toml:3, column 10: not TOML: illegal character"),
        (b'a = """open\nline\n\n', "spec.toml:2: not TOML: unterminated string: line"),
        (b"a = 1\na = 2\n", "spec.toml:2, column 6: not TOML: cannot overwrite a value: a = 2"),
        (b'{"label": "click"}', "spec.toml:1, column 1: not TOML: invalid statement"),
        (b'a = 1\nb = "\xe9"\n', "spec.toml:2: not UTF-8; save the feature spec as UTF-8"),
    ],
)
def test_an_error_has_its_line(tmp_path: Path, content: bytes, wanted: str) -> None:
    """File, line, column, reason and the line's text."""
    (tmp_path / "spec.toml").write_bytes(content)
    assert problem(tmp_path / "spec.toml").startswith(wanted)


def test_a_long_line_is_cut(tmp_path: Path) -> None:
    """The message stays one line of a terminal."""
    (tmp_path / "spec.toml").write_text(f"a = {'x' * 5_000}\n")
    assert len(problem(tmp_path / "spec.toml")) < 150
