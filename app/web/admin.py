"""The admin port: an application of its own, for those who hold a key."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Depends, FastAPI

from app.off_loop import run_off_loop
from app.serving.activation import Activated, Activation, Listing
from app.web.error_responses import answer_errors
from app.web.keys import Keys, key_check
from app.web.own_pages import OwnPages
from app.web.pages import add_pages
from app.web.routes import group_of


def create_admin(
    activation: Activation,
    add_others: Callable[[APIRouter], None],
    add_data: Callable[[APIRouter], None],
    own: OwnPages,
    keys: Keys,
    public_port: int | None,
) -> FastAPI:
    """Build the application over the state of the service that runs beside it.

    ``add_others`` adds more routes below ``/admin``, and ``add_data`` those below
    ``/admin/pages``; ``public_port`` is the service's, if it has one.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    checks = [Depends(own.check_origin), Depends(key_check(keys, "admin"))]
    router = group_of(app, prefix="/admin", dependencies=checks)

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

    add_others(router)
    add_data(group_of(app, prefix="/admin/pages", dependencies=checks))
    pages = group_of(app, dependencies=[Depends(own.check)])
    add_pages(pages, admin=True, explains=True, public_port=public_port)
    answer_errors(app)
    return app
