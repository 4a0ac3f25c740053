"""Every network, exported over every layout, once for all tests of the export."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.features.layout import Layout
from app.scoring.engine import Engine
from model.networks.network import Network
from tests.support.graphs import CASES, CONFIG, LAYOUTS, Case, engine_of, exported_below
from tests.support.networks import trained


@pytest.fixture(scope="session", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    name, layout = request.param
    return name, LAYOUTS[layout]


@pytest.fixture(scope="session")
def layout(case: Case) -> Layout:
    return case[1]


@pytest.fixture(scope="session")
def graph(case: Case, tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Path]:
    name, layout = case
    return exported_below(trained(name, layout, CONFIG), layout, tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="session")
def exported(graph: tuple[Network, Path], layout: Layout) -> tuple[Network, Engine]:
    network, path = graph
    return network, engine_of(path, layout)
