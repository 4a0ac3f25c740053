"""Starting, refusing to start, telling the truth while serving, and stopping."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import onnxruntime
import pytest

from app.errors import ProviderError
from app.scoring.engine import refuse_mixed_distributions
from app.workers.cpus import cpu_quota
from tests.conftest import PATIENT_MS, Sample, StartService
from tests.support.held_service import PROGRAM, VARIABLE, Held, told_by
from tests.support.patient_service import PATIENT_APP
from tests.support.samples import candidate_of, context_of
from tests.support.serving import Service, Wire, run_to_end, strict, wait_until

pytestmark = pytest.mark.e2e

NO_CUDA = "CUDAExecutionProvider" not in onnxruntime.get_available_providers()
NO_DEVICE = {"CUDA_VISIBLE_DEVICES": "-1"}
PATIENCE = 30.0
"""Seconds after which a service counts as held for ever."""


def only_error(output: str) -> dict[str, Any]:
    """The one error line of a log."""
    events = [json.loads(line) for line in output.splitlines()]
    (error,) = (event for event in events if event["level"] == "error")
    assert "traceback" not in error
    return dict(error)


# The provider in use.


def test_cuda_is_refused_where_there_is_none(tiny_bundle: Path) -> None:
    """CTR_PROVIDER=cuda without a usable GPU ends non-zero with one clear line."""
    ended = run_to_end(tiny_bundle, env={**NO_DEVICE, "CTR_PROVIDER": "cuda"})
    assert ended.returncode == 1
    assert "CUDA was asked for and cannot be used" in only_error(ended.stderr)["message"]


def test_auto_serves_on_cpu_and_says_why(start_service: StartService, sample: Sample) -> None:
    """Without a GPU, auto serves; log, /ready, /model and /metrics name the provider in use."""
    service = start_service(env=NO_DEVICE, provider="auto")
    assert len(service.predict(sample.rows[:3])) == 3
    for path in ("/ready", "/model"):
        shown = strict(service.client.get(path).content)
        assert shown["provider"] == "CPUExecutionProvider"
        assert "CUDA" in shown["provider_fallback"]
    service.wait_told("ready: bundle")
    (line,) = (e["message"] for e in service.events() if e["message"].startswith("ready:"))
    assert "CPUExecutionProvider (not CUDA: " in line
    metrics = service.metrics()
    (info,) = (name for name in metrics if name.startswith("ctr_bundle_info"))
    assert 'provider="CPUExecutionProvider"' in info


def test_a_metric_tells_the_fallback(start_service: StartService) -> None:
    """A fleet's dashboard shows who wanted CUDA and does without, and why."""
    service = start_service(env=NO_DEVICE, provider="auto")
    assert any("cuda" in name.lower() for name in service.metrics())


def test_cpu_is_no_fallback_where_it_was_asked_for(start_service: StartService) -> None:
    """Where CPU was asked for, nothing is reported as fallen back."""
    service = start_service(provider="cpu")
    ready = service.client.get("/ready").json()
    assert (ready["provider"], ready["provider_fallback"]) == ("CPUExecutionProvider", None)


