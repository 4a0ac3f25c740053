"""The errors are one tree, and its drawing is true."""

from __future__ import annotations

import importlib
import re

import pytest

from app import errors
from app.errors import CtrError, ServiceError
from tests.contract.test_layers import modules

TREE = errors.__doc__ or ""


def below(kind: type[Exception]) -> set[type[Exception]]:
    """All classes derived from an error."""
    return {kind}.union(*map(below, kind.__subclasses__()))


def test_every_error_is_in_the_drawing() -> None:
    """Each error of the service and of the trainer has its place in the docstring's tree."""
    for name in modules():
        if not name.endswith("__main__"):
            importlib.import_module(name)
    ours = {
        each.__name__ for each in below(CtrError) if each.__module__.startswith(("app", "model"))
    }
    drawn = set(re.findall(r"[├└]── ([A-Z]\w+)|, ([A-Z]\w+)", TREE))
    assert ours == {"CtrError"} | {name for pair in drawn for name in pair if name}


ANSWERS = sorted(below(ServiceError) - {ServiceError}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
def test_the_drawing_has_the_status_of_each_answer(kind: type[ServiceError]) -> None:
    """A refused request's status is what the tree says, and its code is its own."""
    assert f"{kind.__name__} {kind.status}" in TREE
    assert kind.code != ServiceError.code
