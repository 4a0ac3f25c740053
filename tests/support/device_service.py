"""``python -m app`` with the engine of a GPU, over the CPU in the GPU's place.

While the file ``DEVICE_SAYS`` is there, every run on the device raises what it holds. A process'
number in a line of its own before it limits it to that process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from app.__main__ import main
from app.serving import engines
from tests.support.devices import FailingDevice, Step

VARIABLE = "DEVICE_SAYS"
WITH_DEVICE = (sys.executable, "-m", "tests.support.device_service")
"""The program, for a :class:`tests.support.serving.Service`."""


class ObeyingDevice(FailingDevice):
    """A device that fails as a file says."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def _maybe(self, step: Step) -> None:
        text = self._file.read_text() if self._file.exists() else ""
        number, _, says = text.rpartition("\n")
        self.says = says if says and number in ("", str(os.getpid())) else None
        super()._maybe(step)


def serve_on(file: Path) -> None:
    """Let the engines of this process and its forks find a device."""
    engines.cuda_device = lambda: ObeyingDevice(file)  # type: ignore[assignment, return-value]


if __name__ == "__main__":
    serve_on(Path(os.environ[VARIABLE]))
    sys.exit(main())