def test_both_onnxruntime_distributions_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two distributions of onnxruntime are refused: which one is imported would be an accident."""
    refuse_mixed_distributions()
    for name in ("onnxruntime", "onnxruntime_gpu"):
        fake = tmp_path / f"{name}-1.0.dist-info"
        fake.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n"
        (fake / "METADATA").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ProviderError, match="both installed"):
        refuse_mixed_distributions()


# Refusing to start.


def copy_of(bundle: Path, directory: Path) -> Path:
    return Path(shutil.copytree(bundle, directory / bundle.name))


@pytest.mark.parametrize(
    "name", ["score.onnx", "features.toml", "examples.jsonl", "vocabulary/layout.json"]
)
def test_an_altered_bundle_is_refused(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    """One changed byte anywhere: exit code 1, and the log names the file."""
    bundle = copy_of(tiny_bundle, tmp_path)
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    ended = run_to_end(bundle)
    assert ended.returncode == 1
    assert name in only_error(ended.stderr)["message"]


@pytest.mark.parametrize("damage", ["absent", "truncated", "extra"])
def test_an_incomplete_bundle_is_refused(tiny_bundle: Path, tmp_path: Path, damage: str) -> None:
    """A file that is missing, cut or too much is named."""
    bundle = copy_of(tiny_bundle, tmp_path)
    graph = bundle / "score.onnx"
    if damage == "absent":
        graph.unlink()
    elif damage == "truncated":
        graph.write_bytes(graph.read_bytes()[:-100])
    else:
        graph = bundle / "score.int8.onnx"
        graph.write_bytes(b"")
    ended = run_to_end(bundle)
    assert ended.returncode == 1
    assert graph.name in only_error(ended.stderr)["message"]


def test_a_missing_bundle_is_refused(tmp_path: Path) -> None:
    """No such directory, or nothing in it: exit code 1 and the path."""
    for path in (tmp_path / "nowhere", tmp_path):
        ended = run_to_end(path)
        assert ended.returncode == 1
        assert str(path) in only_error(ended.stderr)["message"]


def test_the_newest_complete_bundle_of_a_directory_serves(
    start_service: StartService, tiny_bundle: Path
) -> None:
    """A directory of bundles is a choice too; the report beside a bundle is none."""
    assert (tiny_bundle.with_name(f"{tiny_bundle.name}.report")).is_dir()
    service = start_service(tiny_bundle.parent)
    assert service.client.get("/ready").json()["version"] == tiny_bundle.name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("port", "abc"),
        ("provider", "tpu"),
        ("max_batch_rows", "0"),
        ("deadline_ms", "-1"),
        ("batch_linger_us", "1.5"),
        ("unknown_fields", "maybe"),
        ("drain_seconds", "0"),
    ],
)
def test_a_bad_setting_is_named(tmp_path: Path, name: str, value: str) -> None:
    """Exit code 2, and a line that names the setting and shows no trace."""
    ended = run_to_end(tmp_path, env={f"CTR_{name.upper()}": value}, **(
        {} if name != "port" else {"port": value}
    ))  # fmt: skip
    assert ended.returncode == 2
    assert f"setting {name}: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_needed_setting_is_named() -> None:
    """Without a bundle there is nothing to serve."""
    ended = run_to_end(None)
    assert ended.returncode == 2
    assert "setting bundle: " in ended.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_connection_is_served(
    tiny_bundle: Path, sample: Sample, tmp_path: Path, workers: int
) -> None:
    """Who listens can score: a proxy that asks for no readiness sends requests at once."""
    settings = {"workers": workers, "deadline_ms": PATIENT_MS}
    service = Service(tiny_bundle, tmp_path / "log", program=PATIENT_APP, **settings)
    try:
        answer = None
        while answer is None:
            assert service.process.poll() is None, service.log()
            try:
                answer = service.post("/predict", {"instances": sample.rows[:1]})
            except httpx.ConnectError:
                continue
        assert answer.status_code == 200, answer.text
    finally:
        assert service.stop() == 0


@pytest.fixture
def loading(tiny_bundle: Path, tmp_path: Path) -> Iterator[tuple[Service, Path]]:
    """A service whose bundle is loaded only when a file is gone."""
    hold = tmp_path / "hold"
    hold.touch()
    service = Service(tiny_bundle, tmp_path / "log", {VARIABLE: str(hold)}, PROGRAM)
    try:
        wait_until(told_by(hold).exists, "it loads", PATIENCE)
        yield service, hold
    finally:
        hold.unlink(missing_ok=True)
        assert service.stop() == 0


def test_a_long_load_is_told(loading: tuple[Service, Path]) -> None:
    """After some seconds the service listens in any case, and says why it is not ready."""
    service, hold = loading

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", service.port)) == 0

    wait_until(listens, "it listens", PATIENCE)
    assert service.client.get("/live").status_code == 200
    answer = service.client.get("/ready")
    assert answer.status_code == 503
    assert "the bundle is still being loaded" in answer.text
    hold.unlink()
    service.wait_ready()


def test_sigterm_while_it_loads_is_no_failure(loading: tuple[Service, Path]) -> None:
    """The service ends with 0 and without a complaint, before it has listened or after."""
    service, hold = loading
    service.ask_to_end()
    hold.unlink()
    assert service.exit_code() == 0
    assert not [event for event in service.events() if event["level"] not in ("info", "warning")]


def test_an_unknown_flag_is_refused(tiny_bundle: Path) -> None:
    """A mistyped flag is no silent default."""
    ended = run_to_end(tiny_bundle, max_batch_row=3)
    assert ended.returncode == 2
    assert "max-batch-row" in ended.stderr


def test_a_mistyped_variable_is_named(start_service: StartService) -> None:
    """A variable that only looks like a setting is told in the log; the service serves."""
    service = start_service(env={"CTR_PROVDER": "cuda"})
    (line,) = (e for e in service.events() if "CTR_PROVDER" in e["message"])
    assert line["level"] == "warning"


@pytest.mark.parametrize("path", ["/live", "/ready", "/model", "/metrics", "/openapi.json"])
def test_head_is_get_without_the_body(service: Service, path: str) -> None:
    """Load balancers ask so: status and headers of GET, and nothing after them."""
    head, get = service.client.head(path), service.client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_a_port_in_use_ends_non_zero(tiny_bundle: Path) -> None:
    """A service that cannot listen does not stay."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = run_to_end(tiny_bundle, taken.getsockname()[1])
    assert ended.returncode not in (0, -signal.SIGTERM)
    assert "address already in use" in ended.stderr


