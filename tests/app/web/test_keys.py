"""Only who holds a key is let in, and only its hash is kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from app.errors import KeyFileError
from app.web.keys import Keys

KEY, OTHER = "a" * 64, "b" * 64


def hashed(key: str) -> str:
    """The line that ``sha256sum`` writes."""
    return f"{hashlib.sha256(key.encode()).hexdigest()}  -\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(hashed(KEY))
    return path


@pytest.mark.parametrize(
    ("header", "admitted"),
    [
        (f"Bearer {KEY}", True),
        (f"bearer  {KEY}", True),
        (f"Bearer {OTHER}", False),
        (f"Bearer {KEY[:-1]}", False),
        (f"Bearer {KEY} ", False),
        (f"Basic {KEY}", False),
        (KEY, False),
        (f"Bearer {hashed(KEY)[:64]}", False),
        ("Bearer", False),
        ("Bearer é", False),
        ("", False),
    ],
)
def test_only_a_bearer_of_a_key_is_admitted(file: Path, header: str, admitted: bool) -> None:
    """The key itself, whole, in its scheme; its hash opens nothing."""
    assert Keys(file).admit(header) is admitted


def test_keys_come_and_go_while_the_service_runs(file: Path) -> None:
    """Several lines are several keys; empty lines are none."""
    keys = Keys(file)
    file.write_text(f"\n{hashed(KEY)}\n{hashed(OTHER).upper()}")
    assert keys.admit(f"Bearer {KEY}")
    assert keys.admit(f"Bearer {OTHER}")
    file.write_text(hashed(OTHER))
    assert not keys.admit(f"Bearer {KEY}")


@pytest.mark.parametrize("content", ["", "\n", KEY[:-1], KEY + "\nnot a hash", "é", "g" * 64])
def test_a_file_without_keys_is_refused(file: Path, content: str) -> None:
    """At the start and later: nobody is let in by accident."""
    keys = Keys(file)
    file.write_text(content)
    for use in (lambda: Keys(file), lambda: keys.admit(f"Bearer {KEY}")):
        with pytest.raises(KeyFileError, match="keys"):
            use()
    file.unlink()
    with pytest.raises(KeyFileError, match="No such file"):
        Keys(file)
    # Reading it would wait for a writer without end.
    os.mkfifo(file)
    with pytest.raises(KeyFileError, match="Not a regular file"):
        Keys(file)
