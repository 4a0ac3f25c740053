"""The choice of the bundle of a directory that is served next."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import msgspec
import pytest

from app.bundle.bundle import Bundle
from app.bundle.directory import (
    CURRENT,
    current_written,
    find_bundles,
    read_current,
    write_current,
)
from app.errors import BundleError
from app.serving.versions import Versions


@pytest.fixture
def bundles(tiny_bundle: Path, other_bundle: Path, tmp_path: Path) -> Path:
    """A directory with an older and a newer bundle."""
    for each in (tiny_bundle, other_bundle):
        shutil.copytree(each, tmp_path / each.name)
    return tmp_path


def test_the_newest_comes_first(bundles: Path) -> None:
    """Bundles are ordered by when they were made; what is in use wants no other."""
    new, old = found(bundles)
    assert new.name > old.name
    versions = Versions(bundles)
    assert wanted(versions, old) == new
    assert versions.wanted(at(new)) is None


def test_current_names_the_one(bundles: Path, caplog: pytest.LogCaptureFixture) -> None:
    """CURRENT is obeyed, also backwards; one that names nothing is told once and ignored."""
    new, old = found(bundles)
    versions = Versions(bundles)
    (bundles / CURRENT).write_text(f"{old.name}\n")
    assert found(bundles) == [old]
    assert wanted(versions, new) == old
    assert versions.wanted(at(old)) is None
    for name in ("../elsewhere", "20260101T000000Z-0123456789ab", ""):
        (bundles / CURRENT).write_text(name)
        with pytest.raises(BundleError, match="there is no such bundle"):
            found(bundles)
        caplog.clear()
        assert [versions.wanted(at(new)) for _ in range(3)] == [None] * 3
        assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", ["directory", "link to a bundle", "link to nothing"])
def test_a_current_that_is_no_file_is_told(
    bundles: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever made it wants to pin a bundle: serving the newest instead would be worse."""
    _, old = found(bundles)
    if kind == "directory":
        (bundles / CURRENT).mkdir()
    else:
        (bundles / CURRENT).symlink_to(old.name if kind == "link to a bundle" else "nowhere")
    with pytest.raises(BundleError, match="CURRENT cannot be read"):
        found(bundles)
    versions = Versions(bundles)
    assert [versions.wanted(at(old)) for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is None


def test_a_refused_one_is_tried_again_when_it_has_changed(bundles: Path) -> None:
    """It may have been on its way; until then the next best is wanted, if that is newer."""
    new, old = found(bundles)
    versions = Versions(bundles)
    attempt = versions.wanted(at(old))
    assert attempt is not None
    assert attempt.path == new
    versions.refuse(attempt, "a reason")
    assert versions.refusals[new].reason == "a reason"
    assert versions.wanted(at(old)) is None
    third = bundles / "20200101T000000Z-0123456789ab"
    assert wanted(versions, third) == old
    (new / "more").write_text("")
    assert wanted(versions, old) == new


def test_a_refused_one_is_tried_again_when_it_is_asked_for_again(bundles: Path) -> None:
    """Whoever writes CURRENT wants it tried now, though its files are what they were."""
    new, old = found(bundles)
    versions = Versions(bundles)
    for _ in range(2):
        write_current(bundles, f"{new.name}\n".encode())
        attempt = versions.wanted(at(old))
        assert attempt is not None
        assert attempt.chosen == current_written(bundles)
        versions.refuse(attempt, "a reason")
        assert versions.wanted(at(old)) is None
    write_current(bundles, None)
    assert versions.wanted(at(old)) is None, "nobody asks for it any more"
    assert read_current(bundles) is None


def test_an_attempt_has_one_number_for_all_workers(bundles: Path) -> None:
    """Whoever looks at the same files finds the same; another attempt has another."""
    _, old = found(bundles)
    write_current(bundles, None)
    first = [Versions(bundles).wanted(at(old)) for _ in range(2)]
    write_current(bundles, found(bundles)[0].name.encode())
    first.append(Versions(bundles).wanted(at(old)))
    numbers = [each.number for each in first if each]
    assert numbers[0] == numbers[1] != numbers[2]
    assert all(int(float(number)) == number < 2**48 for number in numbers)


def test_a_refused_one_is_tried_again_after_chmod(bundles: Path) -> None:
    """Permissions leave a file's content, size and time of modification as they are."""
    new, old = found(bundles)
    versions = Versions(bundles)
    for path in (new / "examples.jsonl", new / "vocabulary", new):
        attempt = versions.wanted(at(old))
        assert attempt is not None
        versions.refuse(attempt, "a reason")
        assert versions.wanted(at(old)) is None
        path.chmod(0o700)
    assert versions.wanted(at(old)) is not None


def test_one_with_other_requests_waits_until_it_is_chosen(
    bundles: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once; the next best that takes all requests is wanted instead."""
    new, old = found(bundles)
    spec = new / "features.toml"
    spec.write_text(spec.read_text(encoding="utf-8").replace('"country"', '"nation"'))
    versions = Versions(bundles)
    assert [versions.wanted(at(old)) for _ in range(3)] == [None] * 3
    assert versions.waiting == {new.name: "field 'country' is gone"}
    assert len(caplog.records) == 1
    oldest = replace(at(old), path=bundles / "20200101T000000Z-0123456789ab")
    attempt = versions.wanted(oldest)
    assert attempt is not None
    assert attempt.path == old
    write_current(bundles, new.name.encode())
    assert wanted(versions, old) == new
    assert versions.waiting == {}


def test_one_that_is_held_waits_for_a_change(bundles: Path) -> None:
    """It is judged anew with other files, beside another bundle, or when it is chosen."""
    new, old = found(bundles)
    versions = Versions(bundles)
    attempt = versions.wanted(at(old))
    assert attempt is not None
    versions.hold(attempt, opened(old).version, "it is worse")
    assert versions.held == {new.name: "it is worse"}
    assert versions.wanted(at(old)) is None
    assert versions.held == {new.name: "it is worse"}
    manifest = msgspec.structs.replace(opened(old).manifest, id="0" * 64)
    another = versions.wanted(replace(opened(old), manifest=manifest))
    assert another is not None
    assert another.path == new
    (new / "examples.jsonl").touch()
    assert wanted(versions, old) == new
    (bundles / CURRENT).write_text(f"{new.name}\n")
    assert wanted(versions, old) == new


def test_one_whose_spec_cannot_be_read_is_tried(bundles: Path) -> None:
    """Loading it says what is wrong, and it is refused for that."""
    new, old = found(bundles)
    (new / "features.toml").write_text("no spec")
    assert wanted(Versions(bundles), old) == new


def wanted(versions: Versions, current: Path) -> Path | None:
    """The bundle that should take the place of ``current``."""
    attempt = versions.wanted(at(current))
    return attempt.path if attempt else None


def found(bundles: Path) -> list[Path]:
    """The bundles that may be served, best first."""
    return find_bundles(bundles).bundles


@cache
def opened(path: Path) -> Bundle:
    return Bundle.open(path)


def at(path: Path) -> Bundle:
    """A bundle in use, wherever it is."""
    whole = path if path.is_dir() else next(each for each in path.parent.glob("*Z-*"))
    return replace(opened(whole), path=path)
