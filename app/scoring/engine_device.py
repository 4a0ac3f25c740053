"""A device and its buffers, by onnxruntime: CUDA, or the CPU in its place to test the same way.

What onnxruntime 1.31's Python offers, and what of it is used:

- A session's CUDA graph is captured and replayed by one thread: onnxruntime keeps it with the
  thread. So one thread of the engine runs all graphs of a device.
- A captured graph has fixed addresses, so inputs and outputs are bound once. Values get there by
  ``OrtValue.update_inplace``, which blocks the caller alone: with two lanes of buffers, one is
  filled while the graph of the other runs. onnxruntime's stream does not wait for the default one.
- A stream of one's own (``user_compute_stream``) must be made by other libraries and changes
  nothing of this: onnxruntime has a stream of its own for each session, and waits for its end.
- onnxruntime's CUDA provider gives Python no pinned memory, so CUDA's own library pins the host's
  arrays, which it has loaded already; where it cannot, copies are slower, and ``/ready`` says so.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from app.errors import BundleError, DeviceLost, EngineFailed, ProviderError
from app.features.arrays import Floats, Indices
from app.scoring.engine import CPU, CUDA, cuda_problem, session_options

Array = NDArray[Any]
Arena = Literal["exact", "doubling"]
_ARENAS: dict[Arena, str] = {"exact": "kSameAsRequested", "doubling": "kNextPowerOfTwo"}
RUNTIME = "libcudart.so.13"
"""CUDA's library of the version that onnxruntime is built with."""
BLOCKING = frozenset({"Shape", "Size", "If", "Loop", "Scan", "ScatterND", "NonZero"})
"""Operators that no fixed-size graph has: control flow, and what computes with shapes on the CPU,
block the capture of a CUDA graph (onnxruntime issues 17930 and 10859)."""
_CUDA_FAILURE = re.compile(r"\b(CUDA|CUDNN|CUBLAS|CURAND|CUFFT)\w* (?:failure|error) (\d+)")
_OUT_OF_MEMORY = {("CUDA", 2), ("CUBLAS", 3)}


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """The settings of a GPU."""

    largest_rows: int = 4096
    """Rows of the largest bucket."""
    small_rows: int | None = None
    """Batches of fewer rows are scored on the CPU; None measures at the start."""
    memory_bytes: int | None = None
    """Bound of the device's memory for one engine; None is without one."""
    arena: Arena = "exact"
    """The growth of onnxruntime's memory: by what is asked for, or to the next power of two."""
    tf32: bool = False
    """Matrix products with 10 bits of mantissa."""
    graphs: bool = True
    """CUDA graphs; without them each kernel is launched by itself."""


class Device(Protocol):
    """The place where graphs run; a test's own may fail as a card does."""

    provider: str

    def providers(self, options: DeviceOptions, memory_bytes: int | None) -> list[Any]:
        """Return onnxruntime's providers and their options, for a session with so much memory."""
        ...

    def host(self, shape: Sequence[int], dtype: type) -> Array:
        """Return an array of zeros from which the device takes values."""
        ...

    def value(self, host: Array) -> Any:
        """Return a value of fixed place on the device, as large as a host's array."""
        ...

    def resident(self, weights: Floats) -> Any:
        """Return weights on the device that several sessions may share."""
        ...

    def take(self, value: Any, host: Array) -> None:
        """Bring a host's array to its value."""
        ...

    def give(self, value: Any, host: Array) -> None:
        """Bring a value back to its host's array."""
        ...

    def run(self, session: Any, binding: Any, options: Any) -> None:
        """Run a session; it has ended when this returns."""
        ...


class HostDevice:
    """The CPU in the place of a device: its values are the host's arrays."""

    provider = CPU

    def providers(self, options: DeviceOptions, memory_bytes: int | None) -> list[Any]:
        return [CPU]

    def host(self, shape: Sequence[int], dtype: type) -> Array:
        return np.zeros(shape, dtype)

    def value(self, host: Array) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(host)

    def resident(self, weights: Floats) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(weights)

    def take(self, value: Any, host: Array) -> None:
        pass

    def give(self, value: Any, host: Array) -> None:
        pass

    def run(self, session: Any, binding: Any, options: Any) -> None:
        session.run_with_iobinding(binding, options)


class CudaDevice:
    """The first CUDA device that the process sees (``CUDA_VISIBLE_DEVICES``)."""

    provider = CUDA

    def __init__(self, runtime: Any = None) -> None:
        """``runtime`` is CUDA's library, which pins memory; None leaves it pageable."""
        self._runtime = runtime
        self._pinned: list[mmap.mmap] = []
        self.pinned = runtime is not None
        """True if all of the host's arrays are in pinned memory."""
        if runtime is not None:
            # The memory stays as long as it is pinned: the callback has the list.
            weakref.finalize(self, _unpin, runtime, self._pinned)

    def providers(self, options: DeviceOptions, memory_bytes: int | None) -> list[Any]:
        chosen = {
            "device_id": "0",
            "use_tf32": str(int(options.tf32)),
            "enable_cuda_graph": str(int(options.graphs)),
            "arena_extend_strategy": _ARENAS[options.arena],
        }
        if memory_bytes is not None:
            chosen["gpu_mem_limit"] = str(memory_bytes)
        # Not the CPU's beside it: a node that only it can run is an error.
        return [(CUDA, chosen)]

    def host(self, shape: Sequence[int], dtype: type) -> Array:
        # Pages of its own: two arrays of one page could not both be pinned.
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = mmap.mmap(-1, max(1, size))
        if self.pinned:
            code = self._runtime.cudaHostRegister(*_place(memory), ctypes.c_uint(0))
            self.pinned = code == 0
        if self.pinned:
            self._pinned.append(memory)
        return np.frombuffer(memory, dtype, int(np.prod(shape))).reshape(shape)

    def value(self, host: Array) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(host, "cuda", 0)

    def resident(self, weights: Floats) -> Any:
        # A session takes an initializer that somebody else owns, in place where it is on the
        # device already: through DLPack the value is a view of the one that holds the memory.
        return ort.OrtValue.from_dlpack(ort.OrtValue.ortvalue_from_numpy(weights, "cuda", 0))

    def take(self, value: Any, host: Array) -> None:
        value.update_inplace(host)

    def give(self, value: Any, host: Array) -> None:
        host[...] = value.numpy()

    def run(self, session: Any, binding: Any, options: Any) -> None:
        session.run_with_iobinding(binding, options)


