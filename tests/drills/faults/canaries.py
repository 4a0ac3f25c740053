"""Canaries that are bad in one way each: their guard stops them, and nobody else notices."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx

from app.bundle.bundle import Bundle
from app.bundle.directory import CURRENT
from app.features.encoder import Encoder, SideEncoder
from app.rollout.shares import Shares
from tests.drills.faults.drive import Answer, Request, ask_in_turn, offer_in_turn, run
from tests.drills.faults.figures import Figure
from tests.drills.faults.stage import Stage, predict
from tests.support.bad_graphs import doubled, failing_for, slow, with_graph
from tests.support.serving import free_port, strict

RATE, SECONDS, MOST = 300, 20.0, 10.0
SHARE = 0.2
UNLUCKY = 10
"""Every so many requests of the canary are those of the one user for whom a run fails."""
KEY = "0123456789abcdef" * 4
HEADERS = {"authorization": f"Bearer {KEY}"}


def canaries(stage: Stage) -> Iterator[Figure]:
    """One that scores twice too high, one that fails a tenth of its runs, one that is slow."""
    for name in ("scores twice too high", "fails a tenth of its runs", "is ten times slower"):
        yield from _one(stage, name)


def _one(stage: Stage, name: str) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        shutil.copytree(stage.bundle, directory / stage.bundle.name)
        (directory / CURRENT).write_text(stage.bundle.name)
        bad, unlucky = _bad(stage, name, directory)
        takes = Shares(bad.name, SHARE).takes
        sides = [
            [user for user in range(10**6, 10**6 + 4_000) if takes(str(user)) is canary][:400]
            for canary in (False, True)
        ]
        asked = _requests(stage, sides[0], sides[1], unlucky)
        (directory / "key").write_text(hashlib.sha256(KEY.encode()).hexdigest())
        port = free_port()
        settings = {"admin_port": port, "admin_key_file": directory / "key"}
        with (
            stage.service(bundle=directory, **settings) as service,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=HEADERS) as admin,
        ):
            requests = [request for _, request in asked]
            run(ask_in_turn(service.port, requests[:500], 8))
            path = f"/admin/bundles/{bad.name}/canary"
            begun = admin.post(path, json={"share": SHARE, "key": "user_id"}, timeout=60.0)
            assert begun.status_code == 200, begun.text
            answers = run(_load(service.port, requests))
            listing = strict(admin.get("/admin/bundles", timeout=60.0).content)
        canarys = [takes(str(user)) for user, _ in asked]
        yield from _judged(name, bad.name, answers, canarys, listing)


async def _load(port: int, requests: list[Request]) -> list[Answer]:
    return await asyncio.shield(offer_in_turn(port, requests, RATE, SECONDS))


def _judged(
    name: str, bad: str, answers: list[Answer], canarys: list[bool], listing: Any
) -> Iterator[Figure]:
    sides = [canarys[number % len(canarys)] for number in range(len(answers))]
    last = max(
        (
            number
            for number, (answer, canary) in enumerate(zip(answers, sides, strict=True))
            if (answer.status == 200 and strict(answer.content)["version"] == bad)
            or (answer.status != 200 and canary)
        ),
        default=0,
    )
    harmed = sum(
        answer.status != 200 for answer, canary in zip(answers, sides, strict=True) if not canary
    )
    (state,) = (each for each in listing["bundles"] if each["version"] == bad)
    yield Figure(f"{name}: seconds until it is stopped", last / RATE, MOST, "s")
    yield Figure(f"{name}: goes on", float(listing["trial"] is not None), 0, exact=True)
    yield Figure(f"{name}: other requests harmed", harmed, 0, exact=True)
    yield Figure(f"{name}: held for another reason", float(_other(name, state)), 0, exact=True)


def _other(name: str, state: Any) -> bool:
    """True if the bundle is not held for what is wrong with it."""
    # What is slow may miss deadlines before its times are enough to judge.
    words = {"scores": ["mean score"], "fails": ["failed"], "is": ["p99", "failed"]}
    told = any(word in (state["reason"] or "") for word in words[name.split()[0]])
    return state["state"] != "held" or not told


def _users(stage: Stage, bundle: Bundle, side: SideEncoder, column: int) -> list[int]:
    """Users whom a bundle knows, and of whom no golden request is: those are scored beforehand."""
    # As indices: a log on disk has the same user as a text, or with a decimal point.
    golden = {example.context_row[column] for example in bundle.examples}
    oov = side.encoders[column].one(3)[0]
    users = {row["user_id"] for row in stage.rows if "user_id" in row}
    return [
        int(str(user))
        for user in sorted(users, key=str)
        if side.encoders[column].one(user)[0] not in {oov, *golden}
    ]


def _bad(stage: Stage, name: str, directory: Path) -> tuple[Path, int | None]:
    """Return a bad bundle, and the user for whom its runs fail, who is one of the canary's."""
    if name.startswith("scores"):
        return with_graph(stage.other, directory, doubled), None
    if name.startswith("is"):
        return with_graph(stage.other, directory, slow), None
    bundle = Bundle.open(stage.other)
    side = Encoder(bundle.spec, bundle.vocabulary).context
    column = [each.name for each in side.encoders].index("user_id")
    # The version, which decides the users, depends on the graph, and so on its name.
    for number, user in enumerate(cycle(_users(stage, bundle, side, column))):
        index = side.encoders[column].one(user)[0]
        bad = with_graph(stage.other, directory, failing_for(column, index, f"attempt {number}"))
        if Shares(bad.name, SHARE).takes(str(user)):
            return bad, user
        shutil.rmtree(bad)
    raise AssertionError("the other bundle knows no user but those of golden requests")


def _requests(
    stage: Stage, live: list[int], canary: list[int], unlucky: int | None
) -> list[tuple[int, Request]]:
    """Requests of users in turn; one of ``UNLUCKY`` of the canary's is an unlucky user's."""
    asked = []
    for number in range(2_000):
        is_canary = number % round(1 / SHARE) == 0
        pool = canary if is_canary else live
        user = pool[number % len(pool)]
        if is_canary and unlucky is not None and (number // round(1 / SHARE)) % UNLUCKY == 0:
            user = unlucky
        row = {**stage.rows[number % len(stage.rows)], "user_id": user}
        asked.append((user, predict(row)))
    return asked
