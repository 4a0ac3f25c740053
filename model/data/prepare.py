"""Files → encoded rows of every part, from the cache where nothing has changed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

from app.bundle.bundle import Bundle
from app.features.encoder import Encoder
from app.features.layout import Layout
from app.features.spec import DataPart, FeatureSpec
from app.features.vocabulary import Vocabulary
from app.files import partial_directory, put_in_place, remove_abandoned, unfinished_directory
from model.array_files import DamagedError
from model.cluster.places import THIS_PROCESS, Places
from model.config import TrainConfig
from model.data.dataset import Dataset
from model.data.encoded_data import EncodedData, code_hash, read_encoded, write_encoded
from model.data.errors import DataError
from model.data.file_blocks import BlockSize, FileContent
from model.data.input_files import InputFiles
from model.data.log_files import Source
from model.data.null_texts import null_warnings
from model.data.slot_counts import always_present
from model.data.value_counts import count_rows
from model.data.vocabulary_learning import learn_vocabulary, reused_numbers
from model.fingerprint import fingerprint_of
from model.progress import LINE_SECONDS, Stopwatch, say, warn

if TYPE_CHECKING:
    from model.group import Group
    from model.networks.crosses import CrossWeights

SHOWN_FIELDS = 3
"""Fields that a warning names at most: it is one line of a screen. The manifest has the share of
missing values of all."""
_WORK, _WORK_SECONDS = ".work-", 7 * 86_400.0
"""Name of a directory of unfinished work, and the age at which nobody goes on with it."""
PURPOSES: Mapping[DataPart, str] = {
    "train": "to train on",
    "validation": "to validate",
    "test": "to test",
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """Data that was read, split and encoded, for any number of runs."""

    name: str
    """The spec file's name without its ending."""
    text: str
    spec: FeatureSpec
    inputs: InputFiles
    sources: Mapping[DataPart, Sequence[Source]]
    vocabulary: Vocabulary
    encoder: Encoder
    data: Mapping[DataPart, Dataset]
    test_rows: Sequence[Mapping[str, Any]]
    """Rows of the test part as a caller would send them."""
    before: str | None = None
    """Id of the bundle whose buckets and scales were kept."""
    warnings: Sequence[str] = ()
    """The warnings of reading the files."""

    @property
    def train_rows(self) -> int:
        """Rows of the training part."""
        return len(self.data["train"])

    def crosses(self, config: TrainConfig) -> tuple[CrossWeights, ...]:
        """Count the pairs of the spec's crosses, for a network that has any.

        Raises:
            CrossError: the fields of a cross have too many values.
        """
        from model.data.cross_counts import count_crosses

        if config.network != "wide_deep":
            return ()
        return count_crosses(self.spec, self.vocabulary.layout, self.data["train"])

    def fingerprint(self) -> str:
        """Return a hash of all that decides the rows of each part."""
        sources = [[source.sha256 for source in found] for found in self.sources.values()]
        rows = [len(part) for part in self.data.values()]
        return fingerprint_of(
            self.text, self.inputs.describe(self.spec), sources, rows, self.before
        )


def prepare(
    spec_path: Path,
    inputs: InputFiles,
    before: Bundle | None = None,
    cache: Path | None = None,
    progress: bool = True,
    places: Places = THIS_PROCESS,
) -> Prepared:
    """Read the files, learn the vocabulary of the training part and encode every part.

    Of the data only a bounded piece is in memory at a time, and the result stays on disk; beside
    it there are the distinct values of the categorical fields. For a start from the bundle
    ``before`` numbers keep the buckets and scales that they had in it. With ``cache`` the result
    is kept below that directory, and taken from there while the files, the spec and the encoder
    are the same; without, it is in the system's directory for temporary files, and gone with this
    process.

    The work is done in blocks, by the ``places``, which all see the files and the cache; the
    result is the same for all of them. A process that was killed leaves what it has done in the
    cache, and the next one goes on from there.

    Raises:
        SpecError: the spec breaks a rule.
        DataError: the files cannot be used, or there is no room for what they become.
    """
    text = FeatureSpec.read(spec_path)
    spec = FeatureSpec.parse(text, str(spec_path))
    work = Work(text, spec, inputs, before, progress, places)
    start = perf_counter()
    if cache is None:
        with TemporaryDirectory(prefix="ctr-") as directory:
            encoded, done = _made(work, Path(directory) / "encoded", False), "read and encoded"
    else:
        encoded, _, done = _cached(work, cache, False)
    data, vocabulary = encoded.data, encoded.vocabulary
    warnings = (*encoded.warnings, *null_warnings(spec, vocabulary, data["train"]))
    _say_what_is_there(encoded, warnings, f"{done}:", perf_counter() - start)
    _warn_of_untrained_absence(spec, vocabulary.layout, data["train"])
    return Prepared(
        spec_path.stem,
        text,
        spec,
        inputs,
        encoded.sources,
        vocabulary,
        Encoder(spec, vocabulary),
        data,
        encoded.test_rows,
        before.manifest.id if before else None,
        warnings,
    )