def cuda_device() -> CudaDevice:
    """Return the CUDA device.

    Raises:
        ProviderError: there is none that can be used; it says why.
    """
    if (problem := cuda_problem()) is not None:
        raise ProviderError(problem)
    try:
        return CudaDevice(ctypes.CDLL(RUNTIME))
    except OSError:
        return CudaDevice()


def _place(memory: mmap.mmap) -> tuple[ctypes.c_void_p, ctypes.c_size_t]:
    start = ctypes.addressof(ctypes.c_byte.from_buffer(memory))
    return ctypes.c_void_p(start), ctypes.c_size_t(len(memory))


def _unpin(runtime: Any, pinned: list[mmap.mmap]) -> None:
    for memory in pinned:
        runtime.cudaHostUnregister(_place(memory)[0])


class FixedGraph:
    """A graph of fixed sizes on a device, with bound buffers for each of several lanes."""

    def __init__(
        self,
        device: Device,
        graph: Path,
        sizes: Mapping[str, int],
        shared: Mapping[str, Any],
        threads: int,
        options: DeviceOptions,
        memory_bytes: int | None,
    ) -> None:
        """Load the graph; ``sizes`` are those of its axes, ``shared`` weights of all graphs.

        Raises:
            BundleError: it cannot be loaded, or cannot have fixed sizes.
        """
        self._device = device
        chosen = session_options(threads)
        for axis, size in sizes.items():
            chosen.add_free_dimension_override_by_name(axis, size)
        for name, value in shared.items():
            chosen.add_initializer(name, value)
        chosen.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if device.provider != CPU:
            chosen.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            # Nothing may be allocated while a graph is captured.
            chosen.enable_mem_pattern = False
        try:
            self._session = ort.InferenceSession(
                str(graph),
                chosen,
                providers=device.providers(options, memory_bytes),
                enable_fallback=0,
            )
        except Exception as error:
            raise BundleError(f"{graph.name} cannot be loaded: {first_line(error)}") from error
        _refuse_blocking(self._session, graph.name)
        self._bindings: list[Any] = []
        self._values: list[dict[str, Any]] = []
        self._run_options: list[Any] = []

    @property
    def operators(self) -> list[str]:
        """The operators of the graph as it runs."""
        return _operators(self._session)

    def bind(self, inputs: Mapping[str, Indices | Floats], outputs: Mapping[str, Floats]) -> None:
        """Bind the next lane's buffers: one of the device's for each of the host's arrays."""
        binding = self._session.io_binding()
        values = {}
        for name, host in inputs.items():
            values[name] = self._device.value(host)
            binding.bind_ortvalue_input(name, values[name])
        for name, host in outputs.items():
            values[name] = self._device.value(host)
            binding.bind_ortvalue_output(name, values[name])
        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(len(self._bindings) + 1))
        self._bindings.append(binding)
        self._values.append(values)
        self._run_options.append(options)

    def take(self, lane: int, arrays: Mapping[str, Indices | Floats]) -> None:
        """Bring a lane's inputs to the device."""
        for name, host in arrays.items():
            self._device.take(self._values[lane][name], host)

    def run(self, lane: int) -> None:
        """Run over a lane's buffers, on the thread that runs all graphs of the device."""
        self._device.run(self._session, self._bindings[lane], self._run_options[lane])

    def give(self, lane: int, arrays: Mapping[str, Floats]) -> None:
        """Bring a lane's outputs back."""
        for name, host in arrays.items():
            self._device.give(self._values[lane][name], host)


def _operators(session: Any) -> list[str]:
    return [
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]


def _refuse_blocking(session: Any, name: str) -> None:
    """Refuse a graph that a CUDA graph cannot hold.

    Raises:
        BundleError: it has an axis without a size, or an operator that blocks the capture.
    """
    for each in [*session.get_inputs(), *session.get_outputs()]:
        if not all(isinstance(size, int) for size in each.shape):
            raise BundleError(f"{name}: {each.name} has no fixed size: {each.shape}")
    if blocking := sorted(BLOCKING.intersection(_operators(session))):
        raise BundleError(f"{name}: {', '.join(blocking)} cannot be part of a fixed-size graph")


def failure_of(error: Exception) -> EngineFailed:
    """Return what callers and the service are told of a failed run.

    Out of memory the device still works. After any other failure of CUDA (illegal address, reset,
    launch failure) every call of the process fails, whatever it is, so the process must end.
    """
    text = str(error)
    found = [(library, int(code)) for library, code in _CUDA_FAILURE.findall(text)]
    if any(each not in _OUT_OF_MEMORY for each in found):
        return DeviceLost(f"the GPU is lost: {first_line(error)}")
    if found or "Failed to allocate memory" in text:
        return EngineFailed("the engine failed: the GPU is out of memory")
    return EngineFailed(f"the engine failed: {type(error).__name__}")


def first_line(error: Exception) -> str:
    """Return the beginning of an error's text: onnxruntime's has a trace behind it."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
