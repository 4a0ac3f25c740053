"""The peers of ``scripts/bench --peers``: what each is asked, and how each is started.

Their settings are the best of those that were tried on two cores; what was tried stands with each.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tests.support.environments import ROOT, PeerProblem, environment

Row = Mapping[str, str | None]
PROVIDER = "PEER_PROVIDER"
"""Environment variable that names the provider of a peer's onnxruntime."""


def pinned(name: str) -> Path:
    """The file that pins all that a peer's environment holds."""
    return Path(__file__).with_name(f"{name}.txt")


class Launch(NamedTuple):
    """The start of a server: its command line, and what it adds to the environment."""

    words: Sequence[str | Path]
    variables: Mapping[str, str]


class Peer(Protocol):
    """A server that does the product's job: raw values of a row in JSON, its score out."""

    name: str
    target: str

    def body(self, row: Row) -> dict[str, Any]:
        """The request for one row."""
        ...

    def scores(self, answer: Any) -> list[float]:
        """The scores in an answer."""
        ...

    def install(self) -> Path:
        """Return the peer's environment, making it on first use.

        Raises:
            PeerProblem: it cannot be made here.
        """
        ...

    def launch(self, home: Path, port: int, scratch: Path) -> Launch:
        """Return its start from its environment; ``scratch`` is an empty directory for files."""
        ...


class Mosec:
    """mosec: an HTTP front in Rust that batches, before worker processes in Python.

    Tried: one and two workers; batches of 32, 64 and 128; waits of 1, 2 and 10 ms (the default,
    which 0 means too); one and two engine threads; one thread for the front. Two workers were a
    quarter faster at 128 connections and no slower elsewhere; more than the least wait and a
    second engine thread cost, the rest made no difference.
    """

    name = "mosec"
    target = "/predict"

    def body(self, row: Row) -> dict[str, Any]:
        return {"instances": [dict(row)]}

    def scores(self, answer: Any) -> list[float]:
        return list(answer["predictions"])

    def install(self) -> Path:
        return environment(pinned(self.name))

    def launch(self, home: Path, port: int, scratch: Path) -> Launch:
        return Launch(
            [home / "bin" / "python", "-m", "tests.bench.serving.peers.mosec_server",
             "--address", "127.0.0.1", "--port", str(port), "--path", scratch / "sockets",
             "--log-level", "warning"],
            {},
        )  # fmt: skip


MODEL = "click"
CONFIGURATION = """\
name: "click"
backend: "python"
max_batch_size: 64
input [ { name: "ROW" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "SCORE" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
dynamic_batching { max_queue_delay_microseconds: 0 }
"""


class Triton:
    """Triton: a server in C++ that batches, before a Python process that its backend runs.

    Its protocol has tensors, no objects: a row is sent as one string that holds its JSON. That
    was a third faster than a tensor of the 39 values, which its backend unpacks one by one.

    Tried: one and two instances; queue delays of 0, 100, 200, 500 and 1000 µs; batches of 64 and
    128; 1, 2, 4 and 8 (the default) HTTP threads. No delay halves the latency at one connection
    and costs no throughput once there is one HTTP thread, which is faster than eight on two cores.
    A second instance gained a few per cent there and cost as much in the tail.
    """

    name = "triton"
    target = f"/v2/models/{MODEL}/infer"

    def body(self, row: Row) -> dict[str, Any]:
        text = json.dumps(row, separators=(",", ":"))
        return {"inputs": [{"name": "ROW", "datatype": "BYTES", "shape": [1, 1], "data": [text]}]}

    def scores(self, answer: Any) -> list[float]:
        return list(answer["outputs"][0]["data"])

    def install(self) -> Path:
        library = sysconfig.get_config_var("INSTSONAME")
        if not Path(sysconfig.get_config_var("LIBDIR"), str(library)).exists():
            raise PeerProblem(f"needs {library}, which this Python comes without")
        home = environment(pinned(self.name))
        # The server looks for the interpreter's stub beside the backend.
        stub = self._server(home) / "python_backend_stubs" / _version() / STUB
        if not stub.is_file():
            raise PeerProblem(f"has no Python {_version()} backend")
        shutil.copy(stub, self._server(home) / "backends" / "python" / STUB)
        return home

    def launch(self, home: Path, port: int, scratch: Path) -> Launch:
        model = scratch / MODEL
        (model / "1").mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("triton_model.py"), model / "1" / "model.py")
        (model / "config.pbtxt").write_text(CONFIGURATION)
        server = self._server(home)
        return Launch(
            [server / "bin" / "tritonserver", "--model-repository", scratch,
             "--backend-directory", server / "backends",
             "--http-address", "127.0.0.1", "--http-port", str(port),
             "--http-thread-count", "1", "--allow-grpc", "false", "--allow-metrics", "false",
             "--log-info", "false"],
            {
                "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR"),
            },
        )  # fmt: skip

    @staticmethod
    def _server(home: Path) -> Path:
        return home / "lib" / f"python{_version()}" / "site-packages" / "pytriton" / "tritonserver"


class TritonOnGpu(Triton):
    """Triton whose Python backend runs the graph with onnxruntime on CUDA; not tried on a GPU."""

    name = "triton_gpu"

    def launch(self, home: Path, port: int, scratch: Path) -> Launch:
        words, variables = super().launch(home, port, scratch)
        return Launch(words, {**variables, PROVIDER: "CUDAExecutionProvider"})


STUB = "triton_python_backend_stub"


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