# Stopping.


def test_accepted_requests_are_answered_after_sigterm(
    start_service: StartService, sample: Sample, tmp_path: Path
) -> None:
    """Requests that wait in the queue when SIGTERM comes get their scores; then it ends with 0."""
    held = Held(start_service, tmp_path, drain_seconds=60)
    service = held.service
    body = json.dumps({"instances": sample.rows[:2]}).encode()

    async def run() -> list[tuple[int, bytes]]:
        idle = await Wire.open(service.port)
        await idle.post("/predict", b"{}")
        wires = [await Wire.open(service.port) for _ in range(20)]
        held.hold()
        wires[0].send("/predict", body)
        await asyncio.to_thread(held.wait_held)
        for wire in wires[1:]:
            wire.send("/predict", body)
        await asyncio.to_thread(
            wait_until, lambda: service.metrics()["ctr_queued_rows"] == 38, "all other rows wait"
        )
        service.client.close()
        service.terminate()
        assert await idle.closed(), "an idle connection is closed"
        held.release()
        answers = [await wire.answer() for wire in wires]
        for wire in (idle, *wires):
            await wire.close()
        return answers

    answers = asyncio.run(run())
    assert [status for status, _ in answers] == [200] * 20
    assert all(len(strict(content)["predictions"]) == 2 for _, content in answers)
    assert service.process.wait(PATIENCE) == 0
    assert "Traceback" not in service.log()


