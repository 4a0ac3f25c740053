"""Triton's and KServe's clients of the Open Inference Protocol get the scores of /predict."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.registry import environment_or_skip
from tests.support.samples import Sample
from tests.support.serving import Service, strict
from tests.support.tensors import inputs

pytestmark = pytest.mark.extras
HERE = Path(__file__).parent
TRITON = """\
import json, sys
import numpy as np
import tritonclient.http as triton

NUMPY = {"BYTES": object, "INT64": "int64", "UINT64": "uint64", "FP32": "float32",
         "FP64": "float64"}
client = triton.InferenceServerClient(sys.argv[1].removeprefix("http://"))
given = json.load(sys.stdin)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("ctr")
assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
assert len(client.get_model_metadata("ctr")["inputs"]) == len(given)


def tensors(binary):
    for each in given:
        values = np.array(each["data"], NUMPY[each["datatype"]])
        tensor = triton.InferInput(each["name"], each["shape"], each["datatype"])
        # The client writes its own parameters into the same mapping.
        tensor.set_data_from_numpy(values, binary_data=binary)
        tensor._parameters.update(each["parameters"])
        yield tensor


found = []
asked = triton.InferRequestedOutput
for binary in (True, False):
    for outputs in (None, [asked("score"), asked("logit", binary_data=False)]):
        answer = client.infer("ctr", list(tensors(binary)), outputs=outputs, request_id="r1")
        assert answer.get_response()["id"] == "r1"
        assert answer.as_numpy("logit").dtype == np.float32
        found.append(answer.as_numpy("score").tolist())
wrong = triton.InferInput("item_id", [1], "FP32")
wrong.set_data_from_numpy(np.array([1.5], np.float32))
try:
    client.infer("ctr", [wrong])
except triton.InferenceServerException as error:
    found.append(str(error))
json.dump(found, sys.stdout)
"""
KSERVE = """\
import asyncio, json, sys
import httpx
import numpy as np
from kserve import InferenceRESTClient
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import InferInput, InferRequest, RequestedOutput

NUMPY = {"BYTES": object, "INT64": "int64", "UINT64": "uint64", "FP32": "float32",
         "FP64": "float64"}
given = json.load(sys.stdin)


def tensors(binary):
    for each in given:
        tensor = InferInput(each["name"], each["shape"], each["datatype"],
                            parameters=dict(each["parameters"]))
        values = np.array(each["data"], NUMPY[each["datatype"]])
        tensor.set_data_from_numpy(values, binary_data=binary)
        yield tensor


async def main():
    url, found = sys.argv[1], []
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
    assert await client.is_server_ready(url)
    assert await client.is_server_live(url)
    assert await client.is_model_ready(url, "ctr")
    for binary in (True, False):
        for outputs in (None, [RequestedOutput("score", parameters={"binary_data": True})]):
            body = InferRequest(model_name="ctr", infer_inputs=list(tensors(binary)),
                                request_outputs=outputs)
            answer = await client.infer(url, body, model_name="ctr")
            found.append(answer.get_output_by_name("score").as_numpy().tolist())
    wrong = InferInput("item_id", [1], "FP32", data=[1.5])
    try:
        body = InferRequest(model_name="ctr", infer_inputs=[wrong])
        await client.infer(url, body, model_name="ctr")
    except httpx.HTTPStatusError as error:
        found.append(str(error))
    json.dump(found, sys.stdout)


asyncio.run(main())
"""


@pytest.mark.parametrize(("name", "program"), [("tritonclient", TRITON), ("kserve", KSERVE)])
def test_a_client_of_the_protocol_gets_the_scores(
    name: str, program: str, service: Service, sample: Sample, tmp_path: Path
) -> None:
    """Inputs and outputs as JSON and as bytes, health, metadata, an error that names a value."""
    home = environment_or_skip(HERE / f"{name}.txt", tmp_path / "by-hand")
    python = home / "bin" / "python"
    rows = sample.rows[:20]
    given: list[dict[str, Any]] = inputs(rows)
    done = subprocess.run(
        [python, "-c", program, service.url],
        input=json.dumps(given), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *scores, error = strict(done.stdout)
    assert len(scores) == 4
    for found in scores:
        assert found == pytest.approx(service.predict(rows), abs=1e-6)
    assert "inputs.item_id[0]" in error
