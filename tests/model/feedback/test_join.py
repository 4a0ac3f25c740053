"""Joining: each shown candidate is one row, with the label that its events give it."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from app.feedback.event_format import Event, LoggedEvent, encode_event
from app.feedback.log_format import LoggedBundle, LoggedCandidate, LoggedRequest, encode_line
from model.feedback import join as joining
from model.feedback.join import JoinCounts, JoinError, join
from model.feedback.reading import FeedbackDataError
from tests.support.starting import run

START, WINDOW, LATER = 1_000_000.0, 1800.0, 1_100_000.0
BUNDLE = LoggedBundle("v1", "click", "time")


def request(name: str, candidates: int = 3, time: float = START, **context: Any) -> LoggedRequest:
    """A ranking whose candidates are called a, b, c, … in the order of their places."""
    return LoggedRequest(
        time,
        name,
        "v1",
        "rank",
        {"user": 7, **context},
        [""],
        [
            LoggedCandidate(0.5, 0.0, "", 10 + n, "abcdefgh"[n], n + 1, {"price": 1.5 * n})
            for n in range(candidates)
        ],
    )


def event(name: str, after: float = 60.0, **values: Any) -> LoggedEvent:
    """An event so many seconds after the usual request."""
    return LoggedEvent(START + after, Event(name, **values))


def write(
    directory: Path, requests: Iterable[Any], events: Iterable[LoggedEvent] = (), name: str = "1"
) -> Path:
    """Write a request log, and a file of events."""
    directory.mkdir(exist_ok=True)
    lines = b"".join(encode_line(each) + b"\n" for each in [BUNDLE, *requests])
    (directory / f"requests-{name}.jsonl.gz").write_bytes(gzip.compress(lines))
    told = b"".join(encode_event(each) + b"\n" for each in events)
    (directory / f"events-{name}.jsonl").write_bytes(told)
    return directory


def rows(path: Path) -> dict[tuple[str, int], int]:
    """The label of each row, by request and place."""
    frame = pl.read_parquet(path)
    keys = zip(frame["served_request_id"], frame["served_place"], strict=True)
    return dict(zip(keys, frame["click"], strict=True))


def joined(
    directory: Path, now: float = LATER, shown: int | None = None
) -> tuple[dict[tuple[str, int], int], JoinCounts]:
    """The labels and the counts."""
    out = directory.parent / "rows.parquet"
    counts = join([directory], out, WINDOW, now, shown)
    return rows(out), counts


def test_a_click_within_the_window_is_1_and_no_click_0(tmp_path: Path) -> None:
    """By index, or by id, whatever its type; an explicit 0 is 0; a click wins over it."""
    numbered = request("c", 1)
    numbered.candidates[0] = LoggedCandidate(0.5, 0.0, "", None, 42, 1, {"price": 1.0})
    events = [
        event("a", index=11, label=1),
        event("b", id="c", label=1),
        event("b", id="a", label=0),
        event("b", id="c", label=0),
        event("c", id="42", label=1),
    ]
    log = write(tmp_path / "log", [request("a"), request("b"), numbered], events)
    labels, counts = joined(log)
    expected = {("a", n): int(n == 2) for n in (1, 2, 3)} | {
        ("b", n): int(n == 3) for n in (1, 2, 3)
    }
    assert labels == {**expected, ("c", 1): 1}
    assert (counts.rows, counts.clicks, counts.requests, counts.events) == (7, 3, 3, 5)


def test_the_window_decides(tmp_path: Path) -> None:
    """A late click is no click and is counted; without a click, rows wait for the window's end."""
    events = [
        event("a", WINDOW + 1, index=10, label=1),
        event("a", 5.0, index=11, label=1),
        event("a", WINDOW + 99, index=12, label=1, time=START + 1),
    ]
    log = write(tmp_path / "log", [request("a")], events)
    labels, counts = joined(log)
    assert labels == {("a", 1): 0, ("a", 2): 1, ("a", 3): 1}
    assert counts.late == 1
    early, counts = joined(log, now=START + WINDOW)
    assert early == {("a", 2): 1, ("a", 3): 1}
    assert counts.open == 1


