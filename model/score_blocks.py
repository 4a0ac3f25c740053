"""Scores of files, block by block, here or on a cluster → a directory with one part a block.

A part is written whole, under a name that its block decides, and holds what was noticed beside its
scores. So a block may be scored twice, and a run that was killed goes on with the blocks that have
no part. ``_SUCCESS`` is there when all are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec
import polars as pl

from app.files import PARTIAL, remove_abandoned, write_file
from model.cluster.places import Places
from model.data.block_reading import BlockRead, merge_notes
from model.data.errors import DataError, no_usable_line
from model.data.file_blocks import BlockSize, FileContent, FilePart
from model.data.input_files import InputFiles
from model.data.log_files import Source
from model.data.reader import Reader
from model.data.stored_files import StoredFiles
from model.data.stored_values import StoredValues, read_stored
from model.data.wanted_columns import FILE, KEPT, LINE, LogFile
from model.fingerprint import fingerprint_of
from model.progress import progress_bar, say
from model.remote.bundles import local_bundle
from model.result_places import ResultError, require_directory
from model.score_files import Offline, check_kept, require_different, warn_each
from model.score_table import score_table

RUN, DONE = "_run.json", "_SUCCESS"
"""Files beside the parts: which run they belong to, and the mark of its end."""
_NOTES = "ctr"
"""Key of a part's metadata with what was found in its block."""
_decode = msgspec.json.Decoder(BlockRead).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ScoringRun:
    """All that decides the parts of a run, as every block takes it along."""

    name: str
    """A fingerprint of the bundle, the content of the files and the options."""
    bundle: Path
    version: str
    keep: tuple[str, ...]
    stored: tuple[StoredFiles, ...]
    max_bad_lines: float
    out: Path


class ScoreBlock(NamedTuple):
    """A part of a file that becomes a part of the result."""

    run: ScoringRun
    number: int
    file: LogFile
    bytes: int
    """Size of the file."""
    part: FilePart

    @property
    def path(self) -> Path:
        """The file of its scores."""
        return self.run.out / f"part-{self.number:06}.parquet"


def predict_blocks(
    places: Places,
    bundle: Path,
    paths: Sequence[Path],
    out: Path,
    max_bad_lines: float,
    keep: Sequence[str] = (),
    stored: Sequence[StoredFiles] = (),
    size: BlockSize | None = None,
) -> int:
    """Write the scores of every row that is scored into parts below ``out``; return how many.

    A row's scores are bit for bit those of :meth:`Offline.predict`. Blocks are cut by the memory of
    the places, or as ``size`` says. All places see the bundle, the files and ``out`` under the same
    names.

    Raises:
        DataError: a file cannot be read, lacks a column, or is given twice.
        ResultError: ``out`` cannot be written, or has something else than parts of this run.
        ClusterError: the cluster cannot run the blocks.
    """
    require_different(paths)
    require_directory(out)
    check_kept(keep)
    found = Offline.open(local_bundle(bundle)).bundle
    # Files without rows are told as a single process tells them.
    reader = Reader(
        found.spec,
        paths,
        max_bad_lines,
        label=False,
        keep=keep,
        stored=[read_stored(found.spec, each, max_bad_lines) for each in stored],
    )
    reader.require_columns(joins=True)
    # Workers have another working directory.
    reader.files = [LogFile(file.path.absolute(), file.name) for file in reader.files]
    inputs = InputFiles([file.path for file in reader.files])
    looked = inputs.look(places, size or BlockSize.of_memory(places.memory_mib))
    contents = [looked[file.path] for file in reader.files]
    described = [
        [file.name, content.sha256, len(content.parts)]
        for file, content in zip(reader.files, contents, strict=True)
    ]
    sources = [[source.sha256 for source in each.sources] for each in reader.stored]
    name = fingerprint_of(
        *(found.manifest.id, described, list(keep), sources),
        [[each.kind, each.key] for each in stored],
    )
    run = ScoringRun(
        name,
        bundle.absolute(),
        found.version,
        tuple(keep),
        tuple(
            each._replace(paths=tuple(path.absolute() for path in each.paths)) for each in stored
        ),
        max_bad_lines,
        out.absolute(),
    )
    _begin(run)
    rows = _score(places, run, reader, contents)
    summary = {"rows": rows, "version": run.version}
    write_file(out / DONE, (json.dumps(summary) + "\n").encode())
    _tidy(out)
    warn_each(reader.warnings)
    return rows


