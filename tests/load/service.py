"""Questions of the generator to the service before the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import msgspec

from tests.load.bodies import Part
from tests.load.client import outcome_of
from tests.load.errors import UsageError
from tests.load.record import RIGHT
from tests.load.values import Shape


class Service:
    """The service at an address; ``patience`` is how many seconds an answer may take."""

    def __init__(self, url: str, patience: float, headers: Mapping[str, str]) -> None:
        self.url = url
        self._client = httpx.Client(
            base_url=url,
            timeout=patience,
            trust_env=False,
            headers=dict(headers),
            verify=url.lower().startswith("https"),
        )

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ready(self) -> str:
        """Return the version that is served.

        Raises:
            UsageError: it cannot be reached or is not ready.
        """
        version = self._get("/ready").get("version")
        return version if isinstance(version, str) else "unknown"

    def shapes(self) -> list[Shape]:
        """Return the fields of the bundle in use.

        Raises:
            UsageError: it does not tell them.
        """
        try:
            return msgspec.convert(self._get("/model").get("fields"), list[Shape])
        except msgspec.ValidationError as error:
            raise UsageError(f"{self.url}/model does not tell the fields: {error}") from error

    def example(self) -> dict[str, Any]:
        """Return a row that the service's documentation shows; empty where it shows none."""
        try:
            body = self._get("/openapi.json")["paths"]["/predict"]["post"]["requestBody"]
            row = body["content"]["application/json"]["example"]["instances"][0]
        except (UsageError, KeyError, IndexError, TypeError):
            return {}
        return row if isinstance(row, dict) else {}

    def accepts(self, parts: Sequence[Part]) -> None:
        """Send one body of each part.

        Raises:
            UsageError: an answer is not right; the message holds the service's own.
        """
        for part in parts:
            body = part.bodies[0]
            try:
                response = self._client.post(
                    body.path, content=body.content, headers={"content-type": "application/json"}
                )
            except httpx.HTTPError as error:
                raise UsageError(f"{self.url}{body.path}: {_told(error)}") from error
            if (outcome := outcome_of(response, body)) != RIGHT:
                raise UsageError(
                    f"{self.url} does not take a {part.kind} body: {outcome}: {response.text[:300]}"
                )

    def _get(self, path: str) -> dict[str, Any]:
        try:
            response = self._client.get(path)
        except httpx.HTTPError as error:
            raise UsageError(f"{self.url} cannot be reached: {_told(error)}") from error
        if response.status_code != 200:
            raise UsageError(
                f"{self.url}{path} answered {response.status_code}: {response.text[:300]}"
            )
        try:
            return msgspec.json.decode(response.content, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise UsageError(f"{self.url}{path} is no JSON object: {error}") from error


def _told(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