def test_only_what_was_shown_is_a_row(tmp_path: Path) -> None:
    """Where any event says shown, those with an event; else the first places, or all."""
    requests = [request("a", 5), request("b", 5)]
    log = write(tmp_path / "log", requests, [event("a", index=13, label=1)])
    assert len(joined(log)[0]) == 10
    labels, counts = joined(log, shown=2)
    assert set(labels) == {("a", 1), ("a", 2), ("a", 4), ("b", 1), ("b", 2)}
    assert counts.not_shown == 5
    events = [event("a", index=13, label=1), event("a", index=10, shown=True)]
    log = write(tmp_path / "shown", requests, events)
    assert joined(log, shown=2)[0] == {("a", 1): 0, ("a", 4): 1}


def test_the_same_event_twice_counts_once(tmp_path: Path) -> None:
    """Callers send again what was not answered."""
    log = write(tmp_path / "log", [request("a")], [event("a", index=10, label=1)] * 3)
    labels, counts = joined(log)
    assert labels == {("a", 1): 1, ("a", 2): 0, ("a", 3): 0}
    assert (counts.events, counts.clicks) == (3, 1)


def test_events_of_nothing_are_told(tmp_path: Path) -> None:
    """Orphans are of requests that are not logged; unmatched ones of candidates that are not."""
    events = [event("a", index=99, label=1), event("gone", index=1, label=1)]
    _, counts = joined(write(tmp_path / "log", [request("a")], events))
    assert (counts.orphaned, counts.unmatched, counts.clicks) == (1, 1, 0)


def test_a_repeated_request_id_is_told(tmp_path: Path) -> None:
    """Two requests of one id cannot be told apart: the first is kept."""
    again = request("a", 5, time=START + 3)
    labels, counts = joined(write(tmp_path / "log", [request("a"), again]))
    assert len(labels) == 3
    assert counts.repeated == 1


def test_a_request_of_two_bundles_is_one(tmp_path: Path) -> None:
    """Instances of a /predict that belonged to two bundles have a line of each; all are rows."""
    halves = [
        LoggedRequest(START, "a", version, "predict", {}, [""], [
            LoggedCandidate(0.5, 0.0, "", index, None, None, {"user": index})
        ])
        for index, version in enumerate(("v1", "v2"))
    ]  # fmt: skip
    events = [event("a", index=1, label=1), event("a", index=5, label=1)]
    out = tmp_path / "rows.parquet"
    counts = join([write(tmp_path / "log", halves, events)], out, WINDOW, LATER)
    frame = pl.read_parquet(out).sort("user")
    assert frame["click"].to_list() == [0, 1]
    assert (counts.requests, counts.repeated, counts.unmatched, counts.orphaned) == (1, 0, 1, 0)


def test_an_item_that_had_changed_gives_no_row(tmp_path: Path) -> None:
    """Without its values there is nothing to train on."""
    changed = request("a", 2)
    changed.candidates[1] = LoggedCandidate(0.5, 0.0, "", 11, "b", 2)
    labels, counts = joined(write(tmp_path / "log", [changed]))
    assert set(labels) == {("a", 1)}
    assert counts.without_values == 1


def test_columns_hold_every_type_of_a_field(tmp_path: Path) -> None:
    """Integers and their text become text, whole and broken numbers become numbers, null stays."""
    values = [
        {"user": 7, "age": 3, "tags": ["a"], "when": 5, "big": 2**64 - 1, "gone": None},
        {"user": "x", "age": 2.5, "tags": [], "when": 2**60, "big": 1, "odd": {"a": 1}},
        {"user": None, "age": None, "tags": None, "mixed": 3, "yes": True},
        {"mixed": ["a"]},
    ]
    requests = [request(str(n), 1, **each) for n, each in enumerate(values)]
    counts = join([write(tmp_path / "log", requests)], tmp_path / "rows.parquet", WINDOW, LATER)
    frame = pl.read_parquet(tmp_path / "rows.parquet").sort("served_request_id")
    assert frame["user"].to_list() == ["7", "x", None, "7"]
    assert frame["age"].to_list() == [3.0, 2.5, None, None]
    assert frame["tags"].to_list() == [["a"], [], None, None]
    assert frame["when"].to_list() == [5, 2**60, None, None]
    assert frame["big"].to_list() == [str(2**64 - 1), "1", None, None]
    assert frame["yes"].to_list() == [None, None, True, None]
    assert frame["gone"].to_list() == [None] * 4
    assert frame["time"].to_list() == [int(START)] * 4
    assert counts.unusable == ["mixed", "odd"]
    assert not {"mixed", "odd"} & set(frame.columns)


