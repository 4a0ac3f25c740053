"""Bodies of requests that do not score, read within a bound."""

from __future__ import annotations

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.errors import TooLarge, Undecodable


async def read_body(request: Request, most: int) -> bytes:
    """Return a body of at most so many bytes.

    Raises:
        TooLarge: it has more.
        Undecodable: its caller left before it was there.
    """
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise TooLarge(f"the body is over {most} bytes")
    except ClientDisconnect:
        raise Undecodable("the body did not arrive: its caller has gone") from None
    return bytes(body)
