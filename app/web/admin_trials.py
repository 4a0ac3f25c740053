"""The admin port's requests that begin and end trials of bundles."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from fastapi import APIRouter, Request

from app.errors import Detail, Invalid, Undecodable
from app.off_loop import run_off_loop
from app.serving.activation import Activated, Activation, Listing
from app.serving.trial_choice import CanaryBody, ShadowBody, TrialChoice
from app.web.bodies import read_body

MOST_BYTES = 64 * 1024
"""Bytes of a body."""
Body = TypeVar("Body")


_canary_decoder = msgspec.json.Decoder(CanaryBody)
_shadow_decoder = msgspec.json.Decoder(ShadowBody)


def add_trials(router: APIRouter, activation: Activation, trials: TrialChoice) -> None:
    """Add the routes."""

    @router.post("/bundles/{version}/canary")
    async def canary(version: str, request: Request) -> Listing:
        """Let this bundle answer a share of the requests; 409 with the reason if it cannot be."""
        await trials.canary(version, await _read(request, _canary_decoder))
        return await run_off_loop(activation.list)

    @router.post("/bundles/{version}/shadow")
    async def shadow(version: str, request: Request) -> Listing:
        """Let this bundle score a share of the requests after their answers."""
        await trials.shadow(version, await _read(request, _shadow_decoder))
        return await run_off_loop(activation.list)

    @router.post("/bundles/{version}/stop")
    async def stop(version: str) -> Listing:
        """End the trial of this bundle."""
        await trials.stop(version)
        return await run_off_loop(activation.list)

    @router.post("/bundles/{version}/promote")
    async def promote(version: str) -> Activated:
        """Serve the bundle that is on trial to everybody, and keep to it."""
        return await trials.promote(version)


async def _read(request: Request, decoder: msgspec.json.Decoder[Body]) -> Body:
    """Return the body of a request.

    Raises:
        TooLarge, Undecodable, Invalid: it is not one of this kind.
    """
    body = await read_body(request, MOST_BYTES)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at ")
        where = path.strip("`").removeprefix("$").lstrip(".") or "body"
        raise Invalid("the body has the wrong form", [Detail(where, message)]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Undecodable("the body is not JSON") from None
