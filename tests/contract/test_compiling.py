"""Files of tests that one process has compiled are read by all others."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from _pytest.assertion import rewrite

from tests.support import compiling
from tests.support.compiling import compile_a_share, compiled, rewrite_assertions

CODE = "def test_one():\n    found = [1]\n    assert found == [2]\n"


@pytest.fixture(autouse=True)
def kept_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of these tests is kept; the first process has no library to begin with."""
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "kept"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(compiling, "LIBRARIES", ((),))


def imported(config: pytest.Config, file: Path) -> ModuleType:
    """Import a file as pytest imports one whose assertions it rewrites."""
    hook = config.pluginmanager.rewrite_hook
    assert isinstance(hook, rewrite.AssertionRewritingHook)
    spec = importlib.util.spec_from_file_location(file.stem, file, loader=hook)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    hook.exec_module(module)
    return module


def test_an_import_reads_what_was_compiled(
    tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pytest takes the bytecode, whose assertions tell what they compared, and makes none."""
    file = tmp_path / "test_some.py"
    file.write_text(CODE)
    rewrite_assertions(pytestconfig, file)
    monkeypatch.setattr(rewrite, "_rewrite_test", None)
    module = imported(pytestconfig, file)
    with pytest.raises(AssertionError, match=r"assert \[1\] == \[2\]"):
        module.test_one()


def test_an_import_keeps_its_bytecode_there(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """What another process has imported counts as compiled."""
    file = tmp_path / "test_some.py"
    file.write_text(CODE)
    assert not compiled(file).exists()
    imported(pytestconfig, file)
    assert compiled(file).exists()


def test_a_new_checkout_is_compiled_once(
    tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are compiled, or cannot be, are passed over; with few others nothing is done."""
    files = [tmp_path / f"test_{number}.py" for number in range(4)]
    for file in files:
        file.write_text(CODE)
    files[1].write_text("def")
    rewrite_assertions(pytestconfig, files[0])
    before = compiled(files[0]).stat()

    compile_a_share(pytestconfig, files, 0)
    assert not compiled(files[2]).exists()
    monkeypatch.setattr(compiling, "MANY", 3)
    compile_a_share(pytestconfig, files, 0)
    assert [compiled(file).exists() for file in files] == [True, False, True, True]
    assert compiled(files[0]).stat() == before