def prepare_rows(
    spec_path: Path,
    inputs: InputFiles,
    before: Bundle | None,
    cache: Path,
    places: Places = THIS_PROCESS,
    progress: bool = True,
) -> Path:
    """Fill the cache as :func:`prepare` does, and return the entry; what is there is verified.

    What has been done is kept if this is interrupted, too. Of the rows nothing is looked at: what
    is told of their values is told when they are trained on.

    Raises:
        SpecError: the spec breaks a rule.
        DataError: the files cannot be used, or there is no room for what they become.
        ClusterError: a cluster has lost its workers, or is gone.
    """
    text = FeatureSpec.read(spec_path)
    spec = FeatureSpec.parse(text, str(spec_path))
    start = perf_counter()
    work = Work(text, spec, inputs, before, progress, places)
    encoded, entry, done = _cached(work, cache, True)
    _say_what_is_there(encoded, encoded.warnings, f"{done}:", perf_counter() - start)
    return entry


def _cached(work: Work, cache: Path, keep: bool) -> tuple[EncodedData, Path, str]:
    """Return the cache's entry, making it where it is not there, and how it was come by."""
    entry = cache / work.key()
    encoded = work.kept(entry)
    if encoded is not None:
        return encoded, entry, "taken from the cache"
    encoded = _made(work, entry, keep)
    # Dropped if a file has changed since its hash was taken.
    if entry.name != work.key(again=True):
        shutil.rmtree(entry)
    return encoded, entry, "read and encoded"


def _made(work: Work, entry: Path, keep: bool) -> EncodedData:
    try:
        return work.encode(entry, keep)
    except OSError as error:
        raise DataError(
            f"the rows could not be kept in {entry.parent}: {error.strerror}; --cache, or"
            " TMPDIR in the environment, names another place"
        ) from error


def _say_what_is_there(
    encoded: EncodedData, warnings: Sequence[str], done: str, seconds: float
) -> None:
    for warning in warnings:
        warn(warning)
    data = encoded.data
    counts = ", ".join(f"{len(rows):,} {PURPOSES[part]}" for part, rows in data.items())
    say(f"{done} {sum(map(len, data.values())):,} rows in {seconds:.1f} s ({counts})")
    _warn_of_flat_labels(data)


def prepare_together(
    group: Group,
    spec_path: Path,
    inputs: InputFiles,
    before: Bundle | None = None,
    cache: Path | None = None,
) -> Prepared:
    """Like :func:`prepare`, once on each machine: the other processes there take the cache's.

    Raises:
        DataError: there are several processes and no ``cache``, too.
    """
    if group.size > 1 and cache is None:
        raise DataError("several processes share the encoded data: give --cache, a directory")
    if group.local_rank == 0:
        prepared = prepare(spec_path, inputs, before, cache)
    group.wait()
    if group.local_rank > 0:
        prepared = prepare(spec_path, inputs, before, cache, progress=False)
    return prepared


