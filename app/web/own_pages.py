"""The check that a browser asks for one of the service's own pages, not on behalf of another's."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Request

from app.errors import WrongOrigin

LOCAL = "localhost"


class OwnPages:
    """Refuses requests that a page of elsewhere makes, and names that are not the service's.

    A name that an attacker owns can be made to lead to this machine (DNS rebinding), after which a
    browser takes the attacker's page for one of this service. An address in numbers cannot.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """``names`` are those of the service, beside ``localhost`` and addresses in numbers."""
        self._names = {LOCAL, *(name.strip().lower() for name in names if name.strip())}

    async def check_origin(self, request: Request) -> None:
        """Refuse what a page of elsewhere sends; other programs send no ``Origin``.

        Raises:
            WrongOrigin: it is refused.
        """
        origin = request.headers.get("origin")
        if origin is None:
            return
        host = request.headers.get("host", "")
        self._check_host(host)
        if urlsplit(origin).netloc.lower() != host.lower():
            raise WrongOrigin("requests of pages of another origin are refused")

    async def check(self, request: Request) -> None:
        """Refuse what :meth:`check_origin` does, and any name that is not known.

        Raises:
            WrongOrigin: it is refused.
        """
        self._check_host(request.headers.get("host", ""))
        await self.check_origin(request)

    def _check_host(self, host: str) -> None:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        if name not in self._names and not _is_address(name):
            raise WrongOrigin(
                "the pages are not served under this name: use an address in numbers or localhost,"
                " or add the name to CTR_PAGES_HOSTS"
            )


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
