"""Flow control of a connection: what is read waits in the socket until there is use for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl


class BoundedFlow(FlowControl):
    """uvicorn's flow control, which does not read on while earlier bytes or requests wait.

    uvicorn resumes reading whenever a request asks for its body, although other requests may wait
    behind it: a client that sends without reading its answers would fill the memory.
    """

    def __init__(self, transport: asyncio.Transport, waits: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._waits = waits

    def resume_reading(self) -> None:
        """Read on, unless what was read before is still waiting."""
        if self.read_paused and not self._waits():
            super().resume_reading()