class Work:
    """The work from files to encoded rows, which goes on where a killed process has left it."""

    def __init__(
        self,
        text: str,
        spec: FeatureSpec,
        inputs: InputFiles,
        before: Bundle | None,
        progress: bool,
        places: Places,
    ) -> None:
        self._text, self._spec, self._inputs, self._before = text, spec, inputs, before
        self._progress, self._places = progress, places
        self._size = BlockSize.of_memory(places.memory_mib)
        self._contents: Mapping[Path, FileContent] | None = None

    def key(self, again: bool = False) -> str:
        """Return the name of the cache's entry: content, rules and code decide it.

        ``again`` looks at the files anew.

        Raises:
            DataError: a file cannot be read.
        """
        if self._contents is None or again:
            self._contents = self._inputs.look(self._places, self._size)
        before = self._before and self._before.manifest.id
        key = self._inputs.key(self._text, self._spec, code_hash(), before, contents=self._contents)
        return key[:32]

    def kept(self, entry: Path) -> EncodedData | None:
        """Return the cache's entry, if it is there and whole."""
        if not entry.exists():
            return None
        try:
            return read_encoded(entry, self._spec)
        except DamagedError as error:
            warn(f"the cache is damaged and is written again: {error}")
            return None

    def encode(self, entry: Path, keep: bool) -> EncodedData:
        """Make the cache's entry; ``keep`` what is done if it is interrupted.

        Raises:
            DataError: the files cannot be used.
            OSError: there is no room for what they become.
        """
        remove_abandoned(entry.parent)
        remove_abandoned(entry.parent, f"{_WORK}*/", _WORK_SECONDS)
        # Blocks of another size are other blocks.
        name = f"{_WORK}{entry.name}-{self._size.rows}"
        place = entry.parent / name

        def goes_on(error: BaseException) -> bool:
            if not keep or isinstance(error, DataError | OSError):
                return False
            say(f"what is done is kept in {place}: the same command goes on there")
            return True

        with unfinished_directory(place, goes_on) as directory:
            # Another process may have made it while this one waited for the directory.
            encoded = self.kept(entry)
            if encoded is None:
                self._fill(entry, directory)
                encoded = read_encoded(entry, self._spec)
        return encoded

    def _fill(self, entry: Path, directory: Path) -> None:
        spec, places = self._spec, self._places
        rows, counts, frames = (directory / name for name in ("rows", "counts", "frames"))
        for each in (rows, counts, frames):
            each.mkdir(exist_ok=True)
        watch = Stopwatch()
        split_rows = self._inputs.read(
            spec, rows, self._progress, places, self._size, self._contents
        )
        _say_if_long(f"read {len(split_rows.on_disk):,} rows", watch.lap())
        vocabulary = directory / "vocabulary"
        if not vocabulary.exists():
            reused = reused_numbers(spec, self._before) if self._before else {}
            found = count_rows(
                spec, split_rows.on_disk, split_rows.part_file, counts, frozenset(reused), places
            )
            with partial_directory(directory) as partial:
                learn_vocabulary(spec, found, reused).save(partial)
                put_in_place(partial, vocabulary)
        _say_if_long("learned the vocabulary", watch.lap())
        write_encoded(entry, spec, vocabulary, split_rows, frames, places, self._progress)
        _say_if_long("encoded", watch.lap())


def _say_if_long(stage: str, seconds: float) -> None:
    if seconds >= LINE_SECONDS:
        say(f"{stage} in {seconds:.1f} s")


def _warn_of_untrained_absence(spec: FeatureSpec, layout: Layout, train: Dataset) -> None:
    """Name the fields whose absence nothing trains, in one line."""
    optional = {field.name for field in spec.fields if not field.required}
    found = [name for name in always_present(layout, train) if name in optional]
    if found:
        more = f" and {len(found) - SHOWN_FIELDS} more" if len(found) > SHOWN_FIELDS else ""
        warn(
            f"no training row lacks {', '.join(found[:SHOWN_FIELDS])}{more}:"
            " their absence is not trained"
        )


def _warn_of_flat_labels(data: Mapping[DataPart, Dataset]) -> None:
    for part, rows in data.items():
        if rows.label.min() == rows.label.max():
            warn(f"the {part} part's labels are all {rows.label[0]}: it has no AUC")
