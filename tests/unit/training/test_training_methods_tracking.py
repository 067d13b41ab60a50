"""What MLflow hears of a run, in the run folder and on a server, and what happens when the server is away."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from mlflow.tracking import MlflowClient

from tandem.config import mlflow_tracking_uri
from tests.fakes.training_runs import method, run, write_inputs
from training.methods import Journal, MethodError
from training.methods.energy import Meter
from training.methods.provenance import code_version
from training.methods.tracking import MlflowTracker


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    write_inputs(tmp_path)
    return tmp_path


def client_of(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_run_folder_keeps_a_store_of_its_own(inputs: Path) -> None:
    done = run(inputs, inputs / "run", method(), tracking=None)
    tracked = done.run.record["tracking"]
    assert tracked["complete"]
    client = client_of(f"sqlite:///{inputs / 'run/mlflow.db'}")
    found = client.get_run(tracked["run_id"])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    record = done.run.record
    wanted = {
        "method.rank": "4",
        "method.seed": "17",
        "data.facts.jsonl": "5" * 64,
        "dataset.sha256": record["dataset"]["sha256"],
        "base.sha256": record["base"]["sha256"],
        "code_version": code_version(),
    }
    assert {key: found.data.params[key] for key in wanted} == wanted
    losses = {metric.step: metric.value for metric in client.get_metric_history(tracked["run_id"], "loss")}
    assert losses == {row["step"]: row["loss"] for row in Journal.read(done.run.journal) if "loss" in row}
    assert {"validation_loss", "energy_kwh", "minutes", "learning_rate"} <= set(found.data.metrics)
    artefacts = {item.path for item in client.list_artifacts(tracked["run_id"], "adapter")}
    assert "adapter/adapter_model.safetensors" in artefacts
    assert {"run.json", "metrics.jsonl"} <= {item.path for item in client.list_artifacts(tracked["run_id"])}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_resumed_run_goes_on_in_the_same_record(inputs: Path) -> None:
    class Fallen(Exception):
        pass

    def fall(progress: Any) -> None:
        if progress.step == 6:
            raise Fallen

    with pytest.raises(Fallen):
        run(inputs, inputs / "run", method(), tracking=None, on_progress=fall)
    done = run(inputs, inputs / "run", method(), tracking=None, resume=True)
    client = client_of(f"sqlite:///{inputs / 'run/mlflow.db'}")
    (only,) = client.search_runs([client.get_experiment_by_name("tandem").experiment_id])
    assert (only.info.run_id, only.info.status) == (done.run.record["tracking"]["run_id"], "FINISHED")
    assert {metric.step for metric in client.get_metric_history(only.info.run_id, "loss")} == set(range(1, 13))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_a_killed_run_had_not_told_is_told_when_it_goes_on(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fall(progress: Any) -> None:
        if progress.step == 8:
            raise KeyboardInterrupt

    # A process that is killed tells nothing any more: neither what waits nor its end.
    with monkeypatch.context() as killed:
        killed.setattr(MlflowTracker, "_flush", lambda self: False)
        killed.setattr(MlflowTracker, "_send", lambda self, work: False)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, inputs / "run", method(checkpoint_steps=3), tracking=None, on_progress=fall)
    done = run(inputs, inputs / "run", method(checkpoint_steps=3), tracking=None, resume=True)
    client = client_of(f"sqlite:///{inputs / 'run/mlflow.db'}")
    told = [metric.step for metric in client.get_metric_history(done.run.record["tracking"]["run_id"], "loss")]
    assert sorted(told) == list(range(1, 13))
    assert done.run.record["tracking"]["complete"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_that_was_killed_after_its_result_has_its_record_ended(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as killed:
        killed.setattr(MlflowTracker, "finish", kill)
        with pytest.raises(Killed):
            run(inputs, inputs / "run", method(), tracking=None)
    done = run(inputs, inputs / "run", method(), tracking=None, resume=True)
    client = client_of(f"sqlite:///{inputs / 'run/mlflow.db'}")
    found = client.get_run(done.run.record["tracking"]["run_id"])
    assert found.info.status == "FINISHED"
    assert {"energy_kwh", "minutes"} <= set(found.data.metrics)
    assert client.list_artifacts(found.info.run_id, "adapter")
    assert not (inputs / "run" / "checkpoints").exists()


class Server(ThreadingHTTPServer):
    """Is as much of an MLflow server as a run needs; `away` lets it answer nothing but an error."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.away = False
        # MLflow remembers a run's place by its id, whatever server it was on: each server's run has its own.
        self.run_id = f"r{self.server_port}"

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._answer({key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({})

    def _answer(self, body: dict[str, Any]) -> None:
        call = urlsplit(self.path).path.rsplit("/mlflow/")[-1]
        run = {"run_id": self.server.run_id, "run_uuid": self.server.run_id, "experiment_id": "7"}
        answers: dict[str, Any] = {
            "experiments/get-by-name": {"experiment": {"experiment_id": "7", "name": "tandem"}},
            "runs/create": {"run": {"info": run, "data": {}}},
            "runs/get": {"run": {"info": run | {"artifact_uri": f"mlflow-artifacts:/7/{self.server.run_id}"}}},
        }
        self.server.calls.append((call, body))
        answer = json.dumps(answers.get(call, {})).encode()
        self.send_response(500 if self.server.away else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_a_server_hears_of_everything_by_its_uri(inputs: Path, server: Server) -> None:
    done = run(inputs, inputs / "run", method(), tracking=server.uri)
    tracked = {"asked": server.uri, "uri": server.uri, "run_id": server.run_id, "complete": True}
    assert done.run.record["tracking"] == tracked
    sent = [row for call, body in server.calls if call == "runs/log-batch" for row in body.get("metrics", [])]
    assert [row["step"] for row in sent if row["key"] == "loss"] == list(range(1, 13))
    assert not (inputs / "run/mlflow.db").exists()


def test_a_server_that_goes_away_costs_its_copy_and_not_the_run(
    inputs: Path, server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("training.methods.tracking._FLUSH_S", 0.0)

    def leave(progress: Any) -> None:
        server.away = progress.step >= 3

    with caplog.at_level(logging.WARNING, logger="training.methods.tracking"):
        done = run(inputs, inputs / "run", method(), tracking=server.uri, on_progress=leave)
    assert done.run.record["tracking"]["complete"] is False
    assert len([record for record in caplog.records if "is away" in record.message]) == 1
    assert {row["step"] for row in Journal.read(done.run.journal)} == set(range(13))


def test_what_a_server_missed_is_sent_when_it_is_back(
    inputs: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("training.methods.tracking._FLUSH_S", 0.0)
    monkeypatch.setattr("training.methods.tracking._RETRY_S", 0.0)

    def leave(progress: Any) -> None:
        server.away = 3 <= progress.step < 9
        if server.away:
            server.calls.clear()

    done = run(inputs, inputs / "run", method(), tracking=server.uri, on_progress=leave)
    assert done.run.record["tracking"]["complete"]
    sent = [row for call, body in server.calls if call == "runs/log-batch" for row in body.get("metrics", [])]
    assert set(range(4, 13)) <= {row["step"] for row in sent if row["key"] == "loss"}


def test_a_server_that_is_away_at_the_start_is_said_at_once(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MethodError, match="unset MLFLOW_TRACKING_URI"):
        run(inputs, inputs / "run", method(), tracking="http://127.0.0.1:9")
    with pytest.raises(MethodError, match="ftp://nowhere cannot be used"):
        run(inputs, inputs / "run", method(), tracking="ftp://nowhere", resume=True)
    assert run(inputs, inputs / "run", method(), tracking="off", resume=True).resumed_from is None


def test_the_uri_comes_from_the_standard_variable() -> None:
    assert mlflow_tracking_uri({"MLFLOW_TRACKING_URI": "http://mlflow:5000"}) == "http://mlflow:5000"
    assert mlflow_tracking_uri({"MLFLOW_TRACKING_URI": ""}) is None


def test_a_meter_can_be_read_on_the_way_and_says_what_it_is() -> None:
    meter = Meter(seconds=60)
    meter.start()
    first = meter.read()
    last = meter.stop()
    assert 0 <= first.kwh <= last.kwh
    assert last.source in ("metered", "estimated")
    assert meter.stop() == last
