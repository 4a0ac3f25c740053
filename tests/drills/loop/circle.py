"""The circle: serve, log, hear of clicks, join, look for skew, train, gate, take up; day after day.

Three faults are caused on purpose, each found by what is there to find it: a broken join, whose
bundle the gate refuses; a program that rewrites values between log and training, which ``replay``
names; a bundle that scores too high, which an operator tries as a canary and its guard stops.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl

from model.quality.figures import auc
from tests.drills.loop.people import SEEN, Ratings, Visit
from tests.support.feedback import HEADERS, KEY, key_file
from tests.support.serving import ROOT, Service, free_port, wait_until

SPEC = ROOT / "model" / "specs" / "movielens-100k.toml"
GATE = "[same_test]\nauc_lost = 0.005\nlog_loss_added = 0.005\n"
TRAINING = """\
hidden = [64, 32]
dropout = 0.2
embedding_l2 = 0.05
oov_rate = 0.02
epochs = 6
patience = 0
learning_rate = 0.05
"""
"""Settings of every training: half as long as those that ship with the spec."""
WINDOW_SECONDS = 1.0
"""Time in which a click counts: simulated users click at once."""
CALLERS = 4
PATIENCE = 120.0
BROKEN_JOIN, SKEW, CANARY = 1, 2, 3
"""The days (from 0) on which something is wrong."""
CANARY_SHARE = 0.5
KEPT_NEGATIVES = 0.15
"""Share of the rows without a click that the bad canary is trained on, without saying so."""


@dataclass
class Day:
    """The outcome of a day, a line of the report."""

    number: int
    served: str
    rows: int = 0
    auc: float | None = None
    predicted_over_observed: float = 0.0
    drifted: list[str] = field(default_factory=list)
    trained: str = ""
    """The version that was trained at its end."""
    taken_up: bool = False
    why: str = ""
    skewed_fields: list[str] = field(default_factory=list)
    canary: str = ""
    """The reason for which the canary was stopped."""

    def line(self) -> str:
        """The day as people read it."""
        ranked = "-" if self.auc is None else f"{self.auc:.3f}"
        told = (
            f"day {self.number + 1}: served {self.served[-12:]}, {self.rows:,} rows seen, AUC"
            f" {ranked}, predicted/observed {self.predicted_over_observed:.2f}, drift:"
            f" {', '.join(self.drifted) or 'none'}"
        )
        if self.skewed_fields:
            told += f"; skew found by replay: {', '.join(self.skewed_fields)}"
        if self.canary:
            told += f"; canary stopped: {self.canary}"
        return f"{told}; then {self.trained[-12:]} {self.why}"


class Circle:
    """A service, its directory of bundles, its logs, and the users around it."""

    def __init__(self, directory: Path, ratings: Ratings, seed: int, guard_rows: int) -> None:
        self._directory, self._ratings, self._seed = directory, ratings, seed
        self._guard_rows = guard_rows
        self._bundles = directory / "bundles"
        self._log, self._events = directory / "requests", directory / "events"
        self._joined: list[Path] = []
        self._logged = self._admin = 0
        self._canary = ""
        self._service: Service | None = None

    @property
    def service(self) -> Service:
        """The service that runs."""
        assert self._service is not None
        return self._service

    def run(self, say: Callable[[str], None]) -> Iterator[Day]:
        """Live all days; ``say`` tells what goes on besides."""
        first = self._train([])
        say(f"first bundle: {first.name}, of {pl.read_csv(self._history('train')).height:,} rows")
        with self._serving():
            for number in range(len(self._ratings.days)):
                yield self._day(number, say)

    @contextmanager
    def _serving(self) -> Iterator[None]:
        gate = self._directory / "gate.toml"
        gate.write_text(GATE)
        keys = key_file(self._directory)
        self._admin = free_port()
        self._service = Service(
            self._bundles,
            self._directory / "service.log",
            bundle_poll_seconds=0.2,
            deadline_ms=20_000,
            gate=gate,
            request_log=self._log,
            request_log_share=1,
            request_log_key="user_id",
            feedback=self._events,
            feedback_key_file=keys,
            admin_port=self._admin,
            admin_key_file=keys,
        )
        try:
            self._service.wait_ready()
            yield
        finally:
            self._service.stop()

    def _day(self, number: int, say: Callable[[str], None]) -> Day:
        day = Day(number, self._ready()["version"])
        before = self._sums()
        start = time.time()
        if number == CANARY:
            self._begin_canary(say)
        visits = self._ratings.visits(number, self._seed)
        with ThreadPoolExecutor(CALLERS) as callers:
            seen = sum(callers.map(self._visit, visits))
        if number == CANARY:
            day.canary = self._canary_end()
        self._wait_for_the_log(len(visits))
        labels, predicted, clicks = (
            now - then for now, then in zip(self._sums(), before, strict=True)
        )
        assert labels == seen
        day.predicted_over_observed = predicted / clicks
        day.drifted = self._drifted()
        if number == SKEW:
            day.skewed_fields = self._find_skew(say)
        assert self._replay(self._log)[0] == 0, "what was served is not what the bundle gives"
        rows = self._join(number, start)
        day.rows, day.auc = rows.height, _auc(rows)
        if number == BROKEN_JOIN:
            broken = self._directory / "broken-join.parquet"
            rows.with_columns(pl.col("click").shuffle(self._seed)).write_parquet(broken)
            # Every row twice more, so that it weighs as a day of a larger service would.
            trained = self._train([*self._joined, broken, *self._copies(broken)])
        else:
            trained = self._train(self._joined)
        day.trained = trained.name
        day.taken_up, day.why = self._outcome(trained.name)
        return day

    # Users.

    def _visit(self, visit: Visit) -> int:
        """Ask for a list, look at its head, tell what became of it; return how many were seen."""
        answer = self._client.post("/rank", json=visit.body)
        answer.raise_for_status()
        found = answer.json()
        events = [
            {
                "request_id": answer.headers["x-request-id"],
                "index": each["index"],
                "shown": True,
                "label": visit.likes[each["index"]],
                "version": found["version"],
                "score": each["score"],
            }
            for each in found["ranking"][:SEEN]
        ]
        told = self._client.post("/feedback", json={"events": events}, headers=HEADERS)
        assert told.status_code == 202, told.text
        return len(events)

    @property
    def _client(self) -> httpx.Client:
        return self.service.client

    # What the service says.

    def _ready(self) -> dict[str, Any]:
        found: dict[str, Any] = self._client.get("/ready").json()
        return found

    def _sums(self) -> tuple[float, float, float]:
        """Labels, predicted and observed clicks of all versions."""
        metrics = self.service.metrics()
        labels, predicted, clicks = (
            sum(value for name, value in metrics.items() if f"ctr_feedback_{kind}_total" in name)
            for kind in ("labels", "predicted", "clicks")
        )
        return labels, predicted, clicks

    def _drifted(self) -> list[str]:
        slots: Mapping[str, Any] = self._client.get("/drift").json()["slots"]
        return [name for name, each in slots.items() if each["drifted"]]

    def _wait_for_the_log(self, requests: int) -> None:
        """Wait until all requests of the day are in the log."""
        self._logged += requests

        def written() -> bool:
            return self.service.metrics()["ctr_request_log_lines_total"] >= self._logged

        wait_until(written, f"{self._logged} requests are in the log", PATIENCE)

    def _outcome(self, version: str) -> tuple[bool, str]:
        """Wait until a bundle is taken up or held; return which, and why."""

        def decided() -> bool:
            ready = self._ready()
            return ready.get("version") == version or version in ready["held_bundles"]

        wait_until(decided, f"{version} is taken up or held", PATIENCE)
        ready = self._ready()
        if ready["version"] == version:
            return True, "taken up: it passed the gate"
        return False, f"held by the gate: {ready['held_bundles'][version]}"

    # The canary.

    def _admin_request(self, method: str, path: str, **body: Any) -> Any:
        answer = httpx.request(
            method,
            f"http://127.0.0.1:{self._admin}/admin{path}",
            json=body or None,
            headers={"authorization": f"Bearer {KEY}"},
            timeout=PATIENCE,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def _begin_canary(self, say: Callable[[str], None]) -> None:
        """Have a bundle that scores too high answer half of the users."""
        kept = self._directory / "few-negatives.csv"
        frame = pl.read_csv(self._history("train"), infer_schema=False)
        clicks = pl.col("click") == "1"
        negatives = frame.filter(~clicks).sample(fraction=KEPT_NEGATIVES, seed=self._seed)
        pl.concat([frame.filter(clicks), negatives]).sample(
            fraction=1.0, shuffle=True, seed=self._seed
        ).write_csv(kept)
        bad = self._train([], kept).name
        _, why = self._outcome(bad)
        say(f"        {bad[-12:]}, trained on too few rows without a click: {why}")
        self._admin_request(
            "POST",
            f"/bundles/{bad}/canary",
            share=CANARY_SHARE,
            key="user_id",
            guard={
                "rows": self._guard_rows,
                "p99_ratio": None,
                "mean_score_ratio": None,
                "calibration": [0.85, 1.3],
            },
        )
        self._canary = bad
        say(f"        {bad[-12:]} is the canary of {CANARY_SHARE:.0%} of the users all the same")

    def _canary_end(self) -> str:
        """Wait until the guard has stopped the canary; return the reason."""

        def listed() -> dict[str, Any]:
            bundles = self._admin_request("GET", "/bundles")["bundles"]
            return next(each for each in bundles if each["version"] == self._canary)

        wait_until(lambda: listed()["state"] != "canary", "the guard stops the canary", PATIENCE)
        return str(listed()["reason"])

    # The trainer's side.

    def _history(self, part: str) -> Path:
        return self._ratings.history[part]

    def _train(self, joined: Sequence[Path], train: Path | None = None) -> Path:
        """Train a bundle, always measured on the same test part."""
        settings = self._directory / "loop.train.toml"
        settings.write_text(TRAINING)
        words = ["train", str(SPEC), "--out", str(self._bundles), "--network", "deepfm"]
        words += ["--config", str(settings)]
        for path in [train or self._history("train"), *joined]:
            words += ["--train", str(path)]
        for part in ("validation", "test"):
            words += [f"--{part}", str(self._history(part))]
        return Path(self._model(*words).stdout.splitlines()[-1])

    def _copies(self, path: Path) -> list[Path]:
        found = []
        for number in range(2):
            copy = path.with_name(f"{path.stem}-{number}.parquet")
            # Another file: the trainer refuses the same one twice.
            pl.read_parquet(path).sample(
                fraction=1.0, shuffle=True, seed=self._seed + number
            ).write_parquet(copy)
            found.append(copy)
        return found

    def _join(self, number: int, start: float) -> pl.DataFrame:
        """Join all logs so far; return the rows of the day, and keep those of all days."""
        out = self._directory / f"rows-{number + 1}.parquet"
        until = str(time.time() + WINDOW_SECONDS + 1)
        window = f"{WINDOW_SECONDS:g}s"
        words = ["join", str(self._log), str(self._events), "--out", str(out), "--window", window]
        self._model(*words, "--until", until)
        self._joined = [out]
        return pl.read_parquet(out).filter(pl.col("served_time") >= start)

    def _replay(self, log: Path) -> tuple[int, dict[str, Any]]:
        report = self._directory / "replay.json"
        bundle = self._bundles / self._ready()["version"]
        done = self._run("replay", str(log), "--bundle", str(bundle), "--json", str(report))
        assert done.returncode in (0, 3), done.stderr
        return done.returncode, json.loads(report.read_text())

    def _find_skew(self, say: Callable[[str], None]) -> list[str]:
        """Replay a copy of the log that a program has rewritten, as one between log and training
        does: it has the ages in decades."""
        rewritten = self._directory / "rewritten"
        rewritten.mkdir()
        for path in self._log.iterdir():
            lines = [json.loads(line) for line in _whole_lines(path)]
            for line in lines:
                if "context" in line:
                    line["context"]["age"] = line["context"]["age"] // 10 * 10
            content = "".join(json.dumps(line) + "\n" for line in lines)
            (rewritten / path.name).write_bytes(gzip.compress(content.encode()))
        code, report = self._replay(rewritten)
        assert code == 3
        fields = report["served"]["fields"]
        worst = report["served"]["largest_difference"]
        say(
            f"        replay of a log whose ages are rounded: {fields} rows differ, logits by up"
            f" to {worst:.2f}; the log itself is replayed and joined instead"
        )
        return list(fields)

    def _model(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = self._run(*words)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr}"
        return done

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "model", *words],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip


def _whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a log file that the service may be writing."""
    try:
        with gzip.open(path) as file:
            yield from file
    except EOFError:
        return


def _auc(rows: pl.DataFrame) -> float | None:
    return auc(rows["click"].to_numpy().astype(np.uint8), rows["served_score"].to_numpy())
