"""The peers' side of the benchmark, as far as it goes without the peers themselves."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from app.features.arrangement import arrange
from app.features.encoder import Encoder
from app.features.spec import FeatureSpec
from app.features.vocabulary import Texts, Vocabulary
from tests.bench.serving.peers import running
from tests.bench.serving.peers.lineup import Lineup
from tests.bench.serving.peers.peer import Launch, Mosec, Row, Triton, pinned
from tests.bench.serving.peers.scoring import Tables
from tests.support import environments
from tests.support.environments import ROOT, PeerProblem
from tests.support.processes import runs
from tests.support.serving import wait_until

pytestmark = pytest.mark.slow

# Fields of the two sides take turns, so that the spec's order is not the graph's.
FIELDS = {"a": "context", "b": "candidate", "c": "context", "d": "candidate"}
KNOWN = ["0a1b2c3d", "é", "NA", "null", '"quoted"', "a\\b", "\n"]
ROWS: list[Row] = [{"a": "0a1b2c3d", "b": "é", "c": None}, {"d": '"\\', "a": ""}]


def vocabulary() -> tuple[FeatureSpec, Vocabulary]:
    """A vocabulary of four text fields, each with the same known values."""
    spec = FeatureSpec.parse('label = "click"\n' + "".join(
        f'[[fields]]\nname = "{name}"\nkind = "categorical"\nside = "{side}"\n'
        for name, side in FIELDS.items()
    ))  # fmt: skip
    layout = arrange(spec, dict.fromkeys(FIELDS, len(KNOWN)))
    keys = sorted(KNOWN, key=str.encode)
    slots = {}
    for slot in layout.slots:
        rows = np.arange(slot.first + 2, slot.first + 2 + len(keys), dtype=np.int32)
        slots[slot.name] = Texts.of(keys, rows)
    return spec, Vocabulary(layout, slots)


def test_the_peers_encode_as_the_product_does() -> None:
    """Known, unseen, empty, null and absent values have the indices that the product gives."""
    spec, words = vocabulary()
    encoder, tables = Encoder(spec, words), Tables(words)
    draw = random.Random(1)
    choices = [*KNOWN, *KNOWN, "unseen", "0A1B2C3D", "", None]
    rows = []
    for _ in range(500):
        present = draw.sample(list(FIELDS), draw.randrange(len(FIELDS) + 1))
        rows.append({name: draw.choice(choices) for name in present})
    expected = [encoder.context.row(row) + encoder.candidate.row(row) for row in rows]
    decoder = msgspec.json.Decoder(tables.row_type)
    found = tables.encode([msgspec.structs.astuple(decoder.decode(json.dumps(r))) for r in rows])
    assert found.dtype == np.int32
    assert [row.tobytes() for row in found] == expected


@pytest.mark.parametrize("row", ROWS)
def test_a_body_carries_the_row_and_nothing_else(row: Row) -> None:
    """Each peer is asked for the very row that the product is asked for."""
    assert json.loads(json.dumps(Mosec().body(row))) == {"instances": [row]}
    [tensor] = json.loads(json.dumps(Triton().body(row)))["inputs"]
    [text] = tensor.pop("data")
    assert tensor == {"name": "ROW", "datatype": "BYTES", "shape": [1, 1]}
    assert json.loads(text) == row


def test_scores_are_found_in_the_answers() -> None:
    """Each peer's answer is read in its own form."""
    output = {"name": "SCORE", "datatype": "FP32", "shape": [1, 1], "data": [0.25]}
    assert Mosec().scores({"predictions": [0.25]}) == [0.25]
    assert Triton().scores({"model_name": "click", "outputs": [output]}) == [0.25]


@pytest.mark.parametrize("name", [Mosec.name, Triton.name])
def test_the_peers_run_the_product_s_engine(name: str) -> None:
    """Both sides of a comparison have the same onnxruntime and the same JSON decoder."""
    versions = pinned(name).read_text().splitlines()
    ours = (ROOT / "constraints.txt").read_text().splitlines()
    for library in ("onnxruntime", "msgspec"):
        [version] = [line for line in versions if line.startswith(f"{library}==")]
        assert version in ours


