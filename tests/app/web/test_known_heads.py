"""A head that was parsed before means what it meant then, to the last of its bytes."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, cast

import pytest

from app.web.bounded_protocol import BoundedProtocol
from app.web.exchange import Endpoint, Header
from app.web.known_heads import MOST_BYTES, MOST_HEADS, KnownHeads
from app.web.protocol import MOST_STRANGE, STRANGE_READS
from app.web.server import ServiceServer
from tests.support.inside import serving, until

ENDPOINT = cast(Endpoint, object())
QUIET_SECONDS = 0.2
BODY = b'{"instances":[{"placement":"a"}]}'
OTHER = b'{"instances":[{},1]}'
USUAL = ["content-type: application/json", f"content-length: {len(BODY)}"]


def request(*headers: str, start: str = "POST /predict HTTP/1.1", body: bytes = BODY) -> bytes:
    """A request's bytes."""
    return "\r\n".join([start, "host: x", *headers]).encode() + b"\r\n\r\n" + body


def headers_of(data: bytes) -> list[Header]:
    """The headers as the parser finds them in a request of this module."""
    lines = data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [
        (name.lower(), value.strip()) for name, _, value in (each.partition(b":") for each in lines)
    ]


def kept(*datas: bytes) -> KnownHeads:
    """A table that these requests were added to."""
    heads = KnownHeads()
    for data in datas:
        heads.add(data, headers_of(data), ENDPOINT, 1.0)
    return heads


def test_the_same_head_is_found_with_any_body_of_its_length() -> None:
    """And with nothing missing and nothing behind it."""
    heads = kept(request(*USUAL))
    found = heads.find(request(*USUAL, body=b" " * len(BODY)))
    assert found is not None
    assert found[0] == (ENDPOINT, len(BODY), 1.0)
    assert found[1:] == (b"", b" " * len(BODY))
    whole = request(*USUAL)
    assert all(heads.find(whole[:end]) is None for end in range(len(whole)))
    assert heads.find(whole + b"P") is None
    assert heads.find(whole + whole) is None
    assert heads.find(b"\r\n" + whole) is None
    assert heads.find(request(*USUAL).replace(b"host", b"Host")) is None


def test_a_request_id_is_cut_out() -> None:
    """A usual one, at any place and in any spelling of its name, is its own request's."""
    heads = kept(request("X-Request-Id: first", *USUAL))
    for place in range(3):
        told = [*USUAL[:place], "x-request-ID: second", *USUAL[place:]]
        found = heads.find(request(*told))
        assert found is not None
        assert found[1:] == (b"second", BODY)
    without = heads.find(request(*USUAL))
    assert without is not None
    assert without[1] == b""
    for odd in ("x-request-id:", "x-request-id: two words", f"x-request-id: {'x' * 129}",
                "x-request-id: folded\r\n line", "x-request-id:tight",
                "x-request-id: a\r\nx-request-id: b"):  # fmt: skip
        assert heads.find(request(odd, *USUAL)) is None, odd
        assert kept(request(odd, *USUAL)).find(request(odd, *USUAL)) is None, odd


@pytest.mark.parametrize(
    "headers",
    [
        [*USUAL, "transfer-encoding: chunked"],
        [*USUAL, USUAL[1]],
        [USUAL[0], f"content-length: 0{len(BODY)}"],
        [USUAL[0], f"content-length: {len(BODY) + 1}"],
        [USUAL[0]],
        [*USUAL, f"x-long: {'x' * MOST_BYTES}"],
    ],
    ids=lambda headers: headers[-1][:40],
)
def test_unusual_heads_are_not_kept(headers: list[str]) -> None:
    """Each is for the parser, every time."""
    assert kept(request(*headers)).find(request(*headers)) is None


def test_the_table_is_bounded() -> None:
    """Heads that never repeat push out others and take no more memory."""
    heads = kept(*(request(*USUAL, f"traceparent: {n}") for n in range(MOST_HEADS + 1)))
    assert heads.find(request(*USUAL, "traceparent: 0")) is None
    assert heads.find(request(*USUAL, f"traceparent: {MOST_HEADS}")) is not None


CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
CASES = {
    "usual": request(*USUAL),
    "id": request("x-request-id: mine", *USUAL),
    "odd id": request("x-request-id: two words", *USUAL),
    "two ids": request("x-request-id: a", "x-request-id: b", *USUAL),
    "timeout": request("x-request-timeout-ms: 5000", *USUAL),
    "no timeout": request("x-request-timeout-ms: soon", *USUAL),
    "other type": request("content-type: text/plain", USUAL[1]),
    "compressed": request("content-encoding: gzip", *USUAL),
    "bad row": request(USUAL[0], f"content-length: {len(OTHER)}", body=OTHER),
    "no JSON": request(*USUAL, body=b"{" * len(BODY)),
    "no list": request(*USUAL, start="POST /rank HTTP/1.1"),
    "closing": request("connection: close", *USUAL),
    "old": request(*USUAL, start="POST /predict HTTP/1.0"),
    "expecting": request("expect: 100-continue", *USUAL),
    "offering": request("connection: upgrade", "upgrade: h2c", *USUAL),
    "query": request(*USUAL, start="POST /predict?a HTTP/1.1"),
    "lower case": request(*USUAL, start="post /predict HTTP/1.1"),
    "chunked": request(USUAL[0], "transfer-encoding: chunked", body=CHUNKED),
    "two": request(*USUAL) + request("x-request-id: mine", *USUAL),
    "line before": b"\r\n" + request(*USUAL),
    "line after": request(*USUAL) + b"\r\n",
    "empty": request(USUAL[0], "content-length: 0", body=b""),
    "too long": request(USUAL[0], "content-length: 99999999999"),
    "negative": request(USUAL[0], "content-length: -1"),
}  # fmt: skip


CUT_EVERYWHERE = ("usual", "id", "two ids")


async def told(
    server: ServiceServer, port: int, *parts: bytes, expected: bytes | None = None
) -> bytes:
    """The answers on a new connection to parts that are read one by one, behind a usual request.

    The last answer says whether the client has ended by then, so it ends only when all that is
    expected has come; not knowing that, a while after all is answered.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(*USUAL))
    answer = await reader.readuntil(b"}")
    for part in parts:
        writer.write(part)
        for _ in range(3):
            await asyncio.sleep(0)
    if expected is None:
        connections = cast(set[BoundedProtocol], server.server_state.connections)
        await until(lambda: not any(each.under_way() for each in connections), "all is answered")
        await asyncio.sleep(QUIET_SECONDS)
    else:
        while len(without_chance(answer)) < len(expected) and (more := await reader.read(65_536)):
            answer += more
    writer.write_eof()
    answer += await reader.read()
    writer.close()
    return without_chance(answer)


def without_chance(answer: bytes) -> bytes:
    """Answers without what differs each time: dates, the ids that the service gives, and the order
    of headers, which is another one where a request waits for the one before it."""
    answer = re.sub(rb"date: [^\r]*\r\n", b"", answer)
    answer = re.sub(rb"x-request-id: [0-9a-f]{12}-[0-9a-f]+\r\n", b"", answer)
    head = rb"(HTTP/1\.1 [^\r]*\r\n)((?:[^\r]+\r\n)+)"
    return re.sub(
        head, lambda found: found[1] + b"".join(sorted(found[2].splitlines(True))), answer
    )


@pytest.mark.slow
@pytest.mark.anyio
async def test_both_ways_say_the_same_wherever_the_bytes_are_cut(tiny_bundle: Path) -> None:
    """Each request whole and cut at every place (some at every tenth, to save time), behind a
    usual one, after all have been seen: the answers are those of a server that parses all."""
    async with serving(tiny_bundle) as (server, port):
        heads = known_heads(server)
        find, hits = heads.find, 0

        def counting(data: bytes) -> Any:
            nonlocal hits
            found = find(data)
            hits += found is not None
            return found

        heads.find = lambda data: None  # type: ignore[method-assign]
        answers = await asyncio.gather(*(told(server, port, case) for case in CASES.values()))
        expected = dict(zip(CASES, answers, strict=True))
        heads.find = counting  # type: ignore[method-assign]
        for name, case in CASES.items():
            known = case in (CASES["usual"], CASES["id"], CASES["timeout"], CASES["bad row"])
            for cut in range(0, len(case) + 1, 1 if name in CUT_EVERYWHERE else 10):
                hits = 0
                parts = [part for part in (case[:cut], case[cut:]) if part]
                found = await told(server, port, *parts, expected=expected[name])
                assert found == expected[name], (name, cut)
                assert hits >= 1, "the usual request was known"
                assert not known or len(parts) > 1 or hits == 2, name
    assert b" 200 " in expected["usual"]
    assert expected["two"].count(b" 200 ") == 3


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_client_with_another_head_each_time_is_left_to_the_parser(
    tiny_bundle: Path,
) -> None:
    """For a while: then its heads are looked up again, as its first ones may be known by then."""
    async with serving(tiny_bundle) as (server, port):
        heads = known_heads(server)
        find, looked_up = heads.find, 0

        def counting(data: bytes) -> Any:
            nonlocal looked_up
            looked_up += 1
            return find(data)

        heads.find = counting  # type: ignore[method-assign]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(2 * STRANGE_READS):
            writer.write(request(*USUAL, f"traceparent: {number}"))
            await reader.readuntil(b"}")
        assert looked_up == 2 * MOST_STRANGE
        writer.close()


def known_heads(server: ServiceServer) -> KnownHeads:
    """The table of a server."""
    made = cast(Any, server.config.http_protocol_class)
    return next(each for each in made.args if isinstance(each, KnownHeads))