def test_sigterm_under_load_loses_nothing_that_was_read(
    start_service: StartService, sample: Sample
) -> None:
    """Under steady load each request is answered with 200, or its connection closes unread."""
    service = start_service()
    body = json.dumps({"instances": sample.rows[:1]}).encode()
    cut: list[bytes] = []
    answered = 0

    async def caller(busy: asyncio.Event) -> None:
        nonlocal answered
        wire = await Wire.open(service.port)
        while True:
            try:
                status, content = await wire.post("/predict", body)
            except ConnectionError:
                break
            except asyncio.IncompleteReadError as error:
                cut.append(error.partial)
                break
            assert status == 200, content
            answered += 1
            if answered == 500:
                busy.set()
        await wire.close()

    async def run() -> None:
        busy = asyncio.Event()
        callers = [asyncio.create_task(caller(busy)) for _ in range(8)]
        await busy.wait()
        service.terminate()
        await asyncio.gather(*callers)

    asyncio.run(run())
    assert not any(cut), "an answer was cut"
    assert service.process.wait(PATIENCE) == 0
    assert "Traceback" not in service.log()


def test_an_open_body_cannot_hold_the_exit(start_service: StartService) -> None:
    """A caller that never finishes its body is waited for as long as the setting says."""
    service = start_service(drain_seconds=1)
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        head = "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
        connection.sendall(head.encode())
        service.client.get("/live")
        service.terminate()
        assert service.process.wait(PATIENCE) == 0


def test_a_second_sigterm_does_not_wait(start_service: StartService) -> None:
    """The drain may be cut short by asking again."""
    service = start_service(drain_seconds=60)
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        head = "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
        connection.sendall(head.encode())
        service.client.get("/live")
        service.terminate()
        wait_until(lambda: refuses(service.port), "it listens no more")
        service.terminate()
        assert service.process.wait(PATIENCE) == 0


def refuses(port: int) -> bool:
    """Return whether nobody listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


# What the metrics tell.


def test_metrics_agree_with_what_was_sent(start_service: StartService, sample: Sample) -> None:
    """Requests by outcome, rows, and missing and unseen values by slot add up exactly."""
    service = start_service(max_batch_rows=64)
    full = max(sample.rows, key=len)
    unseen = {**full, "user_id": 3, "country": "never", "tags": ["news", "never"]}
    missing = {"placement": full["placement"]}
    shown = [{"features": candidate_of(row)} for row in (full, unseen, missing)] * 50
    # Before the short requests: beside those a list has shorter runs.
    service.rank(context=context_of(unseen), candidates=shown)
    for row in (full, unseen, missing):
        service.predict([row])
    service.rank(context=context_of(full), candidates=[])
    assert service.post("/predict", b"{").status_code == 400
    assert service.post("/rank", {"context": {}}).status_code == 422
    assert service.client.post("/rank", headers={"content-type": "a/b"}).status_code == 415

    found = service.metrics()
    requests = {
        name.split("{")[1]: count
        for name, count in found.items()
        if name.startswith("ctr_requests_total") and count and "operation" not in name
    }
    assert requests == {
        'outcome="200",route="predict"}': 3,
        'outcome="400",route="predict"}': 1,
        'outcome="200",route="rank"}': 2,
        'outcome="415",route="rank"}': 1,
        'outcome="422",route="rank"}': 1,
    }
    assert found["ctr_rows_total"] == found["ctr_batch_rows_sum"] == 153
    assert found['ctr_batch_rows_bucket{le="64"}'] == found["ctr_batch_rows_count"] == 3 + 3
    assert found['ctr_batch_rows_bucket{le="1"}'] == 3
    assert found["ctr_queued_rows"] == found["ctr_abandoned_requests"] == 0
    assert found['ctr_request_seconds_count{route="predict",status="2xx"}'] == 3
    assert found['ctr_request_seconds_count{route="predict",status="4xx"}'] == 1

    def slots(metric: str) -> dict[str, float]:
        return {
            name.split('"')[1]: count
            for name, count in found.items()
            if name.startswith(metric) and count
        }

    absent = ("country", "user_id", "age", "time.hour", "time.weekday")
    assert slots("ctr_missing_values_total") == {
        **dict.fromkeys(absent, 1),
        **dict.fromkeys(("item_id", "tags", "price", "quality"), 51),
    }
    assert slots("ctr_oov_values_total") == {"user_id": 151, "country": 151, "tags": 51}


def test_a_list_counts_once_as_unseen(start_service: StartService, sample: Sample) -> None:
    """A list with several unseen values is one OOV, as in the manifest's statistics."""
    service = start_service()
    service.predict([{**sample.rows[0], "tags": ["never", "never seen", "never again"]}])
    assert service.metrics()['ctr_oov_values_total{slot="tags"}'] == 1


