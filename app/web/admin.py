"""The admin port: an application of its own, for those who hold a key."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, Depends, FastAPI

from app.off_loop import run_off_loop
from app.serving.activation import Activated, Activation, Listing
from app.web.error_responses import answer_errors
from app.web.keys import Keys, key_check
from app.web.own_pages import OwnPages
from app.web.pages import build_pages


def create_admin(
    activation: Activation,
    entries: Iterable[APIRouter],
    data: Iterable[APIRouter],
    own: OwnPages,
    keys: Keys,
    public_port: int | None,
) -> FastAPI:
    """Build the application over the state of the service that runs beside it.

    ``data`` are the routes below ``/admin/pages``; ``public_port`` is the service's, if it has one.
    """
    router = APIRouter(
        prefix="/admin",
        dependencies=[Depends(own.check_origin), Depends(key_check(keys, "admin"))],
    )

    @router.get("/bundles")
    async def bundles() -> Listing:
        """Every bundle of the directory: which one serves, which were refused, and why."""
        return await run_off_loop(activation.list)

    @router.post("/bundles/{version}/activate")
    async def activate(version: str) -> Activated:
        """Serve this bundle from now on, forth or back; 409 with the reason if that cannot be."""
        return await activation.activate(version)

    @router.delete("/current")
    async def follow() -> Listing:
        """Follow the newest bundle again, whatever was chosen; 409 where that cannot be."""
        await activation.follow_newest()
        return await run_off_loop(activation.list)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    for each in entries:
        router.include_router(each)
    for each in data:
        router.include_router(each, prefix="/pages")
    app.include_router(router)
    app.include_router(build_pages(own, admin=True, explains=True, public_port=public_port))
    answer_errors(app)
    return app
