"""The synchronous client; threads may share one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from ctr_client import calls
from ctr_client.answers import Id, ModelInfo, Predictions, Ranking
from ctr_client.attempts import Attempts, Budget, Pause, Send, attempts
from ctr_client.calls import Call, Features, OnUnknown
from ctr_client.connections import Connections

T = TypeVar("T")


class Client:
    """A service's scores, over connections that are kept; threads may share one client."""

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
        self._connections = Connections(url, headers, max_connections)

    def predict(
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
        return self._run(call, within, request_id)

    def rank(
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
        return self._run(call, within, request_id)

    def rank_columns(
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
        return self._run(call, within, request_id)

    def rank_items(
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
        return self._run(call, within, request_id)

    def model(self, *, within: float | None = None) -> ModelInfo:
        """Return the bundle in use.

        Raises:
            ClientError: there is none, or no answer.
        """
        return self._run(calls.model(), within, None)

    def ready(self, *, within: float | None = None) -> Mapping[str, Any]:
        """Return what ``/ready`` says of a service that can score.

        Raises:
            NotReady: it cannot.
            ClientError: there is no answer.
        """
        return self._run(calls.ready(), within, None)

    def close(self) -> None:
        """Close all connections."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, call: Call[T], within: float | None, request_id: str | None) -> T:
        seconds = self._timeout if within is None else within
        steps = attempts(call, seconds, self._retries, self._budget, request_id)
        return self._drive(call, steps)

    def _drive(self, call: Call[T], steps: Attempts[T]) -> T:
        """Do what the attempts ask for, until they have an answer."""
        try:
            wanted = next(steps)
            while True:
                if isinstance(wanted, Pause):
                    time.sleep(wanted.seconds)
                    wanted = steps.send(None)
                    continue
                try:
                    response = self._ask(call, wanted)
                except httpx.HTTPError as error:
                    wanted = steps.throw(error)
                else:
                    wanted = steps.send(response)
        except StopIteration as end:
            answer: T = end.value
            return answer

    def _ask(self, call: Call[T], wanted: Send) -> httpx.Response:
        begun = time.monotonic()
        with self._connections.lend(wanted.seconds) as connection:
            left = wanted.seconds - (time.monotonic() - begun)
            return connection.request(
                call.method,
                call.path,
                content=call.content,
                headers=wanted.headers,
                timeout=max(left, 0.001),
            )