def test_probes_answer_and_the_model_is_described(service: Service, tiny_bundle: Path) -> None:
    """/live, /ready, /model and /openapi.json answer with what is really loaded."""
    manifest = json.loads((tiny_bundle / "manifest.json").read_bytes())
    assert service.client.get("/live").json() == {"status": "live"}
    assert service.client.get("/ready").json()["version"] == tiny_bundle.name
    model = strict(service.client.get("/model").content)
    assert (model["id"], model["metrics"]) == (manifest["id"], manifest["metrics"])
    assert model["golden_examples_worst_difference"] <= model["tolerance"]
    described = service.client.get("/openapi.json").json()
    assert {"/predict", "/rank", "/ready"} <= set(described["paths"])


def test_departed_callers_are_counted_and_cost_nothing(
    start_service: StartService, sample: Sample, tmp_path: Path
) -> None:
    """Requests whose callers close while they wait never reach the engine, and are no 5xx."""
    held = Held(start_service, tmp_path)
    service = held.service
    body = json.dumps({"instances": sample.rows[:1]}).encode()

    async def run() -> None:
        first, *wires = [await Wire.open(service.port) for _ in range(31)]
        held.hold()
        first.send("/predict", body)
        await asyncio.to_thread(held.wait_held)
        for wire in wires:
            wire.send("/predict", body)
        await asyncio.to_thread(
            wait_until, lambda: service.metrics()["ctr_queued_rows"] == 30, "all rows wait"
        )
        before = held.descriptors()
        for wire in wires:
            await wire.close()
        await asyncio.to_thread(
            wait_until, lambda: held.descriptors() <= before - 30, "their leaving is noticed"
        )
        held.release()
        assert (await first.answer())[0] == 200
        await first.close()

    asyncio.run(run())
    wait_until(lambda: service.metrics()["ctr_queued_rows"] == 0, "the queue is empty")
    found = service.metrics()
    assert found["ctr_abandoned_requests"] == 30
    assert found["ctr_rows_total"] == 1, "of the caller who stayed"
    assert not any(
        found[f'ctr_requests_total{{outcome="{c}",route="predict"}}'] for c in (500, 503)
    )


def test_the_engine_follows_the_cpu_quota(start_service: StartService) -> None:
    """Engine threads are the CPUs that this process may use, or the setting, and are told."""
    ready = start_service(engine_threads=1).client.get("/ready").json()
    assert ready["engine_threads"] == 1
    service = start_service()
    ready = service.client.get("/ready").json()
    assert 1 <= ready["engine_threads"] <= len(os.sched_getaffinity(0))
    service.wait_told("ready: bundle")
    (line,) = (e["message"] for e in service.events() if e["message"].startswith("ready:"))
    assert f" {ready['engine_threads']} engine threads for {cpu_quota()} CPUs" in line


def test_no_thread_comes_from_the_size_of_the_machine(start_service: StartService) -> None:
    """A process has as many threads on one CPU as on all, and one more for each asked for."""
    pinned = (
        "import os, runpy; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        " runpy.run_module('app', run_name='__main__', alter_sys=True)"
    )
    one_cpu = start_service(program=(sys.executable, "-c", pinned), engine_threads=1)
    all_cpus = start_service(engine_threads=1)
    # A thread that has loaded the bundle may still be about to end.
    wait_until(lambda: one_cpu.threads() == all_cpus.threads(), "as many on one CPU as on all")
    more = start_service(engine_threads=4)
    wait_until(lambda: more.threads() == all_cpus.threads() + 3, "one more for each")