def _begin(run: ScoringRun) -> None:
    """Take the directory for a run, or go on with what it has there.

    Raises:
        ResultError: it has anything else.
    """
    run.out.mkdir(parents=True, exist_ok=True)
    try:
        known = json.loads((run.out / RUN).read_bytes())
        same = known["run"] == run.name
    except FileNotFoundError:
        others = [path for path in run.out.iterdir() if not path.name.startswith(PARTIAL)]
        if others:
            raise ResultError(
                f"{run.out} has files that are no scores, such as {min(others).name}: name another"
                " directory"
            ) from None
        same = True
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise ResultError(
            f"{run.out} has the scores of other files, or of another bundle or other options:"
            " remove it, or name another directory"
        )
    write_file(run.out / RUN, (json.dumps({"run": run.name}) + "\n").encode())


def _score(places: Places, run: ScoringRun, reader: Reader, contents: Sequence[FileContent]) -> int:
    """Score the blocks that have no part yet; add up in ``reader`` what all of them noticed."""
    wanted = [
        ScoreBlock(run, 0, file, content.bytes, part)
        for file, content in zip(reader.files, contents, strict=True)
        for part in content.parts
    ]
    wanted = [block._replace(number=number) for number, block in enumerate(wanted)]
    there = {block.number for block in wanted if block.path.exists()}
    if there:
        say(f"{len(there):,} of {len(wanted):,} blocks are scored already")
    scored = places.map(score_block, (block for block in wanted if block.number not in there))
    blocks, used = iter(wanted), 0
    with progress_bar("scoring", len(wanted), "blocks", True) as shown:
        for file, content in zip(reader.files, contents, strict=True):
            lines = rows = 0
            for block in islice(blocks, len(content.parts)):
                made = _noted(block.path) if block.number in there else next(scored)
                if not block.path.exists():
                    raise ResultError(
                        f"{block.path} was written on another machine: --out must be a directory"
                        " that all machines of the cluster share"
                    )
                merge_notes(reader, made)
                lines += made.bad.total
                rows += made.rows
                used += sum(height for _, height in made.frames)
                shown.update(1)
            if lines and not rows:
                raise no_usable_line(file.name, reader.bad)
            reader.note_file(file, Source(file.path.name, content.sha256, content.bytes, rows))
    reader.require_rows(used)
    return used


def score_block(block: ScoreBlock) -> BlockRead:
    """Write the scores of a part of a file; return what was found in it.

    Raises:
        DataError: the file cannot be read, or is not the one that the run began with.
        ResultError: the part cannot be written.
    """
    run = block.run
    offline = _opened(run.bundle, run.version)
    spec = offline.bundle.spec
    if block.file.path.stat().st_size != block.bytes:
        raise DataError(f"{block.file.path} has changed since the run began")
    values = _values(run.bundle, run.version, run.stored, run.max_bad_lines)
    reader = Reader(spec, [block.file.path], 1.0, label=False, keep=run.keep, stored=values)
    read = rows = 0
    with score_table(block.path) as table:
        try:
            for frame, piece in reader.part(block.file, block.part):
                read += piece.frame.height
                rows += frame.height
                table.add(offline.scored(frame, run.keep))
        except DataError:
            # That no line of a file can be used is told once it is known of all files before it.
            if read or not reader.bad.count or reader.bad.count < reader.bad.total:
                raise
        if not read:
            columns = {FILE: pl.String(), LINE: pl.Int64()}
            columns |= {KEPT + name: pl.String() for name in run.keep}
            table.add(offline.scored(pl.DataFrame(schema=columns), run.keep))
        made = BlockRead(
            [(block.path.name, rows)],
            read,
            reader.bad,
            reader.notes.state(),
            [(each.rows, each.unknown) for each in reader.stored],
        )
        table.metadata = {_NOTES: _encode(made).decode()}
    return made


def _noted(path: Path) -> BlockRead:
    """Return what was found when a part was made.

    Raises:
        ResultError: the file is not one of our parts.
    """
    try:
        return _decode(pl.read_parquet_metadata(path)[_NOTES])
    except (pl.exceptions.PolarsError, msgspec.MsgspecError, KeyError) as error:
        raise ResultError(f"{path} is no part of this run: remove it") from error


@lru_cache(maxsize=1)
def _opened(bundle: Path, version: str) -> Offline:
    """Open the bundle once in each process, for one thread: others score beside it."""
    offline = Offline.open(local_bundle(bundle), threads=1)
    if offline.bundle.version != version:
        raise DataError(
            f"{bundle} is {offline.bundle.version} on this machine, not {version}: all machines"
            " need the same bundle"
        )
    return offline


@lru_cache(maxsize=1)
def _values(
    bundle: Path, version: str, stored: tuple[StoredFiles, ...], max_bad_lines: float
) -> list[StoredValues]:
    spec = _opened(bundle, version).bundle.spec
    return [read_stored(spec, each, max_bad_lines) for each in stored]


def _tidy(out: Path) -> None:
    """Remove what killed workers have left half-written."""
    remove_abandoned(out)
    for path in out.glob(f"{PARTIAL}*"):
        if path.is_file():
            path.unlink(missing_ok=True)
