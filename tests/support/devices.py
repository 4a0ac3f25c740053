"""The CPU in a GPU's place, which fails when a test says so, with what onnxruntime raises then."""

from __future__ import annotations

from threading import Event
from typing import Any, Literal

from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

from app.scoring.engine_device import Array, HostDevice

_WHILE = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running"
ARENA_FULL = (
    f"{_WHILE} Gemm node. Name:'node_Gemm_7' Status Message: bfc_arena.cc:376 void*"
    " onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed to"
    " allocate memory for requested buffer of size 939524096\nand a trace"
)
OUT_OF_MEMORY = (
    f"{_WHILE} Gather node. Name:'' Status Message: CUDA failure 2: out of memory ; GPU=0 ;"
    " hostname=card ; file=cuda_allocator.cc ; line=49 ; expr=cudaMalloc((void**)&p, size);"
)
ILLEGAL_ADDRESS = (
    f"{_WHILE} Gather node. Name:'' Status Message: CUDA failure 700: an illegal memory access was"
    " encountered ; GPU=0 ; hostname=card ; expr=cudaStreamSynchronize(stream);"
)
RESET = (
    "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 46: CUDA-capable device(s) is/are busy or"
    " unavailable ; GPU=0 ; hostname=card ; expr=cudaSetDevice(GetDeviceId());"
)
LAUNCH = (
    f"{_WHILE} MatMul node. Name:'' Status Message: CUBLAS failure 13:"
    " CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0 ; hostname=card ; expr=cublasSgemm(...)"
)
LOSSES = (ILLEGAL_ADDRESS, RESET, LAUNCH)
"""After these a process' calls of CUDA all fail."""
SHORTAGES = (ARENA_FULL, OUT_OF_MEMORY)
"""After these they do not."""
Step = Literal["take", "run", "give"]


class FailingDevice(HostDevice):
    """A device on which ``step`` raises while ``says`` is set; after a loss every step does.

    ``gate`` is open; while a test holds it shut, a run waits.
    """

    def __init__(self) -> None:
        self.says: str | None = None
        self.step: Step = "run"
        self.runs = 0
        self.gate = Event()
        self.gate.set()

    def fail(self, says: str | None, step: Step = "run") -> None:
        self.says, self.step = says, step

    def _maybe(self, step: Step) -> None:
        lost = self.says in LOSSES
        if self.says is not None and (step == self.step or lost):
            kind = Fail if ": FAIL :" in self.says else RuntimeException
            raise kind(self.says)

    def take(self, value: Any, host: Array) -> None:
        self._maybe("take")
        super().take(value, host)

    def run(self, session: Any, binding: Any, options: Any) -> None:
        self.gate.wait()
        self.runs += 1
        self._maybe("run")
        super().run(session, binding, options)

    def give(self, value: Any, host: Array) -> None:
        self._maybe("give")
        super().give(value, host)