def test_parts_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into many parts on the disk, or into one: the same rows; events may come first."""
    drawn = random.Random(4)
    requests = [request(f"r{n}", drawn.randrange(1, 8), START + n) for n in range(400)]
    events = [
        event(
            f"r{drawn.randrange(440)}",
            drawn.randrange(4000),
            index=drawn.randrange(10, 18),
            label=1,
        )
        for _ in range(900)
    ]
    whole = joined(write(tmp_path / "log", requests, events))
    monkeypatch.setattr(joining, "PART_BYTES", 2_000)
    monkeypatch.setattr(joining, "CHUNK_ROWS", 100)
    drawn.shuffle(requests)
    several = tmp_path / "several"
    write(several, requests[:100], events[500:], "1")
    write(several, requests[100:], events[:500], "2")
    assert joined(several) == whole
    assert whole[1].late > 10
    assert whole[1].orphaned > 10


def test_a_file_that_is_cut_short_gives_what_is_whole(tmp_path: Path) -> None:
    """A service that was killed, or writes just now, leaves half a line at the end."""
    log = write(tmp_path / "log", [request("a"), request("b")], [event("a", index=10, label=1)])
    events = log / "events-1.jsonl"
    events.write_bytes(events.read_bytes() + b'{"received": 1, "ev')
    member = gzip.compress(encode_line(request("c")) + b"\n")
    path = log / "requests-1.jsonl.gz"
    path.write_bytes(path.read_bytes() + member[: len(member) // 2])
    path.rename(log / "requests-1.jsonl.gz.open")
    labels, counts = joined(log)
    assert {name for name, _ in labels} == {"a", "b"}
    assert counts.clicks == 1
    assert counts.cut_short == 2


def test_logs_of_other_labels_are_joined_apart(tmp_path: Path) -> None:
    """One table has one label."""
    log = write(tmp_path / "log", [LoggedBundle("v2", "bought", None), request("a")])
    with pytest.raises(JoinError, match="v1: click, time; v2: bought, None"):
        joined(log)
    assert not list(tmp_path.glob("rows*"))


def test_directories_without_requests_are_told(tmp_path: Path) -> None:
    """By name."""
    with pytest.raises(FeedbackDataError, match="absent: there is no such directory"):
        join([tmp_path / "absent"], tmp_path / "rows.parquet", WINDOW, LATER)
    with pytest.raises(FeedbackDataError, match="no requests are logged in"):
        join([tmp_path], tmp_path / "rows.parquet", WINDOW, LATER)


@pytest.mark.slow
def test_join_is_a_command(tmp_path: Path) -> None:
    """It says what it did, on standard error and as JSON; wrong options are named."""
    log = write(tmp_path / "log", [request("a")], [event("a", index=10, label=1)])
    words = ["model", "join", str(log), "--out", str(tmp_path / "rows.parquet")]
    done = run(*words, "--window", "30m", "--json", str(tmp_path / "counts.json"))
    assert done.returncode == 0, done.stderr
    assert "3 rows, 1 clicks (33.33%), from 1 requests" in done.stderr
    assert json.loads((tmp_path / "counts.json").read_text())["rows"] == 3
    assert len(rows(tmp_path / "rows.parquet")) == 3
    for wrong in (["--window", "soon"], ["--until", "soon"], ["--shown", "0"]):
        refused = run(*words, *wrong)
        assert refused.returncode == 2
        assert "error: Invalid value" in refused.stderr
    early = run(*words, "--until", "1970-01-12T13:50:00+00:00")
    assert "2 candidates whose window has not passed" in early.stderr