def test_what_cannot_be_installed_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed installation is a problem of the peer, and is not taken for a finished one."""
    absent = tmp_path / "absent.txt"
    absent.write_text("absent @ file:///nowhere/absent-1.0-py3-none-any.whl\n")
    monkeypatch.setattr(environments, "HOME", tmp_path / "peers")
    with pytest.raises(PeerProblem, match=r"^cannot be installed: ERROR: .*absent") as problem:
        environments.environment(absent)
    assert "\n" not in str(problem.value)
    assert not (tmp_path / "peers" / "absent" / ".installed").exists()


SERVER = """
import http.server, json, signal, subprocess, sys, time
port, score, note = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
sleeper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", sleeper])
open(note, "w").write(str(child.pid))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        answer = json.dumps({"predictions": [score]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class Constant(Mosec):
    """A server that leaves a child behind which ignores SIGTERM, and knows one score."""

    def __init__(self, name: str, note: Path, score: float = 0.5, program: str = SERVER) -> None:
        self.name = name
        self.note = note
        self.score = score
        self.program = program

    def install(self) -> Path:
        return Path()

    def launch(self, home: Path, port: int, scratch: Path) -> Launch:
        words = [sys.executable, "-c", self.program, str(port), str(self.score), str(self.note)]
        return Launch(words, {})


@pytest.mark.parametrize("ending", [None, KeyboardInterrupt, SystemExit])
def test_nothing_of_a_peer_outlives_its_turn(
    tmp_path: Path, ending: type[BaseException] | None
) -> None:
    """However a turn ends, the server and all that it started are gone."""
    note = tmp_path / "note"

    def turn() -> None:
        with running.serving(Constant("constant", note), Path(), Path(), ROWS[0]) as server:
            assert running.ask(server.port, "/predict", {}) == {"predictions": [0.5]}
            assert runs(int(note.read_text()))
            if ending:
                raise ending

    if ending:
        with pytest.raises(ending):
            turn()
    else:
        turn()
    wait_until(lambda: not runs(int(note.read_text())), "the child is gone")


def lineup(peers: Sequence[Constant], scratch: Path) -> Lineup:
    return Lineup(peers, Path(), Path(), ROWS, scratch)


def test_a_peer_that_cannot_take_part_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong, a broken and an absent peer are told in one line each; the rest goes on."""

    class Absent(Constant):
        def install(self) -> Path:
            raise PeerProblem("cannot be installed: no network")

    note = tmp_path / "note"
    peers = lineup(
        [
            Constant("right", note, 0.5 + 5e-6),
            Constant("wrong", note, 0.5 + 5e-5),
            Constant("nan", note, float("nan")),
            Constant("broken", note, program="raise SystemExit('no such model')"),
            Absent("absent", note),
        ],
        tmp_path,
    )
    peers.check([0.5] * len(ROWS))
    assert peers.names == ["right"]
    assert not peers.complete
    said = capsys.readouterr().err.splitlines()
    assert [re.sub(r"nan apart|\d.*e-05 apart", "… apart", line) for line in said] == [
        "bench: left out: wrong scores otherwise than the product: … apart",
        "bench: left out: nan scores otherwise than the product: … apart",
        "bench: left out: broken did not start; its log ends with: no such model",
        "bench: left out: absent cannot be installed: no network",
    ]
    turns: list[Any] = []
    peers.each(lambda peer, server: turns.append((peer.name, server.port > 0)))
    assert turns == [("right", True)]


def test_every_row_becomes_a_line(tmp_path: Path) -> None:
    """A peer's file of requests has one body a line, in the order of the rows."""
    peer = Constant("constant", tmp_path / "note")
    path = lineup([peer], tmp_path).bodies(peer)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"instances": [row]} for row in ROWS
    ]
