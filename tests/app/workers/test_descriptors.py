"""A process without descriptors says so, and blames nothing else."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator

import pytest

from app.errors import BundleError
from app.workers.descriptors import DescriptorWatch, out_of_descriptors


@pytest.fixture
def no_descriptors() -> Iterator[None]:
    """No file can be opened; afterwards it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = os.open(os.devnull, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken, hard))
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in [taken, *held]:
            os.close(each)


def test_nothing_is_said_while_there_are_some(caplog: pytest.LogCaptureFixture) -> None:
    """A look opens a file and closes it."""
    DescriptorWatch().look()
    assert caplog.records == []


@pytest.mark.usefixtures("no_descriptors")
def test_their_end_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line, with what to do, however often it is looked."""
    watch = DescriptorWatch()
    for _ in range(5):
        watch.look()
    (record,) = caplog.records
    assert "out of file descriptors" in record.getMessage()
    assert "LimitNOFILE" in record.getMessage()


def test_a_cause_is_recognised() -> None:
    """An error that was raised from the kernel's is one of descriptors too; others are not."""
    for number, expected in ((errno.EMFILE, True), (errno.ENFILE, True), (errno.ENOENT, False)):
        error = BundleError("CURRENT cannot be read")
        error.__cause__ = OSError(number, "why")
        assert out_of_descriptors(error) == out_of_descriptors(error.__cause__) == expected
