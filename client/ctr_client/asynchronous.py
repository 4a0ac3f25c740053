"""The asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from ctr_client import calls
from ctr_client.answers import Id, ModelInfo, Predictions, Ranking
from ctr_client.attempts import Attempts, Budget, Pause, attempts
from ctr_client.calls import Call, Features, OnUnknown
from ctr_client.connections import KEEPALIVE_SECONDS

T = TypeVar("T")


class AsyncClient:
    """A service's scores, over connections that are kept, for one event loop."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 1.0,
        retries: int = 2,
        max_connections: int = 100,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare for a service at ``url``; nothing is sent yet.

        ``timeout`` are the seconds of a call with all its attempts, ``retries`` its attempts beside
        the first; ``within`` is another time for one call. At most ``max_connections`` are open;
        further calls wait for one.
        """
        self._timeout, self._retries, self._budget = timeout, retries, Budget()
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            limits=httpx.Limits(
                max_connections=max_connections,
                max_keepalive_connections=max_connections,
                keepalive_expiry=KEEPALIVE_SECONDS,
            ),
        )

    async def predict(
        self,
        instances: Sequence[Features],
        *,
        stored: bool = False,
        on_unknown: OnUnknown | None = None,
        within: float | None = None,
        request_id: str | None = None,
    ) -> Predictions:
        """Score rows.

        Raises:
            ClientError: there are no scores.
        """
        call = calls.predict(instances, stored, on_unknown)
        return await self._run(call, within, request_id)

    async def rank(
        self,
        context: Features,
        candidates: Sequence[Features],
        *,
        ids: Sequence[Id] | None = None,
        top_k: int | None = None,
        partial: bool = False,
        within: float | None = None,
        request_id: str | None = None,
    ) -> Ranking:
        """Order candidates for one context.

        Raises:
            ClientError: there is no ranking.
        """
        call = calls.rank(context, candidates, ids, top_k, partial)
        return await self._run(call, within, request_id)

    async def rank_columns(
        self,
        context: Features,
        columns: Mapping[str, Sequence[Any]],
        *,
        ids: Sequence[Id] | None = None,
        top_k: int | None = None,
        partial: bool = False,
        within: float | None = None,
        request_id: str | None = None,
    ) -> Ranking:
        """Order candidates that are given as a list for each field: the form for long lists.

        Raises:
            ClientError: there is no ranking.
        """
        call = calls.rank_columns(context, columns, ids, top_k, partial)
        return await self._run(call, within, request_id)

    async def rank_items(
        self,
        context: Features,
        ids: Sequence[Id] | None = None,
        *,
        columns: Mapping[str, Sequence[Any]] | None = None,
        where: Mapping[str, Any] | None = None,
        exclude: Sequence[Id] = (),
        prefilter: int | None = None,
        top_k: int | None = None,
        partial: bool = False,
        on_unknown: OnUnknown | None = None,
        within: float | None = None,
        request_id: str | None = None,
    ) -> Ranking:
        """Order items of the service's catalogue: those of ``ids``, or all of it.

        Raises:
            ClientError: there is no ranking.
        """
        call = calls.rank_items(
            context, ids, columns, where, exclude, prefilter, top_k, partial, on_unknown
        )
        return await self._run(call, within, request_id)

    async def model(self, *, within: float | None = None) -> ModelInfo:
        """Return the bundle in use.

        Raises:
            ClientError: there is none, or no answer.
        """
        return await self._run(calls.model(), within, None)

    async def ready(self, *, within: float | None = None) -> Mapping[str, Any]:
        """Return what ``/ready`` says of a service that can score.

        Raises:
            NotReady: it cannot.
            ClientError: there is no answer.
        """
        return await self._run(calls.ready(), within, None)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, call: Call[T], within: float | None, request_id: str | None) -> T:
        seconds = self._timeout if within is None else within
        steps = attempts(call, seconds, self._retries, self._budget, request_id)
        return await self._drive(call, steps)

    async def _drive(self, call: Call[T], steps: Attempts[T]) -> T:
        """Do what the attempts ask for, until they have an answer."""
        try:
            wanted = next(steps)
            while True:
                if isinstance(wanted, Pause):
                    await asyncio.sleep(wanted.seconds)
                    wanted = steps.send(None)
                    continue
                try:
                    async with asyncio.timeout(wanted.seconds):
                        response = await self._http.request(
                            call.method,
                            call.path,
                            content=call.content,
                            headers=wanted.headers,
                            timeout=wanted.seconds,
                        )
                except TimeoutError as error:
                    wanted = steps.throw(httpx.ReadTimeout(str(error)))
                except httpx.HTTPError as error:
                    wanted = steps.throw(error)
                else:
                    wanted = steps.send(response)
        except StopIteration as end:
            answer: T = end.value
            return answer
