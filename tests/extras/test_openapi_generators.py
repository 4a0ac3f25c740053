"""Clients that generators make of the OpenAPI document are complete, and get the scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import program
from tests.support.registry import environment_or_skip, node_environment_or_skip
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import Service, strict

pytestmark = pytest.mark.extras
HERE = Path(__file__).parent
PYTHON_PINNED = HERE / "openapi-python-client.txt"
NODE_PINNED = HERE / "openapi-typescript"

PYTHON_CALLER = """\
import json, sys
from clicks import Client
from clicks.api.scoring import kserve_predict, predict, rank
from clicks.models import ErrorBody, PredictRequest, RankRequest

url = sys.argv[1]
bodies = json.load(sys.stdin)
with Client(base_url=url) as client:
    rows = PredictRequest.from_dict(bodies["predict"])
    ranking = RankRequest.from_dict(bodies["rank"])
    columns = RankRequest.from_dict(bodies["columns"])
    wrong = RankRequest.from_dict(bodies["wrong"])
    answers = [
        predict.sync(client=client, body=rows),
        kserve_predict.sync(name="clicks", client=client, body=rows),
        rank.sync(client=client, body=ranking),
        rank.sync(client=client, body=columns),
        rank.sync(client=client, body=wrong),
    ]
    assert isinstance(answers[-1], ErrorBody), answers[-1]
json.dump([answer.to_dict() for answer in answers], sys.stdout)
"""

TYPESCRIPT_CALLER = """\
import type { components } from "./api";

type Schemas = components["schemas"];
declare const process: { argv: string[]; stdout: { write(text: string): void } };
declare function fetch(url: string, options: object): Promise<{ json(): Promise<unknown> }>;
const [, , url, text] = process.argv;
const bodies = JSON.parse(text!);

// Nothing that the service does not need is needed here: no id, no top_k.
const bare: Schemas["CandidateModel"] = { features: {} };
const least: Schemas["RankRequest"] = { context: bodies.rank.context, candidates: [bare] };
const some: Schemas["CandidateModel"] = { features: {}, id: 7 };
const named: Schemas["CandidateModel"] = { features: {}, id: "seven" };
const columns: Schemas["RankRequest"] = bodies.columns;
const rows: Schemas["PredictRequest"] = bodies.predict;

async function post(path: string, body: object): Promise<unknown> {
    const headers = { "content-type": "application/json" };
    const answer = await fetch(url + path, { method: "POST", headers, body: JSON.stringify(body) });
    return answer.json();
}

async function main(): Promise<void> {
    const predicted = (await post("/predict", rows)) as Schemas["PredictResponse"];
    const ranked = (await post("/rank", bodies.rank)) as Schemas["RankResponse"];
    const first: number = ranked.ranking[0]!.score + predicted.predictions[0]!;
    const short = (await post("/rank", least)) as Schemas["RankResponse"];
    const wrong = (await post("/rank", bodies.wrong)) as Schemas["ErrorBody"];
    const others = [await post("/rank", columns), short, wrong.error.code, Number.isFinite(first)];
    process.stdout.write(JSON.stringify([predicted, ranked, ...others]));
    void [some, named];
}

void main();
"""
WRONG_TYPESCRIPT = """\
import type { components } from "./api";
export const wrong: components["schemas"]["RankRequest"] = { context: {}, candidates: 3 };
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of openapi-python-client's environment."""
    return environment_or_skip(PYTHON_PINNED, tmp_path_factory.mktemp("by-hand")) / "bin"


@pytest.fixture(scope="module")
def node() -> Path:
    """The programs of openapi-typescript's environment."""
    program("npm")
    return node_environment_or_skip(NODE_PINNED) / "node_modules" / ".bin"


@pytest.fixture(scope="module", params=["ignore", "error"])
def document(
    request: pytest.FixtureRequest, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The document as the command prints it, for services that ignore or refuse unknown fields."""
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    done = subprocess.run(
        [sys.executable, "-m", "app", "--openapi", str(tiny_bundle),
         "--unknown-fields", request.param],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path.write_text(done.stdout)
    return path


@pytest.fixture(scope="module")
def bodies(sample: Sample) -> dict[str, Any]:
    """A body of each form, and one that is refused."""
    rows = sample.rows[:5]
    candidates = [candidate_of(row) for row in rows]
    names = sorted({name for each in candidates for name in each})
    context = context_of(rows[0])
    listed = [{"id": f"c{place}", "features": each} for place, each in enumerate(candidates)]
    columns = {name: [each.get(name) for each in candidates] for name in names}
    return {
        "predict": {"instances": rows},
        "rank": {"context": context, "candidates": listed, "top_k": 3},
        "columns": {"context": context, "candidates": {"features": columns}},
        "wrong": {"context": context, "candidates": listed, "top_k": 0},
    }


def expected(service: Service, bodies: Mapping[str, Any]) -> list[Any]:
    """The service's own answers to the bodies."""
    paths = {"predict": "/predict"}
    return [
        strict(service.post(paths.get(kind, "/rank"), body).content)
        for kind, body in bodies.items()
    ]


def test_the_python_client_is_whole_and_gets_the_scores(
    python: Path, document: Path, service: Service, bodies: dict[str, Any], tmp_path: Path
) -> None:
    """openapi-python-client warns of nothing, and its client's answers are those of the service."""
    path = {**os.environ, "PATH": f"{python}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [python / "openapi-python-client", "generate", "--path", document,
         "--output-path", tmp_path / "clicks", "--meta", "none"],
        capture_output=True, text=True, timeout=300, env=path,
    )  # fmt: skip
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "arning" not in told, told
    assert "removal" not in told, told
    called = subprocess.run(
        [python / "python", "-c", PYTHON_CALLER, service.url],
        input=json.dumps(bodies), capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert called.returncode == 0, called.stderr
    predict, kserve, rank, columns, wrong = json.loads(called.stdout)
    assert predict == kserve
    assert [predict, rank, columns, wrong] == expected(service, bodies)


def test_the_typescript_types_need_no_more_than_the_service(
    node: Path, document: Path, service: Service, bodies: dict[str, Any], tmp_path: Path
) -> None:
    """A strict compiler takes requests without ``top_k`` and ``id``; they get the scores."""
    subprocess.run(
        [node / "openapi-typescript", document, "-o", tmp_path / "api.d.ts"],
        capture_output=True, check=True, timeout=300,
    )  # fmt: skip
    compiler = [
        node / "tsc", "--strict", "--noUncheckedIndexedAccess", "--target", "es2022",
        "--module", "commonjs", "--lib", "es2022", "--outDir", tmp_path,
    ]  # fmt: skip
    (tmp_path / "caller.ts").write_text(TYPESCRIPT_CALLER)
    (tmp_path / "wrong.ts").write_text(WRONG_TYPESCRIPT)
    compiled = subprocess.run(
        [*compiler, tmp_path / "caller.ts"], capture_output=True, text=True, timeout=300
    )
    assert compiled.returncode == 0, compiled.stdout
    refused = subprocess.run(
        [*compiler, tmp_path / "wrong.ts"], capture_output=True, text=True, timeout=300
    )
    assert refused.returncode != 0, "the types say something"
    called = subprocess.run(
        ["node", tmp_path / "caller.js", service.url, json.dumps(bodies)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert called.returncode == 0, called.stderr
    predict, rank, columns, short, wrong, finite = json.loads(called.stdout)
    answers = expected(service, bodies)
    assert [predict, rank, columns] == answers[:3]
    assert len(short["ranking"]) == 1
    assert (wrong, finite) == (answers[3]["error"]["code"], True)
