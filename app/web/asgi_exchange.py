"""An exchange with any ASGI server: its answer is awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.types import Receive, Scope

from app.web.exchange import Endpoint, Exchange, Header


class AsgiExchange(Exchange):
    """An exchange whose answer is awaited.

    uvicorn's ``receive`` belongs to an object that knows whether the caller has gone; asking it
    costs nothing, while waiting for ``http.disconnect`` would cost a task for each request.
    Behind another server no caller counts as departed before its deadline.
    """

    media = b"application/json"
    """Type of the answer."""

    def __init__(self, endpoint: Endpoint, scope: Scope, receive: Receive) -> None:
        """``scope`` is what an exchange of another form reads of the request's head."""
        super().__init__(endpoint)
        self._cycle = getattr(receive, "__self__", None)
        self.gone = False
        self.answer: asyncio.Future[tuple[int, bytes, Sequence[Header]]] = (
            asyncio.get_running_loop().create_future()
        )

    def departed(self) -> bool:
        return self.gone or bool(getattr(self._cycle, "disconnected", False))

    def write(self, status: int, body: bytes, headers: Sequence[Header]) -> None:
        self.answer.set_result((status, body, headers))
