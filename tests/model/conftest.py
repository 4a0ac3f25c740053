"""Fixtures that tests of the trainer share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.support import samples
from tests.support.samples import Sample


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small steps gain nothing from a second thread, and wait for it on a busy machine.

    Training sets torch's threads for the whole process: other tests get theirs back.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A log of 300 rows."""
    directory = tmp_path_factory.mktemp("few")
    spec, data = directory / "few.toml", directory / "few.csv"
    spec.write_text(samples.SPEC, encoding="utf-8")
    samples.write_log(data, 300)
    return Sample(spec, data, samples.read_rows(data))
